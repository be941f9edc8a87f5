"use strict";
/* SVG charts: memory against resolution, what the memory is for, and the Pareto front. */

/** An SVG element. */
function shape(tag, attributes = {}, text = "") {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  if (text) made.textContent = text;
  return made;
}

const SIDE = { left: 74, right: 20, top: 14, bottom: 52 };

/** A marker of a method around (x, y): told apart by form as well as by colour. */
function marker(method, x, y, size = 6) {
  const { color, form } = methodOf.get(method) ?? { color: "#777777", form: "circle" };
  const paint = color === "#000000" ? { class: "ink" } : { fill: color };
  const at = { transform: `translate(${x} ${y})`, stroke: "var(--paper)", "stroke-width": 0.8, ...paint };
  const points = {
    square: [[-1, -1], [1, -1], [1, 1], [-1, 1]],
    up: [[0, -1.2], [1.1, 0.9], [-1.1, 0.9]],
    down: [[0, 1.2], [1.1, -0.9], [-1.1, -0.9]],
    diamond: [[0, -1.4], [1.1, 0], [0, 1.4], [-1.1, 0]],
    plus: [[-0.4, -1.2], [0.4, -1.2], [0.4, -0.4], [1.2, -0.4], [1.2, 0.4], [0.4, 0.4], [0.4, 1.2], [-0.4, 1.2],
      [-0.4, 0.4], [-1.2, 0.4], [-1.2, -0.4], [-0.4, -0.4]],
    cross: [[-1.2, -0.7], [-0.7, -1.2], [0, -0.5], [0.7, -1.2], [1.2, -0.7], [0.5, 0], [1.2, 0.7], [0.7, 1.2],
      [0, 0.5], [-0.7, 1.2], [-1.2, 0.7], [-0.5, 0]],
    hexagon: [[1, 0.6], [0, 1.2], [-1, 0.6], [-1, -0.6], [0, -1.2], [1, -0.6]],
    star: [...Array(10).keys()].map((i) => {
      const radius = i % 2 ? 0.6 : 1.5;
      return [radius * Math.sin((i * Math.PI) / 5), -radius * Math.cos((i * Math.PI) / 5)];
    }),
  }[form];
  if (!points) return shape("circle", { r: size, ...at });
  return shape("polygon", { points: points.map(([a, b]) => `${a * size},${b * size}`).join(" "), ...at });
}

/** The legend of some methods, as list items. */
function legend(id, methods) {
  byId(id).replaceChildren(
    ...methods.map((name) => {
      const item = element("li");
      const picture = shape("svg", { width: 18, height: 18, "aria-hidden": "true" });
      picture.append(marker(name, 9, 9));
      item.append(picture, (methodOf.get(name) ?? { title: name }).title);
      return item;
    }),
  );
}

/** A scale from values to pixels; logarithmic ones step by powers, linear ones by round numbers. */
function scale(low, high, from, to, logarithmic) {
  const f = logarithmic ? Math.log : (value) => value;
  const at = (value) => from + ((f(value) - f(low)) / (f(high) - f(low) || 1)) * (to - from);
  const ticks = [];
  if (logarithmic) {
    const base = high / low > 1e4 ? 10 : high / low > 64 ? 4 : 2;
    for (let n = Math.ceil(Math.log(low) / Math.log(base)); base ** n <= high * 1.0001; n += 1) ticks.push(base ** n);
  } else {
    const rough = (high - low) / 5 || 1;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((n) => n * power).find((n) => n >= rough);
    for (let value = Math.ceil(low / step) * step; value <= high + 1e-9; value += step) ticks.push(value);
  }
  return { at, ticks };
}

const short = (value) => (value >= 10 || value === 0 ? fixed(value, 0) : String(+value.toPrecision(2)));

