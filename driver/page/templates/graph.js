// The graph on a canvas: its state after each pass, places, marks of what changed, and what a click shows.
const FIELDS = ["name", "operator", "module", "source", "type", "reads", "attributes", "precision", "weights"];
const COUNTS = ["parameters", "bytes", "flops", "elements", "zeros"];

/** The nodes after each recorded step, as maps of names to nodes, made when they are asked for. */
class States {
  constructor({ texts, steps }) {
    this.texts = texts;
    this.steps = steps;
    this.made = [];
  }

  get count() {
    return this.steps.length;
  }

  /** What a step is called: the pass, or a row of passes that were taken together. */
  label(step) {
    const names = this.steps[step].numbers.map((number) => DATA.steps[number]);
    return names.length > 3 ? `${names[0]} … ${names[names.length - 1]} (${names.length} passes)` : names.join(", ");
  }

  at(step) {
    while (this.made.length <= step) {
      const last = this.made[this.made.length - 1], next = new Map(last), { made, gone } = this.steps[this.made.length];
      for (const name of gone) next.delete(this.texts[name]);
      for (const row of made) next.set(this.texts[row[0]], this.node(row));
      this.made.push(next);
    }
    return this.made[step];
  }

  node(row) {
    const node = { key: row.join() };
    FIELDS.forEach((field, at) => { node[field] = this.texts[row[at]]; });
    COUNTS.forEach((field, at) => { node[field] = row[FIELDS.length + at]; });
    node.kind = kindOf(node.precision);
    node.inputs = row.slice(FIELDS.length + COUNTS.length).map((name) => this.texts[name]);
    return node;
  }
}

/** Nodes with a mark each: "new", "other" or "" against a reference, and those that are gone from it as "gone". */
function marked(now, reference) {
  if (!reference) return now;
  const found = new Map();
  for (const [name, node] of now) {
    const before = reference.get(name);
    found.set(name, { ...node, mark: !before ? "new" : before.key !== node.key ? "other" : "" });
  }
  for (const [name, node] of reference) if (!now.has(name)) found.set(name, { ...node, mark: "gone" });
  return found;
}

