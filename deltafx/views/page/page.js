"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const report = data.report;
const run = data.run;
const at = (id) => document.getElementById(id);
const rows = new Map(report.nodes.map((node) => [node.path, node]));
const readers = new Map(report.nodes.map((node) => [node.path, []]));
report.nodes.forEach((node) => node.inputs.forEach((path) => readers.get(path)?.push(node.path)));

// ---- words and colours --------------------------------------------------------------------------------------------

function make(tag, text, attributes = {}) {
  const element = document.createElement(tag);
  if (text !== undefined && text !== null) element.textContent = text;
  Object.entries(attributes).forEach(([name, value]) => element.setAttribute(name, value));
  return element;
}
const known = (value) => value !== null && value !== undefined;
const number = (value, digits = 1) => (known(value) ? value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits }) : "–");
const share = (value) => (known(value) ? `${number(100 * value)} %` : "–");
const million = (value) => (known(value) ? number(value / 1e6, value >= 1e9 ? 0 : 1) : "–");
const ending = (text, length) => (text.length > length ? `…${text.slice(1 - length)}` : text); // names differ there
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function colour(value) {
  if (!known(value)) return data.colours.unknown;
  const x = Math.min(Math.max(value, 0), 1);
  const stops = data.colours.stops;
  const high = stops.findIndex(([stop]) => x <= stop);
  const [low, a] = stops[Math.max(0, high - 1)];
  const [top, b] = stops[high];
  const t = top > low ? (x - low) / (top - low) : 0;
  return `rgb(${a.map((part, i) => Math.round(part + t * (b[i] - part))).join(",")})`;
}

const MEASURES = {
  update_rate: { title: "update rate, mean", of: (n) => n.update_rate_mean, whole: () => 1, rate: true },
  last: { title: "update rate, last frame", of: (n) => n.update_rate, whole: () => 1, rate: true },
  macs: { title: "MACs, mean", of: (n) => n.macs_mean, whole: (all) => Math.max(...all) },
  milliseconds: { title: "time, mean", of: (n) => n.milliseconds_mean, whole: (all) => Math.max(...all) },
};

// ---- summary ------------------------------------------------------------------------------------------------------

function summary() {
  const totals = report.totals;
  at("name").textContent = data.title;
  const size = run ? `, ${run.frames} frames of ${run.size[1]}×${run.size[0]}` : "";
  at("about").textContent = `${run ? `${run.clip}${size}; ` : ""}mode ${report.mode}, backend ${report.backend}, payload ${report.payload}, ${report.streams ?? "no"} stream${report.streams === 1 ? "" : "s"}`;
  const cards = [];
  if (run) {
    const ours = run.modes[0];
    cards.push([`${number(run.dense.ms_median / ours.ms_median)}×`, "times faster than dense (medians)"]);
    cards.push([`${number(ours.ms_median)} ms`, `a frame; dense ${number(run.dense.ms_median)} ms`]);
    cards.push([share(ours.update_rate), "of the input's pixels updated (mean)"]);
    cards.push([known(ours.f1) ? number(ours.f1, 3) : Number(ours.relative_error).toExponential(1), known(ours.f1) ? "F1 against dense" : "relative error (mean)"]);
    if (known(ours.f1)) cards.push([number(ours.f1_with_hysteresis, 3), "F1 against dense, with hysteresis"]);
    if (known(ours.same_class)) cards.push([share(ours.same_class), "of the frames with the dense network's class"]);
  }
  if (known(totals.macs_mean)) {
    cards.push([`${million(totals.macs_mean)} M`, `multiply-accumulates a frame (mean); dense ${million(totals.macs_dense)} M`]);
    cards.push([share(totals.macs_dense ? totals.macs_delta_form / totals.macs_dense : 1), "of them in delta form"]);
    cards.push([`${number(totals.state_bytes / 2 ** 20)} MiB`, "state"]);
  }
  if (known(totals.milliseconds_mean)) cards.push([`${number(totals.milliseconds_mean)} ms`, "in the nodes (mean)"]);
  cards.push([`${totals.delta_nodes} / ${totals.nodes}`, "nodes in delta form" + (totals.eager_modules ? `; ${totals.eager_modules} modules outside` : "")]);
  cards.forEach(([figure, what]) => {
    const card = make("div", null, { class: "card" });
    card.append(make("b", figure), make("span", what));
    at("cards").append(card);
  });
  data.hints.forEach((hint) => {
    const line = make("li");
    if (hint.node && rows.has(hint.node) && hint.text.includes(hint.node)) {
      const [before, ...after] = hint.text.split(hint.node);
      const link = make("button", hint.node, { type: "button" });
      link.onclick = () => details(hint.node);
      line.append(before, link, after.join(hint.node));
    } else line.textContent = hint.text;
    at("hints").append(line);
  });
  at("made").textContent = data.made;
}

