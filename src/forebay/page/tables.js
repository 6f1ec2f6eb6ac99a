// Keys, usage, recent requests and settings: read when somebody looks at them, and again on request.

import { askJson } from "./ask.js";
import { $, h, say, table } from "./dom.js";
import { bytes, duration, moment, whole } from "./say.js";
import { keyFor } from "./session.js";

const PAGE = 100;
const ask = (path) => askJson(path, { key: keyFor("operations") });

/** Rows that come page by page: read the first ones into a box, with a button for more. */
async function paged(box, caption, columns, path, rowsOf, empty) {
  const rows = [];
  const more = h("button", { type: "button", class: "quiet" }, "More");
  const read = async (after) => {
    const page = await ask(after ? `${path}&after=${encodeURIComponent(after)}` : path);
    rows.push(...rowsOf(page));
    box.replaceChildren(table(caption, columns, rows, { empty }), ...(page.after ? [more] : []));
    more.onclick = () => read(page.after).catch((failure) => inform(box, failure));
    say(`${caption}: ${rows.length} rows.`);
  };
  await read("");
}

const inform = (box, failure) => box.replaceChildren(h("p", { class: "notice" }, failure.message));

// Keys

const LIMITS = [
  ["requests_per_minute", "requests/min"],
  ["tokens_per_minute", "tokens/min"],
  ["concurrency", "at once"],
  ["tokens_per_day", "tokens/day"],
  ["tokens_per_month", "tokens/month"],
];
const limitsOf = (one) => LIMITS.filter(([name]) => one[name] !== null).map(([name, unit]) => `${whole(one[name])} ${unit}`);

function keyState(one) {
  if (one.revoked_at) return h("span", { class: "badge" }, "revoked");
  if (one.expires_at && new Date(one.expires_at) < new Date()) return h("span", { class: "badge" }, "expired");
  return h("span", { class: "badge good" }, one.expires_at ? `until ${moment(one.expires_at)}` : "active");
}

const KEY_COLUMNS = [
  { title: "id", of: (one) => h("code", {}, one.id) },
  { title: "name", of: (one) => one.name || "–" },
  { title: "tenant", of: (one) => one.tenant },
  { title: "state", of: keyState },
  { title: "scopes", of: (one) => one.scopes.join(", ") },
  { title: "models", of: (one) => one.models?.join(", ") ?? "all" },
  { title: "limits", of: (one) => limitsOf(one).join(", ") || "none" },
  { title: "made", of: (one) => moment(one.created_at) },
];

export const showKeys = () =>
  paged($("keys-table"), "Keys", KEY_COLUMNS, `admin/v1/keys?limit=${PAGE}`, (page) => page.keys, "No keys have been made.");

// Usage

const USAGE_COLUMNS = [
  { title: "requests", number: true, of: (one) => whole(one.requests) },
  { title: "errors", number: true, of: (one) => whole(one.errors) },
  { title: "prompt tokens", number: true, of: (one) => whole(one.prompt_tokens) },
  { title: "of them cached", number: true, of: (one) => whole(one.cached_tokens) },
  { title: "generated tokens", number: true, of: (one) => whole(one.completion_tokens) },
  { title: "replayed", number: true, of: (one) => whole(one.replayed_tokens) },
  { title: "cost", number: true, of: (one) => one.cost ?? "–" },
];

export function showUsage() {
  const by = [...document.getElementsByName("by")].filter((box) => box.checked).map((box) => box.value);
  const since = $("usage-since").value;
  const query = [...(by.length ? by : ["tenant"]).map((one) => `by=${one}`), ...(since ? [`since=${since}`] : []), `limit=${PAGE}`];
  const dimensions = (by.length ? by : ["tenant"]).map((name) => ({ title: name, of: (one) => one[name] || "–" }));
  return paged($("usage-table"), "Usage", [...dimensions, ...USAGE_COLUMNS], `admin/v1/usage?${query.join("&")}`,
    (page) => page.usage, "Nothing has been used.");
}

// Recent requests

