// What the gateway does now: tiles, charts, and the state of replicas, engines and GPUs.

import { Chart } from "./chart.js";
import { $, h, table } from "./dom.js";
import { gpuName } from "./figures.js";
import { bytes, duration, moment, percent, short, whole } from "./say.js";

const MOST_LINES = 4; // of a chart: as many as can be told apart

const charts = [
  new Chart("Requests a second", [
    { name: "answered", of: (point) => point.requests },
    { name: "failed", of: (point) => point.failed },
  ], short),
  new Chart("Tokens a second", [
    { name: "generated", of: (point) => point.tokensOut },
    { name: "prompts", of: (point) => point.tokensIn },
  ], short),
  new Chart("Time to first token", [
    { name: "p50", of: (point) => point.ttft50 },
    { name: "p95", of: (point) => point.ttft95 },
  ], duration, { note: "streams, last 10 s" }),
  new Chart("Time between tokens", [
    { name: "p50", of: (point) => point.itl50 },
    { name: "p95", of: (point) => point.itl95 },
  ], duration, { note: "streams, last 10 s" }),
  new Chart("Queue", [
    { name: "running", of: (point) => point.running },
    { name: "waiting", of: (point) => point.queued },
  ], short),
  new Chart("Errors a second", (points) => most("errors", points, 0), short, { note: "by code, the most frequent" }),
];
const ofReplicas = new Chart("Under way by replica", (points) => most("replicas", points, null), short, { note: "the busiest" });
const ofGpus = [
  new Chart("GPU busy", (points) => most("gpuBusy", points, null), percent, { note: "the busiest" }),
  new Chart("GPU memory", (points) => most("gpuMemory", points, null), percent, { note: "the fullest" }),
];
const all = [...charts, ofReplicas, ...ofGpus];

/** A line for each of the names under which most was counted. */
function most(field, points, none) {
  const sums = {};
  for (const point of points) {
    for (const [name, value] of Object.entries(point[field] ?? {})) sums[name] = (sums[name] ?? 0) + value;
  }
  const names = Object.keys(sums).sort((a, b) => sums[b] - sums[a]).slice(0, MOST_LINES).sort();
  if (!names.length) return [{ name: "none", of: () => none }];
  return names.map((name) => ({ name, of: (point) => point[field][name] ?? none }));
}

/** Put the charts on the page, once. */
export function prepare(rangeChanged) {
  $("charts").append(...all.map((chart) => chart.element));
  $("range").addEventListener("change", rangeChanged);
}

/** Show what has been read. */
export function show(live) {
  const seconds = Number($("range").value);
  ofReplicas.element.hidden = !(live.now?.replicas.length > 1);
  for (const chart of ofGpus) chart.element.hidden = !live.now?.gpus.length;
  for (const chart of all) if (!chart.element.hidden) chart.show(live.points, seconds);
  if (live.now === null) return;
  showTiles(live);
  showStates(live.now);
}

function showTiles({ now, points, failure }) {
  const last = points.at(-1);
  const point = last && !last.gap ? last : {};
  const { gauges } = failure ? { gauges: {} } : now;
  const tiles = [
    ["requests/s", short(point.requests)],
    ["failed/s", short(point.failed), point.failed ? "bad" : ""],
    ["tokens/s", short(point.tokensOut)],
    ["TTFT p95", duration(point.ttft95)],
    ["between tokens p95", duration(point.itl95)],
    ["running", gauges.limit ? `${gauges.running} of ${gauges.limit}` : short(gauges.running)],
    ["waiting", short(gauges.queued), gauges.queued ? "warn" : ""],
    ["connections", short(gauges.connections)],
    ["cache hits", percent(point.hits)],
  ];
  $("tiles").replaceChildren(...tiles.map(([name, value, kind]) =>
    h("div", { class: `tile ${kind ?? ""}` }, h("dt", {}, name), h("dd", {}, value))));
}