// ---- charts -------------------------------------------------------------------------------------------------------

const plots = [];
function chart(title, x, series, format, log = false) {
  const box = make("div", null, { class: "chart" });
  box.append(make("h4", title));
  at("charts").append(box);
  const axis = () => ({ stroke: css("--faint"), grid: { stroke: css("--line"), width: 1 }, ticks: { stroke: css("--line") } });
  const options = () => ({
    width: box.clientWidth - 16,
    height: 210,
    scales: { x: { time: false }, y: log ? { distr: 3 } : { range: (u, low, high) => [0, (high || 1) * 1.08] } },
    axes: [{ ...axis(), incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000] }, { ...axis(), size: 62, values: (u, ticks) => ticks.map((tick) => (known(tick) ? format(tick) : "")) }],
    series: [
      { label: "frame" },
      ...series.map((each) => ({ label: each.label, stroke: css(each.colour), width: 1.7, points: { show: x.length < 40, size: 4 }, value: (u, value) => (known(value) ? format(value) : "–") })),
    ],
    cursor: { sync: { key: "frames" } },
  });
  plots.push({ box, options, values: [x, ...series.map((each) => each.values)], plot: null });
}
function drawCharts() {
  plots.forEach((each) => {
    each.plot?.destroy();
    each.plot = new uPlot(each.options(), each.values, each.box);
  });
}
function charts() {
  if (!run) return at("speed").remove();
  const mode = run.modes[0].mode;
  const ours = run.by_frame[mode];
  const x = ours.ms.map((_, i) => i + 2);
  const milliseconds = (value) => `${value < 10 ? +value.toFixed(1) : Math.round(value)} ms`;
  chart("Time of a frame", x, [
    { label: "dense", values: run.by_frame.dense_ms, colour: "--dense-series" },
    { label: "deltafx", values: ours.ms, colour: "--delta-series" },
  ], milliseconds);
  chart("Share of the dense network's multiply-accumulates", x, [{ label: "computed", values: ours.macs.map((m) => m / run.dense.macs), colour: "--delta-series" }], (v) => `${+(100 * v).toFixed(1)} %`);
  chart("Share of the input's pixels updated", x, [{ label: "updated", values: ours.update_rate, colour: "--delta-series" }], (v) => `${+(100 * v).toFixed(1)} %`);
  chart("Relative error against dense", x, [{ label: "error", values: ours.relative_error, colour: "--delta-series" }], (v) => (v ? v.toExponential(1) : "0"));
  drawCharts();
}

// ---- heat maps ----------------------------------------------------------------------------------------------------

function strip() {
  if (!data.maps.length) return at("where").remove();
  data.maps.forEach((map) => {
    const figure = make("figure");
    const image = make("img", null, { src: map.picture, alt: `Where ${map.node} was updated` });
    const caption = make("figcaption");
    const link = make("button", map.node, { type: "button", class: "link" });
    link.onclick = () => details(map.node);
    caption.append(link, ` · ${share(rows.get(map.node)?.update_rate_mean)}`);
    figure.append(image, caption);
    at("strip").append(figure);
  });
}

