// Health: what is ready, what it does right now, and what it is made of.

import { announce, call, events, json } from "./api.js";
import { calibrate } from "./calibrate.js";
import { histogram } from "./histogram.js";
import { gauge, increase, mean, parse, quantile } from "./metrics.js";
import { calibrationOf, percent, rateWords } from "./thresholds.js";
import { byId, complain, h, number, svg } from "./ui.js";

const EVERY_MS = 2000;
const KEPT = 60; // readings: two minutes
const FEWEST = 15; // readings that a chart is wide, however few there are yet
const OVER = 5; // a figure speaks of the last five readings, ten seconds
const [WIDTH, HEIGHT] = [240, 60];
const readings = []; // [{ at, samples }]
let timer = null;

const seconds = (before, now) => (now.at - before.at) / 1000;
const milliseconds = (value) => (value === null ? null : value * 1000);
const CHARTS = [
  { title: "Requests", unit: "a second", digits: 1, of: (a, b) => increase(a.samples, b.samples, "reid_requests_total") / seconds(a, b) },
  { title: "Crops embedded", unit: "a second", digits: 1, of: (a, b) => increase(a.samples, b.samples, "reid_batch_size_sum") / seconds(a, b) },
  { title: "Latency, median", unit: "ms", digits: 0, of: (a, b) => milliseconds(quantile(a.samples, b.samples, "reid_request_seconds", 0.5)) },
  { title: "Latency, 95 of 100 under", unit: "ms", digits: 0, of: (a, b) => milliseconds(quantile(a.samples, b.samples, "reid_request_seconds", 0.95)) },
  { title: "Batch size", unit: "crops", digits: 1, of: (a, b) => mean(a.samples, b.samples, "reid_batch_size") },
  { title: "Queue", unit: "crops waiting", digits: 0, of: (a, b) => gauge(b.samples, "reid_queue_crops") },
];

function values(chart) {
  return readings.slice(1).map((now, index) => chart.of(readings[Math.max(0, index + 1 - OVER)], now));
}

// One stroke for every run of values; a gap where nothing was measured.
function strokes(line, top) {
  const step = WIDTH / (Math.max(FEWEST, line.length) - 1);
  const left = WIDTH - (line.length - 1) * step;
  const runs = [[]];
  line.forEach((value, index) => {
    if (value === null) runs.push([]);
    else runs.at(-1).push(`${(left + index * step).toFixed(1)},${(HEIGHT - 3 - (value / top) * (HEIGHT - 8)).toFixed(1)}`);
  });
  return runs.filter((run) => run.length).flatMap((run) => {
    const points = (run.length === 1 ? [run[0], run[0]] : run).join(" ");
    const [first, last] = [run[0], run.at(-1)].map((point) => point.split(",")[0]);
    return [svg("polygon", { class: "under", points: `${first},${HEIGHT} ${points} ${last},${HEIGHT}` }), svg("polyline", { points })];
  });
}

function draw(chart) {
  const line = values(chart);
  const now = line.at(-1) ?? null;
  const known = line.filter((value) => value !== null);
  const top = Math.max(1, ...known);
  const words = now === null ? "idle" : `${number(now, chart.digits)} ${chart.unit}`;
  const most = known.length ? `at most ${number(Math.max(...known), chart.digits)}` : "nothing yet";
  const graph = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", "aria-hidden": "true" }, ...strokes(line, top));
  return h("div", { class: "card chart" }, h("h2", {}, chart.title), h("p", { class: "now" }, words), graph, h("p", { class: "hint" }, most));
}

async function read() {
  const samples = parse(await (await call("/metrics")).text());
  const before = readings.at(-1);
  const total = (reading) => increase([], reading.samples, "reid_requests_total");
  if (before && total({ samples }) < total(before)) readings.length = 0; // it was started anew
  readings.push({ at: performance.now(), samples });
  if (readings.length > KEPT) readings.shift();
  byId("charts").replaceChildren(...CHARTS.map(draw));
}