const REQUEST_COLUMNS = [
  { title: "request", of: (one) => h("a", { href: `#requests/${encodeURIComponent(one.request_id)}` }, h("code", {}, one.request_id)) },
  { title: "time", of: (one) => moment(one.time) },
  { title: "endpoint", of: (one) => one.endpoint },
  { title: "model", of: (one) => one.model || "–" },
  { title: "tenant", of: (one) => one.tenant || "–" },
  { title: "key", of: (one) => one.key_id || "–" },
  { title: "status", of: (one) => h("span", { class: `badge ${one.status >= 400 ? "bad" : "good"}` }, String(one.status)) },
  { title: "error", of: (one) => one.error || "–" },
  { title: "took", number: true, of: (one) => milliseconds(one.duration_ms) },
  { title: "first token", number: true, of: (one) => milliseconds(one.ttft_ms) },
  { title: "replica", of: (one) => one.replica || "–" },
  { title: "attempts", number: true, of: (one) => whole(one.attempts) },
];
const milliseconds = (value) => duration(value === null || value === undefined ? null : value / 1000);

/** Whether this gateway keeps recent requests. */
export async function keepsRequests() {
  try {
    await ask("admin/v1/requests?only=errors&limit=1");
    return true;
  } catch (failure) {
    return failure.status !== 404;
  }
}

/** The list; and the story of one of them, where its id is given. */
export async function showRequests(id) {
  $("request-story").hidden = true;
  if (id) await showStory(id);
  const only = $("only-errors").checked;
  const { data } = await ask(`admin/v1/requests?${only ? "only=errors&" : ""}limit=50`);
  $("requests-table").replaceChildren(table("Recent requests", REQUEST_COLUMNS, data, { empty: only ? "No errors." : "No requests." }));
  say(`Recent requests: ${data.length} rows.`);
}

async function showStory(id) {
  const box = $("request-story");
  try {
    const one = await ask(`admin/v1/requests/${encodeURIComponent(id)}`);
    const told = (name, value) => value !== null && value !== "" && !["steps", "verdict", "also"].includes(name);
    const plain = Object.entries(one).filter(([name, value]) => told(name, value));
    box.replaceChildren(
      h("h2", {}, "Request ", h("code", {}, id)),
      one.verdict && h("p", { class: "verdict" }, one.verdict),
      h("dl", { class: "facts" }, plain.map(([name, value]) => [h("dt", {}, name.replaceAll("_", " ")), h("dd", {}, name === "time" ? moment(value) : plainText(value))])),
      table("Steps", STEP_COLUMNS, one.steps ?? [], { empty: "No steps were kept." }));
  } catch (failure) {
    inform(box, failure);
  }
  box.hidden = false;
  say(`The story of request ${id}.`);
}

const STEP_COLUMNS = [
  { title: "at", number: true, of: (step) => milliseconds(step.at_ms) },
  { title: "what", of: (step) => step.what },
  { title: "detail", class: "why", of: (step) => detail(step.detail) },
];
const detail = (told) =>
  told && typeof told === "object" ? Object.entries(told).map(([name, value]) => `${name.replaceAll("_", " ")}: ${plainText(value)}`).join("; ") : plainText(told);
const plainText = (value) => (value === null || value === undefined ? "–" : typeof value === "object" ? JSON.stringify(value) : String(value));

// Settings

let settings = [];

export async function showSettings() {
  const told = await ask("debug/runtime");
  settings = Object.entries(told.settings);
  const about = [
    ["Forebay", told.versions.forebay],
    ["Python", told.versions.python],
    ["platform", told.versions.platform],
    ...Object.entries(told.versions.engines ?? {}).map(([name, version]) => [`engine ${name}`, version ?? "does not say"]),
    ["running for", duration(told.uptime_s)],
    ["memory", bytes(told.memory.resident_bytes)],
    ["process", String(told.process.pid)],
  ];
  $("settings-tables").replaceChildren(
    h("dl", { class: "facts panel" }, about.map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)])),
    h("div", { id: "settings-found" }));
  findSettings();
}

function findSettings() {
  const wanted = $("settings-find").value.trim().toLowerCase();
  const found = settings.filter(([name, value]) => `${name} ${plainText(value)}`.toLowerCase().includes(wanted));
  const columns = [
    { title: "setting", of: ([name]) => h("code", {}, name) },
    { title: "value", class: "why", of: ([, value]) => h("code", {}, plainText(value)) },
  ];
  $("settings-found")?.replaceChildren(table("Settings", columns, found, { empty: "No such setting." }));
}

/** Have the buttons and fields of these views do what they say. */
export function prepare(again) {
  for (const name of ["requests", "keys", "usage", "settings"]) $(`${name}-again`).addEventListener("click", () => again(name));
  $("only-errors").addEventListener("change", () => again("requests"));
  for (const box of [...document.getElementsByName("by"), $("usage-since")]) box.addEventListener("change", () => again("usage"));
  $("settings-find").addEventListener("input", findSettings);
}