// ---- graph --------------------------------------------------------------------------------------------------------

const AT_FIRST = 45; // nodes that are shown before anything is opened, at most
let cy = null;
const opened = new Set();
const graph = data.graph;
const groupKey = (groups, depth) => groups.slice(0, depth).join("\u0000");

function shownAs(node) {
  for (let depth = 1; depth <= node.groups.length; depth++) {
    const key = groupKey(node.groups, depth);
    if (!opened.has(key)) return { id: `module ${key}`, depth, key };
  }
  return { id: node.path, depth: node.groups.length + 1, key: null };
}
function allGroups() {
  const found = new Map();
  graph.nodes.forEach((node) => node.groups.forEach((_, i) => found.set(groupKey(node.groups, i + 1), i + 1)));
  return found;
}
function openAtFirst() {
  const groups = allGroups();
  const deepest = Math.max(0, ...groups.values());
  for (let depth = 1; depth <= deepest; depth++) {
    const next = [...groups].filter(([, level]) => level === depth).map(([key]) => key);
    next.forEach((key) => opened.add(key));
    if (new Set(graph.nodes.map((node) => shownAs(node).id)).size > AT_FIRST) {
      next.forEach((key) => opened.delete(key));
      return;
    }
  }
}
function elements() {
  const by = MEASURES[at("by").value];
  const inside = new Map();
  graph.nodes.forEach((node) => {
    const place = shownAs(node);
    if (!inside.has(place.id)) inside.set(place.id, { ...place, nodes: [] });
    inside.get(place.id).nodes.push(node);
  });
  const list = [];
  const parents = new Set();
  const parentOf = (groups, depth) => {
    if (depth < 1) return undefined;
    const key = groupKey(groups, depth);
    if (!parents.has(key)) {
      parents.add(key);
      list.push({ data: { id: `open ${key}`, label: groups[depth - 1], parent: parentOf(groups, depth - 1), key }, classes: "open" });
    }
    return `open ${key}`;
  };
  const values = new Map();
  inside.forEach((place, id) => {
    const found = place.nodes.map((node) => rows.get(node.path)).filter(Boolean).map(by.of).filter(known);
    const sum = found.reduce((a, b) => a + b, 0);
    values.set(id, !found.length ? null : by.rate ? sum / found.length : sum);
  });
  const whole = by.whole([...values.values()].filter(known)) || 1;
  inside.forEach((place, id) => {
    const first = place.nodes[0];
    const value = values.get(id);
    const text = place.key
      ? [first.groups[place.depth - 1], `${place.nodes.length} nodes`]
      : [first.label, first.kind === "output" ? "" : first.operator.length > 30 ? `${first.operator.slice(0, 28)}…` : first.operator];
    const figure = !known(value) ? "" : by.rate ? share(value) : by === MEASURES.macs ? `${million(value)} M` : `${number(value, 2)} ms`;
    const lines = [...text, figure].filter(Boolean);
    const dense = place.nodes.some((node) => node.kind === "island" || node.kind === "eager");
    list.push({
      data: {
        id, key: place.key, path: place.key ? null : first.path, parent: parentOf(first.groups, place.depth - 1),
        label: lines.join("\n"), w: Math.max(96, 7.1 * Math.max(...lines.map((line) => line.length)) + 18), h: 14 + 15 * lines.length,
        fill: first.kind === "output" ? css("--paper") : colour(known(value) ? value / whole : null), ink: first.kind === "output" ? css("--ink") : "#1c2027",
      },
      classes: [place.key ? "module" : first.kind, dense ? "dense" : ""].join(" "),
    });
  });
  const lines = new Map();
  const placeOf = new Map(graph.nodes.map((node) => [node.path, shownAs(node).id]));
  graph.edges.forEach(([source, target, elements, handed]) => {
    const [a, b] = [placeOf.get(source), placeOf.get(target)];
    if (a === b || lines.has(`${a}\u0001${b}`)) return;
    lines.set(`${a}\u0001${b}`, { data: { source: a, target: b, width: elements ? Math.min(5, Math.max(1, Math.log10(elements) - 2.2)) : 1 }, classes: handed ? "handed" : "" });
  });
  const kept = thinned([...lines.values()], [...inside.keys()]);
  at("thinned").textContent = kept.length < lines.size ? `${lines.size - kept.length} lines that follow from others are left out; a node's details name all that it reads.` : "";
  return [...list, ...kept];
}
// As `thin` of deltafx/views/thinned.py: where lines are many, those that follow from others only hide the nodes.
const CROWDED = 2;
function thinned(lines, ids) {
  if (lines.length <= CROWDED * ids.length) return lines;
  const next = new Map(ids.map((id) => [id, []]));
  lines.forEach(({ data: { source, target } }) => next.get(source).push(target));
  const reached = new Map(); // by node, what lines lead to from it; null while that is being found out
  const reach = (start) => {
    const waiting = [[start, 0]];
    while (waiting.length) {
      const top = waiting[waiting.length - 1];
      const [id, done] = top;
      if (done === 0) reached.set(id, null);
      if (done < next.get(id).length) {
        const target = next.get(id)[top[1]++];
        if (reached.get(target) === null) return false; // a circle, through modules that are closed
        if (!reached.has(target)) waiting.push([target, 0]);
      } else {
        const all = new Set(next.get(id));
        next.get(id).forEach((target) => reached.get(target).forEach((each) => all.add(each)));
        reached.set(id, all);
        waiting.pop();
      }
    }
    return true;
  };
  if (!ids.every((id) => reached.has(id) || reach(id))) return lines;
  return lines.filter(({ data: { source, target } }) => !next.get(source).some((other) => other !== target && reached.get(other).has(target)));
}
const look = () => [
  { selector: "node[w]", style: { shape: "round-rectangle", width: "data(w)", height: "data(h)", "background-color": "data(fill)", label: "data(label)", color: "data(ink)", "font-size": 11.5, "text-valign": "center", "text-wrap": "wrap", "line-height": 1.15, "border-width": 1, "border-color": css("--faint"), "font-family": "system-ui, sans-serif" } },
  { selector: ":parent", style: { "background-color": css("--module"), "background-opacity": 0.75, "border-color": css("--line"), label: "data(label)", color: css("--faint"), "text-valign": "top", "text-halign": "center", padding: 12, "font-size": 12 } },
  { selector: ".input, .output", style: { shape: "ellipse" } },
  { selector: ".module", style: { "border-width": 3, shape: "rectangle" } },
  { selector: ".dense", style: { "border-color": css("--dense"), "border-width": 3 } },
  { selector: ".eager", style: { "border-style": "dashed" } },
  { selector: "edge", style: { width: "data(width)", "line-color": css("--faint"), "target-arrow-color": css("--faint"), "target-arrow-shape": "triangle", "curve-style": "bezier", "arrow-scale": 0.9, opacity: 0.75 } },
  { selector: ".around", style: { "curve-style": "unbundled-bezier", "control-point-distances": "data(around)", "control-point-weights": 0.5 } },
  { selector: ".handed", style: { "line-style": "dashed" } },
  { selector: ":selected", style: { "border-color": css("--accent"), "border-width": 4 } },
];
function layout(keep) {
  const held = keep ? { zoom: cy.zoom(), pan: cy.pan() } : null;
  cy.elements().remove();
  cy.style(look());
  cy.add(elements());
  cy.layout({ name: "dagre", rankDir: "TB", nodeSep: 26, rankSep: 34, edgeSep: 8, animate: false, fit: false }).run();
  // A line that skips nodes goes around them.
  cy.edges().forEach((edge) => {
    const [a, b] = [edge.source().position(), edge.target().position()];
    const between = Math.abs(a.x - b.x) < 70 && b.y - a.y > 150;
    if (between) edge.data("around", Math.min(150, 60 + 0.12 * (b.y - a.y))).addClass("around");
  });
  if (held) cy.viewport(held);
  else fromTop();
}
function showInGraph(path) {
  const node = graph.nodes.find((each) => each.path === path);
  const closed = node.groups.map((_, i) => groupKey(node.groups, i + 1)).filter((key) => !opened.has(key));
  closed.forEach((key) => opened.add(key));
  if (closed.length) layout(true);
  cy.elements().unselect();
  const found = cy.getElementById(path).select();
  cy.zoom(Math.max(cy.zoom(), 0.8));
  cy.center(found);
  at("graph").scrollIntoView();
}
function fromTop() {
  const box = cy.elements().boundingBox();
  const zoom = Math.min(1.1, Math.max(0.7, (cy.width() - 40) / box.w));
  const first = cy.nodes(".input").first();
  const middle = box.w * zoom < cy.width() || !first.nonempty() ? (box.x1 + box.x2) / 2 : first.position("x");
  cy.viewport({ zoom, pan: { x: cy.width() / 2 - middle * zoom, y: 16 - box.y1 * zoom } });
}
const LARGE = 150; // nodes, above which a layout takes seconds
function shown(later) {
  if (!later) return layout(false);
  at("canvas").setAttribute("aria-busy", "true"); // painted before the work begins
  setTimeout(() => { layout(false); at("canvas").removeAttribute("aria-busy"); }, 50);
}
function graphView() {
  Object.entries(MEASURES).forEach(([name, measure]) => {
    if (report.nodes.some((node) => known(measure.of(node)))) at("by").append(make("option", measure.title, { value: name }));
  });
  if (!at("by").options.length) at("by").append(make("option", MEASURES.update_rate.title, { value: "update_rate" }));
  if (!run && at("by").options.length > 1) at("by").value = "last"; // the mean has the first frame in it, which is in full
  openAtFirst();
  cy = cytoscape({ container: at("canvas"), elements: [], minZoom: 0.03, maxZoom: 3, boxSelectionEnabled: false, userZoomingEnabled: true });
  // The wheel belongs to the page, unless it is asked for.
  at("canvas").addEventListener("wheel", (event) => { if (!event.ctrlKey) event.stopImmediatePropagation(); }, { capture: true });
  layout(false);
  cy.on("tap", "node", (event) => {
    const { key, path } = event.target.data();
    if (path && rows.has(path)) return details(path);
    if (!key) return undefined;
    if (event.target.isParent()) [...opened].filter((each) => each === key || each.startsWith(`${key}\u0000`)).forEach((each) => opened.delete(each));
    else opened.add(key);
    return layout(true);
  });
  at("by").onchange = () => { layout(true); scale(); };
  at("open").onclick = () => { allGroups().forEach((_, key) => opened.add(key)); shown(graph.nodes.length > LARGE); };
  at("close").onclick = () => { opened.clear(); layout(false); };
  at("fit").onclick = () => cy.fit(undefined, 20);
  scale();
}
function scale() {
  at("scale").replaceChildren(...data.colours.stops.map(([stop]) => {
    const cell = make("i", `${100 * stop} %`);
    cell.style.background = colour(stop);
    return cell;
  }));
  at("scale").title = MEASURES[at("by").value].rate ? "share of the pixels" : "share of the largest shown";
}