async function showParts() {
  const answer = await call("/readyz", { isProbe: true });
  const body = await answer.json();
  const state = ([name, words]) => {
    const kind = words === "ready" ? "well" : words.startsWith("ready") ? "warned" : "ill"; // "ready; but ..."
    const said = name[0].toUpperCase() + name.slice(1);
    return h("span", { class: `part ${kind}` }, `${kind === "well" ? "✓" : "!"} ${said}: ${words}`);
  };
  const made = Object.entries(body.parts ?? { service: body.error?.message ?? `answered ${answer.status}` }).map(state);
  const words = (nodes) => nodes.map((node) => node.textContent).join();
  // Said aloud only when it changes.
  if (words(made) !== words([...byId("parts").children])) byId("parts").replaceChildren(...made);
}

function definitions(pairs) {
  const known = pairs.filter(([, value]) => value !== null && value !== undefined);
  return known.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, String(value))));
}

// measured: what /calibration says, null where the manifest's thresholds are used.
function thresholdTable(model, measured) {
  const calibration = calibrationOf(model);
  if (!calibration) return [h("p", { class: "hint" }, "This model has no calibration: every search needs a threshold of its own.")];
  const rows = calibration.rates.map(([rate, cosine]) => {
    const usual = Math.abs(cosine - calibration.default) < 1e-9 ? " (used)" : "";
    const cells = [h("td", {}, rateWords(rate)), h("td", { class: "figure" }, `${cosine.toFixed(3)}${usual}`)];
    const reached = measured?.rates.find((one) => one.far === rate)?.tar;
    if (measured) cells.push(h("td", { class: "figure" }, reached === undefined ? "" : percent(reached)));
    return h("tr", {}, ...cells);
  });
  const names = ["Strangers accepted", "From cosine", ...(measured ? ["Same person reached"] : [])];
  const head = h("tr", {}, ...names.map((name) => h("th", { scope: "col" }, name)));
  const facts = `Used unless a search says otherwise: ${calibration.default.toFixed(3)}. Two identities over it and nearer than ${calibration.margin.toFixed(3)} are ambiguous.`;
  const source = calibration.source ? h("p", { class: "hint" }, `From ${calibration.source}.`) : null;
  return [h("table", {}, h("thead", {}, head), h("tbody", {}, ...rows)), h("p", { class: "hint" }, facts), ...(source ? [source] : [])];
}

async function showFacts() {
  const [model, stats] = await Promise.all([json("/model"), json("/gallery/stats")]);
  announce("gallery-known", stats);
  const size = model.input ? `${model.input.height} × ${model.input.width} pixels` : null;
  const map = model.metrics?.mAP;
  byId("model-facts").replaceChildren(
    ...definitions([
      ["Architecture", model.architecture],
      ["Model", model.model_id.slice(0, 16)],
      ["Space", model.space_id.slice(0, 16)],
      ["Precision", model.precision],
      ["Runs on", `${model.runtime.name} ${model.runtime.version}, ${model.runtime.provider}`],
      ["Crops become", size],
      ["Embedding", `${number(model.dim)} values`],
      ["mAP", map ? `${number(100 * map, 1)} % on ${model.metrics.data ?? "its test set"}` : null],
    ]),
  );
  byId("gallery-facts").replaceChildren(
    ...definitions([
      ["Identities", number(stats.identities)],
      ["Crops", number(stats.entries)],
      ["Cameras", number(stats.cameras)],
      ["On the disk", `${number(stats.bytes / 1e6, 1)} MB`],
      ["Index", stats.index_type],
      ["Schema", stats.schema_version],
    ]),
  );
  const answer = await call("/calibration", { isProbe: true });
  const measured = answer.ok ? await answer.json() : null;
  byId("thresholds").replaceChildren(...thresholdTable(model, measured), ...(measured ? [histogram(measured)] : []));
}

async function tick() {
  // While the service is gone or no key is given the page says so elsewhere.
  await Promise.all([read(), showParts()]).catch((error) => error.status === 0 || complain(error));
  if (!byId("health").hidden) timer = setTimeout(tick, EVERY_MS);
}

export function start() {
  byId("calibrate").addEventListener("click", () => calibrate().catch(complain));
  events.addEventListener("calibrated", () => showFacts().catch(complain));
}

export async function show() {
  clearTimeout(timer);
  tick();
  await showFacts();
}

export function hide() {
  clearTimeout(timer);
}