/** Axes with grid lines and names; gives the two scales. */
function axes(svg, [width, height], x, y) {
  const across = scale(x.low, x.high, SIDE.left, width - SIDE.right, x.log);
  const up = scale(y.low, y.high, height - SIDE.bottom, SIDE.top, y.log);
  for (const tick of y.ticks ?? up.ticks) {
    svg.append(shape("line", { class: "grid", x1: SIDE.left, x2: width - SIDE.right, y1: up.at(tick), y2: up.at(tick) }));
    svg.append(shape("text", { x: SIDE.left - 8, y: up.at(tick) + 4, "text-anchor": "end" }, short(tick)));
  }
  let lastLabel = -Infinity;
  for (const tick of x.ticks ?? across.ticks) {
    svg.append(shape("line", { class: "grid", x1: across.at(tick), x2: across.at(tick), y1: SIDE.top, y2: height - SIDE.bottom }));
    if (across.at(tick) - lastLabel < 42) continue; // no room for another number
    lastLabel = across.at(tick);
    svg.append(shape("text", { x: lastLabel, y: height - SIDE.bottom + 18, "text-anchor": "middle" }, short(tick)));
  }
  svg.append(shape("line", { class: "axis", x1: SIDE.left, x2: width - SIDE.right, y1: height - SIDE.bottom, y2: height - SIDE.bottom }));
  svg.append(shape("line", { class: "axis", x1: SIDE.left, x2: SIDE.left, y1: SIDE.top, y2: height - SIDE.bottom }));
  svg.append(shape("text", { x: (width + SIDE.left) / 2, y: height - 8, "text-anchor": "middle" }, x.title));
  svg.append(shape("text", { transform: `translate(16 ${height / 2}) rotate(-90)`, "text-anchor": "middle" }, y.title));
  return { x: across.at, y: up.at };
}

/** Pixels that a chart may be wide: what its section has, so that letters keep their size on a phone. */
const roomFor = (id) => Math.max(320, Math.min(920, byId(id).parentElement.clientWidth || 900));

function emptied(id, width, height, label) {
  const svg = byId(id);
  svg.replaceChildren(shape("title", {}, label));
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.setAttribute("aria-label", label);
  return svg;
}

/* Memory against resolution. */
const settingsOf = (records) => [...new Set(records.map((record) => record.setting))];
const lineRecords = report.records.filter((record) => methodOf.has(record.method));
const withLines = settingsOf(lineRecords).filter(
  (setting) => new Set(lineRecords.filter((record) => record.setting === setting).map((r) => r.res)).size > 1,
);
fill(byId("resolution-setting"), withLines.map((setting) => [setting, setting]));

function drawResolution() {
  const setting = byId("resolution-setting").value;
  const records = lineRecords.filter((record) => record.setting === setting);
  const [width, height] = [roomFor("resolution"), 480];
  const svg = emptied("resolution", width, height, `Process memory against resolution, ${setting}`);
  const resolutions = [...new Set(records.map((record) => record.res))].sort((a, b) => a - b);
  const gib = (record) => record.process_mib / 1024;
  const sizes = records.map(gib);
  const at = axes(
    svg,
    [width, height],
    { title: "resolution (px)", low: resolutions[0], high: resolutions.at(-1), log: true, ticks: resolutions },
    { title: "process memory (GiB)", low: Math.min(...sizes) * 0.8, high: Math.max(...sizes) * 1.2, log: true },
  );
  const guides = byId("resolution-card").value;
  for (const card of report.cards.filter((card) => guides === "some" ? card.guide : card.name === guides)) {
    const y = at.y(card.mib / 1024);
    if (y < SIDE.top || y > height - SIDE.bottom) continue;
    svg.append(shape("line", { class: "card", x1: SIDE.left, x2: width - SIDE.right, y1: y, y2: y }));
    svg.append(shape("text", { class: "cardname", x: SIDE.left + 6, y: y - 4 }, `${card.title}, ${(card.mib / 1024).toFixed(1)} GiB`));
  }
  for (const { name, color, dashed } of report.methods) {
    const own = records.filter((record) => record.method === name).sort((a, b) => a.res - b.res);
    const points = own.map((record) => `${at.x(record.res)},${at.y(gib(record))}`).join(" ");
    svg.append(shape("polyline", { points, fill: "none", stroke: color === "#000000" ? "var(--ink)" : color,
      "stroke-width": 2, "stroke-dasharray": dashed ? "7 4" : "none" }));
    for (const record of own) {
      const dot = marker(name, at.x(record.res), at.y(gib(record)));
      dot.append(shape("title", {}, `${methodOf.get(name).title}, ${record.res} px: ${fixed(record.process_mib, 0)} MiB, ${record.source}`));
      svg.append(dot);
    }
  }
}
fill(byId("resolution-card"), [["some", "four common ones"], ...report.cards.map((card) => [card.name, card.title])]);
legend("resolution-legend", report.methods.map((method) => method.name));
for (const id of ["resolution-setting", "resolution-card"]) byId(id).addEventListener("change", drawResolution);
drawResolution();

/* What the memory is for. */
const breakdownSettings = [...new Set(lineRecords.map((record) => `${record.setting}, ${record.res} px`))];
fill(byId("breakdown-setting"), breakdownSettings.map((name) => [name, name]), report.paper_setting);