// ---- table and details --------------------------------------------------------------------------------------------

let table = null;
function nodesTable() {
  const text = (title, field, width, more = {}) => ({ title, field, minWidth: width, ...more });
  const figure = (title, field, width, show, more = {}) => ({ title, field, width, hozAlign: "right", sorter: "number", sorterParams: { alignEmptyValues: "bottom" }, formatter: (cell) => show(cell.getValue()), ...more });
  const rate = (cell) => {
    const shown = make("span", share(cell.getValue()), { class: "rate" });
    shown.style.background = colour(cell.getValue());
    return shown;
  };
  const timed = report.nodes.some((node) => known(node.milliseconds_mean));
  const narrow = window.innerWidth <= 640;
  const names = [
    text("node", "path", 190, { widthGrow: 3, ...(narrow ? { formatter: (cell) => ending(cell.getValue(), 26) } : { frozen: true }) }),
    text("operator", "operator", 140, { widthGrow: 2 }),
    text("kernel", "kernel", 110, { formatter: (cell) => (cell.getData().reason ? make("span", cell.getValue(), { class: "densely" }) : cell.getValue()) }),
  ];
  const figures = [
    { ...figure("updated", "update_rate_mean", 104), formatter: rate, headerTooltip: "share of the pixels, mean" },
    figure("MMACs", "macs_mean", 98, million, { headerTooltip: "computed in a frame, mean" }),
    figure("of dense", "macs_dense", 104, million, { headerTooltip: "million multiply-accumulates of a dense frame" }),
    ...(timed ? [figure("ms", "milliseconds_mean", 78, (value) => number(value, 2), { headerTooltip: "mean" })] : []),
    figure("state KiB", "state_bytes", 112, (value) => number(known(value) ? value / 1024 : null, 0)),
    figure("threshold", "threshold", 116, (value) => (known(value) ? value.toPrecision(3) : "–"), { headerTooltip: "in units of the tensor" }),
  ];
  table = new Tabulator("#table", {
    data: report.nodes, index: "path", layout: "fitColumns", maxHeight: 560, selectableRows: 1, placeholder: "No node matches.",
    columns: narrow ? [...names.slice(0, 1), ...figures, ...names.slice(1)] : [...names, ...figures],
  });
  const count = () => { at("count").textContent = `${table.getDataCount("active")} of ${report.nodes.length} nodes`; };
  table.on("tableBuilt", count);
  table.on("dataFiltered", () => setTimeout(count));
  table.on("rowClick", (event, row) => details(row.getData().path));
  at("filter").oninput = (event) => {
    const words = event.target.value.toLowerCase().split(/\s+/).filter(Boolean);
    table.setFilter((node) => words.every((word) => `${node.path} ${node.operator} ${node.kernel} ${node.reason ?? ""}`.toLowerCase().includes(word)));
  };
}
function links(paths) {
  const list = make("span");
  paths.forEach((path, i) => {
    const link = make("button", path, { type: "button", class: "link" });
    link.onclick = () => details(path);
    list.append(i ? ", " : "", link);
  });
  return list;
}
function details(path) {
  const node = rows.get(path);
  if (!node) return;
  at("which").textContent = path;
  const facts = [
    ["operator", node.operator], ["kernel", node.kernel], ["dense because", node.reason], ["reference kernel because", node.note],
    ["output", node.shape?.join(" × ")], ["updated, last frame", known(node.update_rate) ? share(node.update_rate) : null], ["updated, mean", known(node.update_rate_mean) ? share(node.update_rate_mean) : null],
    ["MACs, last frame", known(node.macs) ? `${million(node.macs)} M of ${million(node.macs_dense)} M` : null], ["MACs, mean", known(node.macs_mean) ? `${million(node.macs_mean)} M` : null],
    ["time, last frame", known(node.milliseconds) ? `${number(node.milliseconds, 3)} ms` : null], ["time, mean", known(node.milliseconds_mean) ? `${number(node.milliseconds_mean, 3)} ms` : null],
    ["state", known(node.state_bytes) ? `${number(node.state_bytes / 1024, 0)} KiB` : null], ["threshold", known(node.threshold) ? node.threshold.toPrecision(3) : null],
    ["made of", node.fused_from.join(", ")], ["reads", node.inputs.length ? links(node.inputs) : null], ["read by", readers.get(path).length ? links(readers.get(path)) : null],
  ];
  at("facts").replaceChildren();
  facts.filter(([, value]) => known(value) && value !== "").forEach(([what, value]) => {
    const fact = make("dd");
    fact.append(value);
    at("facts").append(make("dt", what), fact);
  });
  at("find").onclick = () => showInGraph(path);
  at("details").hidden = false;
  at("details").scrollTop = 0;
  table.deselectRow();
  table.selectRow(path);
  cy.elements().unselect();
  cy.getElementById(path).select();
}

