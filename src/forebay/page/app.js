// Forebay's page: which view is shown, who is signed in, light or dark. The views themselves are in files of their own.

import { NoAnswer, askJson } from "./ask.js";
import { $, say } from "./dom.js";
import { Live } from "./live.js";
import * as overview from "./overview.js";
import * as playground from "./playground.js";
import { clock } from "./say.js";
import { forget, keyFor, mayUse, signIn, signOut } from "./session.js";
import * as tables from "./tables.js";

const VIEWS = {
  overview: { part: "operations", show: () => live && overview.show(live) },
  requests: { part: "operations", show: tables.showRequests },
  keys: { part: "operations", show: tables.showKeys },
  usage: { part: "operations", show: tables.showUsage },
  settings: { part: "operations", show: tables.showSettings },
  playground: { part: "playground", show: playground.show },
};
const WHY = {
  operations: "This view takes a key with the scope admin: one of ADMIN_KEYS, or one made with forebay keys.",
  playground: "The playground takes a key with the scope inference.",
};
const THEME = "forebay.theme";
let live = null;

// Which view

/** The view's name, and what of it: `#requests/ID`. */
function place() {
  try {
    return location.hash.slice(1).split("/", 2).map(decodeURIComponent);
  } catch {
    return [""]; // an address that somebody mistyped
  }
}

const wanted = () => {
  const [name] = place();
  if (Object.hasOwn(VIEWS, name)) return name;
  return mayUse("playground") && !mayUse("operations") ? "playground" : "overview";
};

async function route({ focus = false } = {}) {
  const name = wanted();
  const open = mayUse(VIEWS[name].part);
  const anybody = mayUse("operations") || mayUse("playground");
  for (const view of Object.keys(VIEWS)) $(view).hidden = view !== name || !open;
  $("sign-in").hidden = open;
  $("sign-in-why").textContent = anybody || location.hash ? WHY[VIEWS[name].part] : "";
  $("views").hidden = $("sign-out").hidden = !anybody;
  for (const link of $("views").querySelectorAll("a")) {
    if (link.hash === `#${name}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = open ? `${name[0].toUpperCase()}${name.slice(1)} · Forebay` : "Forebay";
  if (focus) $(open ? "main" : "key").focus();
  if (open) await shown(name);
  else $("key").focus();
}

/** Have a view read what it shows; say it where that fails. */
async function shown(name) {
  notice("");
  try {
    await VIEWS[name].show(place()[1]);
  } catch (failure) {
    if (!(failure instanceof NoAnswer)) throw failure;
    if (failure.status === 401) ended(VIEWS[name].part);
    else notice(failure.message);
  }
}

function notice(text) {
  $("notice").textContent = text;
  $("notice").hidden = !text;
}

// Who is signed in

function begin() {
  if (mayUse("operations") && !live) {
    live = new Live(keyFor("operations"), changed);
    tables.keepsRequests().then((kept) => ($("to-requests").hidden = !kept));
  }
  if (!mayUse("operations")) askJson("health", { key: keyFor("playground") }).then((told) => pill(told.status, told.version), () => {});
}

function changed({ now, failure, failedSince }) {
  if (failure?.status === 401 || failure?.status === 403) return ended("operations");
  if (failure) pill(`not reachable since ${clock(failedSince)}`, null, failure.status ? failure.message : "");
  else pill(now.status, now.version, now.why);
  if (wanted() === "overview" && live) overview.show(live);
}

/** The key does not open this part any more. */
function ended(part) {
  if (part === "operations") stopLive();
  forget(part);
  $("sign-in-failed").textContent = "The key is not accepted any more.";
  route();
}

function stopLive() {
  live?.end();
  live = null;
  $("status").hidden = true;
}

$("sign-in-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const key = $("key").value.trim();
  $("sign-in-failed").textContent = "";
  try {
    const parts = await signIn(key);
    $("key").value = "";
    begin();
    if (!parts.includes(VIEWS[wanted()].part)) $("sign-in-failed").textContent = "This key does not open this view, but others.";
    await route({ focus: true });
    say("Signed in.");
  } catch (failure) {
    if (!(failure instanceof NoAnswer)) throw failure;
    $("sign-in-failed").textContent = failure.message;
    $("key").focus();
  }
});

$("sign-out").addEventListener("click", () => {
  signOut();
  location.replace(location.pathname); // the page anew: nothing of what was shown stays in memory
});

// How it looks

function pill(status, version, why = "") {
  const kind = status === "ok" ? "good" : status === "degraded" || status === "draining" ? "warn" : "bad";
  const text = why && status !== "ok" ? `${status}: ${why}` : status;
  $("status").className = `pill ${kind}`;
  if ($("status").textContent !== text) $("status").textContent = text; // said again only when it has changed
  $("status").hidden = false;
  if (version) $("version").textContent = version;
}

function theme(name) {
  if (name) document.documentElement.dataset.theme = name;
  else delete document.documentElement.dataset.theme;
}

$("theme").value = localStorage.getItem(THEME) ?? "";
theme($("theme").value);
$("theme").addEventListener("change", () => {
  theme($("theme").value);
  if ($("theme").value) localStorage.setItem(THEME, $("theme").value);
  else localStorage.removeItem(THEME);
});

// The beginning

overview.prepare(() => live && overview.show(live));
tables.prepare(shown);
playground.prepare();
addEventListener("hashchange", () => route({ focus: true }));
document.querySelector("a.skip").addEventListener("click", (event) => {
  event.preventDefault(); // the view stays: its name is the address
  $("main").focus();
});
if (!mayUse("playground") && !mayUse("operations")) await signIn(null).catch(() => {}); // where nobody is asked for a key
begin();
await route();