function startGraph() {
  const states = new States(DATA.graphs), canvas = byId("canvas"), context = canvas.getContext("2d");
  const slider = byId("step"), marks = byId("marks"), search = byId("search");
  const view = { x: 0, y: 0, scale: 1 };
  let nodes = new Map(), places = new Map(), bounds = { width: 1, height: 1 }, readers = new Map(), chosen = null, matches = [], match = -1;

  function load() {
    const step = Number(slider.value), now = states.at(step);
    const reference = marks.value === "source" ? (step ? states.at(0) : null) : marks.value === "before" && step ? states.at(step - 1) : null;
    nodes = marked(now, reference);
    const made = layOut(nodes, canvas.clientWidth / canvas.clientHeight);
    [places, bounds] = [made.places, made];
    readers = new Map();
    for (const [name, node] of nodes)
      for (const input of node.inputs)
        if (readers.has(input)) readers.get(input).push(name);
        else if (places.has(input)) readers.set(input, [name]);
    byId("step-name").textContent = `${states.label(step)} (${step + 1} of ${states.count})`;
    const counts = { new: 0, other: 0, gone: 0 };
    if (reference) for (const node of nodes.values()) if (node.mark) counts[node.mark]++;
    const ends = [...now.values()].filter((it) => it.operator === "input" || it.operator === "output").length;
    byId("step-note").textContent = `${now.size - ends} nodes` + (reference ? `; ${counts.new} new, ${counts.other} other, ${counts.gone} gone` : "");
    if (chosen && !nodes.has(chosen)) chosen = null;
    find();
    tell();
    legend();
    fit();
  }

  function fit() {
    const margin = 14, wide = canvas.clientWidth - 2 * margin, tall = canvas.clientHeight - 2 * margin;
    view.scale = Math.min(1.25, wide / bounds.width, tall / bounds.height);
    view.x = margin + Math.max(0, (wide - bounds.width * view.scale) / 2);
    view.y = margin + Math.max(0, (tall - bounds.height * view.scale) / 2) + 2;
    redraw();
  }

  function zoom(factor, x = canvas.clientWidth / 2, y = canvas.clientHeight / 2) {
    const scale = Math.min(3, Math.max(0.01, view.scale * factor)), change = scale / view.scale;
    view.x = x - (x - view.x) * change;
    view.y = y - (y - view.y) * change;
    view.scale = scale;
    redraw();
  }

  function show(name) {
    chosen = name;
    const place = places.get(name);
    view.scale = Math.max(view.scale, 0.8);
    tell();
    view.x = canvas.clientWidth / 2 - (place.x + NODE.width / 2) * view.scale;
    view.y = canvas.clientHeight / 2 - (place.y + NODE.height / 2) * view.scale;
    redraw();
  }

  let waiting = false;
  function redraw() {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => { waiting = false; draw(); });
  }

  function draw() {
    const ratio = devicePixelRatio || 1, wide = canvas.clientWidth, tall = canvas.clientHeight;
    if (canvas.width !== Math.round(wide * ratio) || canvas.height !== Math.round(tall * ratio))
      [canvas.width, canvas.height] = [Math.round(wide * ratio), Math.round(tall * ratio)];
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, wide, tall);
    context.translate(view.x, view.y);
    context.scale(view.scale, view.scale);
    const seen = { left: -view.x / view.scale, top: -view.y / view.scale, right: (wide - view.x) / view.scale, bottom: (tall - view.y) / view.scale };
    context.lineWidth = Math.min(2, Math.max(1, 0.7 / view.scale));
    context.strokeStyle = palette.soft;
    context.globalAlpha = 0.55;
    context.beginPath();
    for (const [name, node] of nodes) for (const input of node.inputs) if (places.has(input)) line(input, name, seen, false);
    context.stroke();
    context.globalAlpha = 1;
    for (const [name, node] of nodes) {
      const { x, y } = places.get(name);
      if (x <= seen.right && x + NODE.width >= seen.left && y <= seen.bottom && y + NODE.height >= seen.top) box(name, node, x, y);
    }
    context.globalAlpha = 1;
    if (chosen === null) return;
    context.lineWidth = 2 / view.scale;
    context.strokeStyle = palette.accent;
    context.beginPath();
    for (const input of nodes.get(chosen).inputs) if (places.has(input)) line(input, chosen, seen, true);
    for (const reader of readers.get(chosen) ?? []) line(chosen, reader, seen, true);
    context.stroke();
  }

  /** A line from a node to one that reads it; between lines of the graph just its ends, unless it is to be whole. */
  function line(from, to, seen, isWhole) {
    const a = places.get(from), b = places.get(to), middle = NODE.height / 2;
    const [x1, y1, x2, y2] = [a.x + NODE.width, a.y + middle, b.x, b.y + middle];
    if (Math.max(y1, y2) < seen.top || Math.min(y1, y2) > seen.bottom) return;
    if (a.line !== b.line && !isWhole) {
      context.moveTo(x1, y1);
      context.lineTo(x1 + NODE.across * 0.6, y1);
      context.moveTo(x2 - NODE.across * 0.6, y2);
      context.lineTo(x2, y2);
      return;
    }
    if (Math.max(x1, x2) < seen.left || Math.min(x1, x2) > seen.right) return;
    context.moveTo(x1, y1);
    const bend = Math.min(120, Math.max(16, Math.abs(x2 - x1) / 2));
    if (view.scale < 0.12) context.lineTo(x2, y2);
    else context.bezierCurveTo(x1 + bend, y1, x2 - bend, y2, x2, y2);
  }

  function box(name, node, x, y) {
    const isGone = node.mark === "gone", isEnd = node.operator === "input" || node.operator === "output";
    context.globalAlpha = isGone ? 0.55 : matches.length && !matches.includes(name) ? 0.3 : 1;
    context.fillStyle = isGone || isEnd ? palette.back : palette[node.kind];
    if (view.scale < 0.2 && !ringOf(node) && name !== chosen) return context.fillRect(x, y, NODE.width, NODE.height);
    context.beginPath();
    context.roundRect(x, y, NODE.width, NODE.height, isEnd ? NODE.height / 2 : 5);
    context.fill();
    const ring = ringOf(node) ?? (isEnd ? palette.soft : null);
    if (name === chosen || ring) {
      context.strokeStyle = name === chosen ? palette.accent : ring;
      context.lineWidth = (name === chosen ? 4 : 3) / Math.max(view.scale, 0.35);
      context.setLineDash(isGone ? [6, 4] : []);
      context.stroke();
      context.setLineDash([]);
    }
    if (view.scale > 0.33) {
      context.save();
      context.clip();
      context.fillStyle = isGone || isEnd ? palette.text : palette["node-text"];
      context.font = "600 12px system-ui, sans-serif";
      context.fillText(cut(isEnd ? node.name.replace(/^output:/, "") : node.operator.replace(/^.*::/, ""), 16), x + 8, y + 14);
      context.font = "10px system-ui, sans-serif";
      context.fillText(isEnd ? node.operator : tail(node.module), x + 8, y + 27);
      context.restore();
    }
    context.globalAlpha = 1;
  }

  const ringOf = (node) => ({ new: palette.good, other: palette.amber, gone: palette.bad })[node.mark];
  const cut = (text, most) => (text.length > most ? `${text.slice(0, most - 1)}…` : text);
  const tail = (module) => (module.length > 20 ? `…${module.slice(-19)}` : module);

  function tell() {
    const node = nodes.get(chosen), panel = byId("node"), was = canvas.clientWidth;
    if (!node) panel.replaceChildren();
    else {
      const zeros = node.elements ? `${(100 * node.zeros / node.elements).toFixed(1)} %` : "";
      const facts = [
        ["layer", node.module], ["at", node.source], ["makes", node.type], ["reads constants", node.reads], ["attributes", node.attributes],
        ["precision", node.precision], ["weights", node.weights], ["zeros in weights", zeros],
        ["parameters", node.parameters && node.parameters.toLocaleString("en")], ["bytes", node.bytes && node.bytes.toLocaleString("en")],
        ["FLOPs", node.flops && node.flops.toLocaleString("en")], ["name", node.name],
        ["reads", node.inputs.filter((it) => nodes.has(it)).slice(0, 8).join(", ")], ["read by", (readers.get(chosen) ?? []).slice(0, 8).join(", ")],
        ["change", { new: "new", other: "was other before", gone: "gone" }[node.mark]],
      ].filter(([, value]) => value);
      panel.replaceChildren(element("h3", {}, node.operator), element("dl", {}, ...facts.flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, `${value}`)])));
    }
    if (was !== canvas.clientWidth) redraw();
  }

  function find() {
    const wanted = search.value.trim().toLowerCase();
    matches = wanted ? [...nodes].filter(([, it]) => it.mark !== "gone" && `${it.operator} ${it.module} ${it.name}`.toLowerCase().includes(wanted)).map(([name]) => name) : [];
    match = -1;
  }

  function legend() {
    const there = new Set([...nodes.values()].filter((it) => it.operator !== "input" && it.operator !== "output").map((it) => it.kind));
    const keys = Object.entries(KINDS).filter(([kind]) => there.has(kind));
    const key = (style, text) => element("span", {}, element("i", { class: "key", style }), ` ${text}`);
    const rings = marks.value ? [["good", "new"], ["amber", "other than before"], ["bad", "gone"]] : [];
    byId("legend").replaceChildren(
      ...keys.map(([kind, text]) => key(`background: var(--${kind})`, text)),
      ...rings.map(([colour, text]) => key(`background: none; border: 2px solid var(--${colour})`, text)),
    );
  }

  const nodeAt = (x, y) => {
    const [px, py] = [(x - view.x) / view.scale, (y - view.y) / view.scale];
    for (const [name, place] of places)
      if (px >= place.x && px <= place.x + NODE.width && py >= place.y && py <= place.y + NODE.height) return name;
    return null;
  };

  slider.addEventListener("input", () => {
    if (!marks.value) marks.selectedIndex = 1;
    load();
  });
  marks.addEventListener("change", load);
  search.addEventListener("input", () => { find(); redraw(); });
  const next = () => {
    if (!matches.length) return;
    match = (match + 1) % matches.length;
    show(matches[match]);
  };
  search.addEventListener("keydown", (event) => { if (event.key === "Enter") next(); });
  byId("next").addEventListener("click", next);
  byId("closer").addEventListener("click", () => zoom(1.5));
  byId("farther").addEventListener("click", () => zoom(1 / 1.5));
  byId("fit").addEventListener("click", fit);
  canvas.addEventListener("wheel", (event) => {
    if (!event.ctrlKey && !event.metaKey && document.activeElement !== canvas) return;
    event.preventDefault();
    zoom(Math.exp(-event.deltaY * 0.0015), event.offsetX, event.offsetY);
  }, { passive: false });
  canvas.addEventListener("keydown", (event) => {
    const moves = { ArrowLeft: [80, 0], ArrowRight: [-80, 0], ArrowUp: [0, 80], ArrowDown: [0, -80] };
    if (moves[event.key]) [view.x, view.y] = [view.x + moves[event.key][0], view.y + moves[event.key][1]];
    else if (event.key === "+" || event.key === "-") return zoom(event.key === "+" ? 1.25 : 0.8);
    else if (event.key === "0") return fit();
    else return;
    event.preventDefault();
    redraw();
  });
  const fingers = new Map();
  let moved = 0;
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    fingers.set(event.pointerId, event);
    moved = 0;
  });
  canvas.addEventListener("pointermove", (event) => {
    const before = fingers.get(event.pointerId);
    if (!before) return;
    const [dx, dy] = [event.offsetX - before.offsetX, event.offsetY - before.offsetY];
    moved += Math.abs(dx) + Math.abs(dy);
    const other = [...fingers.values()].find((it) => it.pointerId !== event.pointerId);
    if (other) {
      const apart = (it) => Math.hypot(it.offsetX - other.offsetX, it.offsetY - other.offsetY);
      zoom(apart(event) / Math.max(1, apart(before)), (event.offsetX + other.offsetX) / 2, (event.offsetY + other.offsetY) / 2);
    } else {
      [view.x, view.y] = [view.x + dx, view.y + dy];
      redraw();
    }
    fingers.set(event.pointerId, event);
  });
  for (const end of ["pointerup", "pointercancel"])
    canvas.addEventListener(end, (event) => {
      fingers.delete(event.pointerId);
      if (end !== "pointerup" || moved > 6) return;
      chosen = nodeAt(event.offsetX, event.offsetY);
      tell();
      redraw();
    });
  load();
  draw();
  return { redraw, fit: load };
}
