// The table of layers and the treemap of their weights.
const COLUMNS = [
  ["module", (it) => it.module || "(none)", null],
  ["operators", (it) => it.operators, null],
  ["nodes", (it) => `${it.nodes}`, (it) => it.nodes],
  ["weights", (it) => it.weights, null],
  ["zeros", (it) => (it.elements ? `${(100 * it.zeros / it.elements).toFixed(1)} %` : ""), (it) => (it.elements ? it.zeros / it.elements : -1)],
  ["parameters", (it) => showCount(it.parameters), (it) => it.parameters],
  ["size", (it) => showBytes(it.bytes), (it) => it.bytes],
  ["FLOPs", (it) => showCount(it.flops), (it) => it.flops],
];
const FEW = 60;

function startLayers() {
  if (!DATA.layers.length) return;
  let order = null, falls = true, all = DATA.layers.length <= FEW;
  const table = byId("layer-table"), filter = byId("filter");
  const heads = element("tr");
  COLUMNS.forEach(([name, , number], at) => {
    const button = element("button", { type: "button" }, name);
    const head = element("th", { scope: "col", "aria-sort": "none" }, button);
    button.addEventListener("click", () => {
      [order, falls] = [at, order === at ? !falls : number !== null];
      for (const it of heads.children) it.setAttribute("aria-sort", "none");
      head.setAttribute("aria-sort", falls ? "descending" : "ascending");
      fill();
    });
    heads.append(head);
  });
  table.tHead.append(heads);

  function fill() {
    const wanted = filter.value.toLowerCase();
    const found = DATA.layers.filter((it) => `${it.module} ${it.operators} ${it.weights}`.toLowerCase().includes(wanted));
    if (order !== null) {
      const [, text, number] = COLUMNS[order];
      found.sort(number ? (a, b) => number(a) - number(b) : (a, b) => text(a).localeCompare(text(b), "en", { numeric: true }));
      if (falls) found.reverse();
    }
    const shown = all ? found : found.slice(0, FEW);
    table.tBodies[0].replaceChildren(...shown.map((it) => element("tr", {}, ...COLUMNS.map(([, text], at) =>
      at ? element("td", {}, text(it)) : element("th", { scope: "row" }, text(it))))));
    byId("shown").textContent = `${shown.length} of ${DATA.layers.length} layers`;
    byId("more").hidden = shown.length === found.length;
  }

  filter.addEventListener("input", fill);
  byId("more").addEventListener("click", () => { all = true; fill(); });
  fill();
}

/** Layers as a tree by the parts of their paths, with the bytes below each. */
function moduleTree() {
  const root = { name: "", path: "", bytes: 0, kinds: {}, children: new Map() };
  for (const layer of DATA.layers) {
    if (!layer.bytes) continue;
    let at = root, path = "";
    for (const part of [null, ...(layer.module.match(/[./]*[^./]+/g) ?? ["(none)"])]) {
      if (part !== null) {
        path += part;
        if (!at.children.has(part)) at.children.set(part, { name: part.replace(/^[./]+/, ""), path, bytes: 0, kinds: {}, children: new Map() });
        at = at.children.get(part);
      }
      at.bytes += layer.bytes;
      const kind = kindOf(layer.weights);
      at.kinds[kind] = (at.kinds[kind] ?? 0) + layer.bytes;
    }
    at.own = (at.own ?? 0) + layer.bytes;
  }
  return root;
}

/** Rectangles of areas as given, as near to squares as they come (M. Bruls et al., Squarified Treemaps, 2000). */
function squarified(items, x, y, width, height) {
  const total = items.reduce((sum, it) => sum + it.bytes, 0), scale = width * height / total, found = [];
  const rest = [...items].sort((a, b) => b.bytes - a.bytes);
  const worst = (sum, side, large, small) => Math.max(side * side * large / (sum * sum), sum * sum / (side * side * small));
  for (let at = 0; at < rest.length;) {
    const side = Math.min(width, height);
    let sum = rest[at].bytes * scale, end = at + 1;
    const large = sum;
    let ratio = worst(sum, side, large, large);
    while (end < rest.length) {
      const next = rest[end].bytes * scale, other = worst(sum + next, side, large, next);
      if (other > ratio) break;
      [sum, ratio] = [sum + next, other];
      end++;
    }
    const thick = sum / side;
    let along = 0;
    for (const it of rest.slice(at, end)) {
      const long = it.bytes * scale / thick;
      found.push(width >= height ? [it, x, y + along, thick, long] : [it, x + along, y, long, thick]);
      along += long;
    }
    if (width >= height) [x, width] = [x + thick, width - thick];
    else [y, height] = [y + thick, height - thick];
    at = end;
  }
  return found;
}

function drawTreemap() {
  const map = byId("treemap");
  if (!map) return;
  const width = map.clientWidth, height = map.clientHeight, made = [];
  const draw = (node, x, y, w, h, depth, above = "") => {
    const called = [above, node.name].filter(Boolean).join(".");
    const children = [...node.children.values()];
    if (node.own && children.length) children.push({ name: "", path: node.path, bytes: node.own, kinds: node.kinds, children: new Map() });
    if (children.length === 1 && !node.own) return draw(children[0], x, y, w, h, depth, called);
    if (!children.length || w < 14 || h < 14) {
      const kind = Object.entries(node.kinds).sort((a, b) => b[1] - a[1])[0]?.[0] ?? "other";
      const box = element("svg:rect", { x, y, width: Math.max(w, 0), height: Math.max(h, 0), fill: palette[kind] });
      box.append(element("svg:title", {}, `${node.path || "(none)"}: ${showBytes(node.bytes)}, ${KINDS[kind]}`));
      made.push(box);
      const label = called || node.path.replace(/^.*[./]/, "");
      if (w > 30 && h > 16) made.push(element("svg:text", { x: x + 4, y: y + 13 }, label.slice(0, Math.floor((w - 6) / 6.4))));
      if (w > 44 && h > 32) made.push(element("svg:text", { x: x + 4, y: y + 27 }, showBytes(node.bytes)));
      return;
    }
    const head = depth && called && w > 46 && h > 40 ? 15 : 0, edge = depth ? 1 : 0;
    if (head) {
      const label = element("svg:text", { x: x + 3, y: y + 12, style: "fill: var(--soft)" }, called.slice(0, Math.floor((w - 4) / 6.4)));
      made.push(label);
    }
    for (const [it, ...place] of squarified(children, x + edge, y + head, w - 2 * edge, h - head - edge)) draw(it, ...place, depth + 1);
  };
  const root = moduleTree();
  if (root.bytes && width) draw(root, 0, 0, width, height, 0);
  map.replaceChildren(...made);
}