// ---- modules, passes ----------------------------------------------------------------------------------------------

function modules() {
  const timed = data.subtrees.some((each) => known(each.milliseconds_mean));
  const head = make("tr");
  ["module", "nodes", "dense or outside", "MMACs, mean", "dense frame", "state KiB", ...(timed ? ["ms, mean"] : [])].forEach((title) => head.append(make("th", title)));
  at("subtrees").append(head);
  data.subtrees.forEach((each) => {
    const line = make("tr");
    const name = make("td", each.name || "all");
    name.style.paddingLeft = `${12 + 18 * each.depth}px`;
    line.append(name);
    [each.nodes, each.dense || "", million(each.macs_mean), million(each.macs_dense), number(known(each.state_bytes) ? each.state_bytes / 1024 : null, 0), ...(timed ? [number(each.milliseconds_mean, 2)] : [])].forEach((cell) => line.append(make("td", cell)));
    at("subtrees").append(line);
  });
}
function listOf(head, lines) {
  const shown = make("table");
  const top = make("tr");
  head.forEach((title) => top.append(make("th", title)));
  shown.append(top);
  lines.forEach((cells) => {
    const line = make("tr");
    cells.forEach(([text, kind]) => line.append(make("td", text, kind ? { class: kind } : {})));
    shown.append(line);
  });
  return shown;
}
function passes() {
  const entries = Object.entries(data.history);
  if (!entries.length) return at("history").remove();
  const line = (each) => `${each.operator}(${each.inputs.join(", ")})`;
  const step = (name, counts, fill) => {
    const box = make("details");
    const head = make("summary", `${name} `);
    head.append(make("span", counts));
    box.append(head);
    box.addEventListener("toggle", () => { if (box.open && box.children.length === 1) { const frame = make("div", null, { class: "scroll" }); frame.append(fill()); box.append(frame); } });
    at("passes").append(box);
  };
  entries.forEach(([path, history]) => {
    if (path) at("passes").append(make("h3", path));
    history.passes.forEach((each) => {
      const changes = each.removed.length + each.added.length + each.changed.length;
      step(each.name, changes ? `${each.removed.length} nodes went, ${each.added.length} came, ${each.changed.length} are others` : each.rewrites ? `${each.rewrites} nodes annotated` : "nothing to do", () => listOf(["node", "before", "after"], [
        ...each.removed.map((l) => [[l.path], [line(l)], ["gone", "went"]]),
        ...each.added.map((l) => [[l.path], ["–"], [line(l)]]),
        ...each.changed.map(([a, b]) => [[b.path], [line(a)], [line(b)]]),
      ]));
    });
    step("all together", `${history.before.length} nodes became ${history.after.length}`, () => listOf(["dense", "operator", "now in", "operator now"], history.pairs.map((pair) => [[pair.path], [pair.operator], [pair.now ?? "–"], [pair.now_operator ?? (pair.went_in ? `gone in ${pair.went_in}` : "not computed"), pair.now ? "" : "went"]])));
  });
}

// ---- all of it ----------------------------------------------------------------------------------------------------

summary();
charts();
strip();
nodesTable();
graphView();
modules();
passes();
document.querySelectorAll("main > section").forEach((section) => at("sections").append(make("a", section.querySelector("h2").textContent, { href: `#${section.id}` })));
at("shut").onclick = () => { at("details").hidden = true; };
document.addEventListener("keydown", (event) => { if (event.key === "Escape") at("details").hidden = true; });
let waiting = null;
window.addEventListener("resize", () => { clearTimeout(waiting); waiting = setTimeout(() => { drawCharts(); cy.resize(); }, 150); });
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { drawCharts(); layout(true); });
document.documentElement.dataset.ready = "yes";