function showStates(now) {
  const blocks = [["Replicas", table("Replicas", REPLICA_COLUMNS, now.replicas, { empty: "No engine has been found." })]];
  if (now.engines.length) blocks.push(["Engines of this process", table("Engines", ENGINE_COLUMNS, now.engines)]);
  if (now.gpus.length) blocks.push(["GPUs", table("GPUs", GPU_COLUMNS, now.gpus)]);
  const warnings = now.limits_degraded
    ? [h("p", { class: "notice warn" }, "Limits are degraded: the shared counts cannot be used, so this gateway enforces its share alone.")]
    : [];
  keepScroll($("states"), [...warnings, ...blocks.map(([title, content]) =>
    h("div", { class: "panel", "data-block": title }, h("h2", {}, title), content))]);
}

/** Put new blocks in the place of old ones; focus and how far each was scrolled stay. */
function keepScroll(parent, blocks) {
  const boxes = () => [...parent.querySelectorAll(".scroll")];
  const before = new Map(boxes().map((box) => [box.getAttribute("aria-label"), [box.scrollLeft, box === document.activeElement]]));
  parent.replaceChildren(...blocks);
  for (const box of boxes()) {
    const [left, focused] = before.get(box.getAttribute("aria-label")) ?? [0, false];
    box.scrollLeft = left;
    if (focused) box.focus({ preventScroll: true });
  }
}

const badge = (text, kind) => h("span", { class: `badge ${kind}` }, text);

/** A share as a bar, and in words. */
function bar(share, text) {
  if (share === null || share === undefined || Number.isNaN(share)) return text;
  return h("span", { class: "measure" }, h("meter", { min: 0, max: 1, high: 0.9, value: Math.min(1, share), "aria-hidden": "true" }), text);
}

function replicaState(one) {
  if (one.draining) return badge("draining", "warn");
  if (one.ready) return badge("ready", "good");
  return badge(one.suspect ? "stalled" : "not ready", "bad");
}

const breakerKinds = { closed: "", half_open: "warn", open: "bad" };

const REPLICA_COLUMNS = [
  { title: "name", of: (one) => one.name },
  { title: "state", of: replicaState },
  { title: "models", of: (one) => one.models.join(", ") || "–" },
  { title: "under way", of: (one) => bar(one.in_flight / one.concurrency, `${one.in_flight} of ${one.concurrency}`) },
  { title: "load, tokens", number: true, of: (one) => whole(one.load_tokens) },
  { title: "breaker", of: (one) => badge(one.breaker.replace("_", "-"), breakerKinds[one.breaker] ?? "") },
  { title: "stalls", number: true, of: (one) => whole(one.stalls) },
  { title: "why", class: "why", of: (one) => (one.ready ? "" : one.why) },
];

const engineKinds = { ready: "good", failed: "bad", stopped: "bad", backoff: "bad" };

const ENGINE_COLUMNS = [
  { title: "name", of: (one) => one.name },
  { title: "state", of: (one) => badge(one.state, engineKinds[one.state] ?? "warn") },
  { title: "since", of: (one) => moment(one.since) },
  { title: "model", of: (one) => one.model },
  { title: "restarts", number: true, of: (one) => whole(one.restarts) },
  { title: "out of memory", number: true, of: (one) => whole(one.out_of_memory_events) },
  { title: "warm-up", number: true, of: (one) => duration(one.warmup_s) },
  { title: "why", class: "why", of: (one) => one.why || "" },
];

const GPU_COLUMNS = [
  { title: "GPU", of: gpuName },
  { title: "name", of: (one) => one.name },
  { title: "busy", of: (one) => bar(one.utilization_ratio, percent(one.utilization_ratio)) },
  { title: "memory", of: (one) => bar(one.memory_used_bytes / one.memory_total_bytes, `${bytes(one.memory_used_bytes)} of ${bytes(one.memory_total_bytes)}`) },
  { title: "temperature", number: true, of: (one) => (one.temperature_celsius === undefined ? "–" : `${short(one.temperature_celsius)} °C`) },
  { title: "power", number: true, of: (one) => (one.power_watts === undefined ? "–" : `${short(one.power_watts)} W`) },
  { title: "ECC errors", number: true, of: (one) => whole(one.ecc_errors_total) },
  { title: "Xid errors", number: true, of: (one) => whole(one.xid_errors_total) },
];