function drawBreakdown() {
  const name = byId("breakdown-setting").value;
  const records = report.methods
    .map((method) => lineRecords.find((r) => r.method === method.name && `${r.setting}, ${r.res} px` === name))
    .filter(Boolean);
  const [width, row, left] = [roomFor("breakdown"), 34, 130];
  const height = records.length * row + 10;
  const svg = emptied("breakdown", width, height, `Predicted memory by what it is for, ${name}`);
  const largest = Math.max(...records.map((record) => record.predicted_mib));
  records.forEach((record, index) => {
    const y = index * row + 6;
    svg.append(shape("text", { x: left - 8, y: y + 17, "text-anchor": "end" }, methodOf.get(record.method).short));
    let x = left;
    for (const [part, mib] of Object.entries(record.parts)) {
      const wide = (mib / largest) * (width - left - 90);
      const bar = shape("rect", { x, y, width: Math.max(0, wide), height: row - 10, fill: report.parts[part] });
      bar.append(shape("title", {}, `${methodOf.get(record.method).title}, ${part}: ${fixed(mib, 0)} MiB`));
      svg.append(bar);
      x += wide;
    }
    svg.append(shape("text", { x: x + 6, y: y + 17 }, `${fixed(record.predicted_mib, 0)} MiB`));
  });
}
byId("breakdown-legend").replaceChildren(
  ...Object.entries(report.parts).map(([part, color]) => {
    const item = element("li");
    const picture = shape("svg", { width: 14, height: 14, "aria-hidden": "true" });
    picture.append(shape("rect", { width: 14, height: 14, fill: color }));
    item.append(picture, part);
    return item;
  }),
);
byId("breakdown-setting").addEventListener("change", drawBreakdown);
drawBreakdown();

/* The Pareto front over any two columns. */
const measures = report.pareto.columns;
fill(byId("pareto-x"), measures.map((m) => [m.name, m.title]), "process_mib");
fill(byId("pareto-y"), measures.map((m) => [m.name, m.title]), "auc");

/** Points that no other is at least as good as in both and better in one. */
function paretoFront(points, x, y) {
  const better = (a, b, measure) => (measure.high_is_good ? a > b : a < b);
  const beats = (a, b) =>
    !better(b.x, a.x, x) && !better(b.y, a.y, y) && (better(a.x, b.x, x) || better(a.y, b.y, y));
  return points.filter((point) => !points.some((other) => beats(other, point))).sort((a, b) => a.x - b.x);
}

function drawPareto() {
  const [x, y] = ["pareto-x", "pareto-y"].map((id) => measures.find((m) => m.name === byId(id).value));
  const points = report.pareto.rows
    .map((row) => ({ method: row.method, x: row[x.name], y: row[y.name] }))
    .filter((point) => typeof point.x === "number" && typeof point.y === "number");
  const [width, height] = [roomFor("pareto"), 460];
  const svg = emptied("pareto", width, height, `${y.title} against ${x.title}`);
  const range = (key, measure) => {
    const values = points.map((point) => point[key]);
    const [low, high] = [Math.min(...values), Math.max(...values)];
    const log = low > 0 && high / low > 20;
    const room = (high - low) * 0.08 || 1;
    return log ? { low: low * 0.7, high: high * 1.5, log } : { low: low - room, high: high + room };
  };
  const at = axes(svg, [width, height], { title: x.title, ...range("x", x) }, { title: y.title, ...range("y", y) });
  const front = paretoFront(points, x, y);
  svg.append(shape("polyline", { class: "front", points: front.map((p) => `${at.x(p.x)},${at.y(p.y)}`).join(" ") }));
  for (const point of points) {
    const dot = marker(point.method, at.x(point.x), at.y(point.y), 7);
    const title = methodOf.get(point.method).title;
    dot.append(shape("title", {}, `${title}: ${short(point.x)}, ${short(point.y)}`));
    svg.append(dot);
  }
  byId("pareto-front").textContent = front.map((point) => methodOf.get(point.method).title).join(", ");
}
legend("pareto-legend", report.methods.map((method) => method.name));
for (const id of ["pareto-x", "pareto-y"]) byId(id).addEventListener("change", drawPareto);
drawPareto();

/* Charts are as wide as the window lets them. */
let lastWidth = window.innerWidth;
window.addEventListener("resize", () => {
  if (window.innerWidth === lastWidth) return;
  lastWidth = window.innerWidth;
  [drawResolution, drawBreakdown, drawPareto].forEach((draw) => draw());
});
