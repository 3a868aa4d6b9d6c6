// A layered layout in linear time but for sorting within layers: from left to right, in lines that follow one another as in a text.
const NODE = { width: 124, height: 34, across: 36, down: 12, line: 34 };

/** Places for nodes: a map of names to {x, y, line}, and the bounds of all of them.
 *
 * nodes: a map of names to {inputs}. aspect: width by height of what they are drawn on.
 */
function layOut(nodes, aspect) {
  const order = sorted(nodes);
  const layer = layersOf(nodes, order);
  const columns = [];
  for (const name of order) (columns[layer.get(name)] ??= []).push(name);
  const heights = arranged(nodes, columns);
  return wrapped(columns, heights, aspect);
}

/** Names in an order in which nodes come behind what they read; what goes around in a circle comes last. */
function sorted(nodes) {
  const waiting = new Map(), readers = new Map();
  for (const [name, node] of nodes) {
    let count = 0;
    for (const input of node.inputs)
      if (nodes.has(input)) {
        count++;
        if (readers.has(input)) readers.get(input).push(name);
        else readers.set(input, [name]);
      }
    waiting.set(name, count);
  }
  const order = [...nodes.keys()].filter((name) => waiting.get(name) === 0);
  for (let at = 0; at < order.length; at++)
    for (const reader of readers.get(order[at]) ?? []) {
      waiting.set(reader, waiting.get(reader) - 1);
      if (waiting.get(reader) === 0) order.push(reader);
    }
  const seen = new Set(order);
  return [...order, ...[...nodes.keys()].filter((name) => !seen.has(name))];
}

/** The layer of each node: behind all that it reads; of one that reads nothing, before the first that reads it. */
function layersOf(nodes, order) {
  const layer = new Map(), nearest = new Map();
  for (const name of order) {
    let depth = 0;
    for (const input of nodes.get(name).inputs) if (layer.has(input)) depth = Math.max(depth, layer.get(input) + 1);
    layer.set(name, depth);
  }
  for (const name of order)
    for (const input of nodes.get(name).inputs)
      nearest.set(input, Math.min(nearest.get(input) ?? Infinity, layer.get(name) - 1));
  for (const name of order)
    if (!nodes.get(name).inputs.some((input) => nodes.has(input)) && Number.isFinite(nearest.get(name)))
      layer.set(name, Math.max(0, nearest.get(name)));
  return layer;
}

/** The height of each node in its layer, near what it reads, so that chains are straight. */
function arranged(nodes, columns) {
  const height = new Map();
  for (const column of columns) {
    const wanted = column.map((name, at) => {
      const known = nodes.get(name).inputs.filter((input) => height.has(input)).map((input) => height.get(input));
      return { name, y: known.length ? known.reduce((a, b) => a + b, 0) / known.length : null, at };
    });
    const placed = wanted.filter((it) => it.y !== null).sort((a, b) => a.y - b.y || a.at - b.at);
    const free = wanted.filter((it) => it.y === null); // weights and inputs go below
    let last = -Infinity, shift = 0;
    for (const it of placed) {
      last = Math.max(it.y, last + 1);
      height.set(it.name, last);
      shift += last - it.y;
    }
    if (placed.length) shift /= placed.length;
    for (const it of placed) height.set(it.name, height.get(it.name) - shift);
    last = placed.length ? last - shift : -1;
    for (const it of free) height.set(it.name, ++last);
  }
  return height;
}

/** The layers in as many lines as fit the aspect best. */
function wrapped(columns, heights, aspect) {
  const lows = new Float64Array(columns.length).fill(Infinity), highs = new Float64Array(columns.length).fill(-Infinity);
  columns.forEach((column, at) => {
    for (const name of column) {
      const y = heights.get(name);
      if (y < lows[at]) lows[at] = y;
      if (y > highs[at]) highs[at] = y;
    }
  });
  const step = NODE.width + NODE.across, row = NODE.height + NODE.down;
  const lines = (perLine) => {
    const found = [];
    for (let at = 0; at < columns.length; at += perLine) {
      let low = Infinity, high = -Infinity;
      for (let column = at; column < Math.min(at + perLine, columns.length); column++) {
        low = Math.min(low, lows[column]);
        high = Math.max(high, highs[column]);
      }
      found.push([low, (high - low + 1) * row + NODE.line]);
    }
    return found;
  };
  let best = null;
  for (let count = 1; count <= Math.min(columns.length, 80); count++) {
    const perLine = Math.ceil(columns.length / count), made = lines(perLine);
    const width = perLine * step, height = made.reduce((sum, [, tall]) => sum + tall, 0);
    const scale = Math.min(1.25, aspect / width, 1 / height);
    if (best === null || scale > best.scale * 1.02) best = { scale, perLine, made, width, height };
  }
  const places = new Map();
  let top = 0;
  for (let line = 0; line < best.made.length; line++) {
    const [low, tall] = best.made[line];
    for (let at = line * best.perLine; at < Math.min((line + 1) * best.perLine, columns.length); at++)
      for (const name of columns[at])
        places.set(name, { x: (at % best.perLine) * step, y: top + (heights.get(name) - low) * row, line });
    top += tall;
  }
  return { places, width: best.width, height: best.height };
}
