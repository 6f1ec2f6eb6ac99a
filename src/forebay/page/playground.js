// A chat with a model, streamed: what it says, how fast, and the same request as code.

import { NoAnswer, address, ask, askJson } from "./ask.js";
import { curl, python } from "./code.js";
import { $, h, say } from "./dom.js";
import { duration, short, whole } from "./say.js";
import { keyFor, mayUse } from "./session.js";
import { events } from "./sse.js";

const NUMBERS = ["temperature", "top_p", "max_tokens", "seed"];
let turns = []; // {role, content}: what has been said, answers included
let presets = {};
let answering = null; // what stops the answer under way
let reading = Promise.resolve(); // the models, on their way

/** Have the form do what it says, once. */
export function prepare() {
  $("more-sampling").open = !matchMedia("(max-width: 760px)").matches;
  $("composer").addEventListener("submit", (event) => {
    event.preventDefault();
    send();
  });
  $("message").addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    $("composer").requestSubmit();
  });
  $("stop").addEventListener("click", () => answering?.abort());
  $("clear").addEventListener("click", clear);
  $("sampling").addEventListener("submit", (event) => event.preventDefault());
  $("model").addEventListener("change", readModel);
  $("preset").addEventListener("change", tellPreset);
  for (const form of [$("sampling"), $("composer")]) form.addEventListener("input", showCode);
  for (const button of document.querySelectorAll("[data-copy]")) button.addEventListener("click", () => copy(button));
  $("as-code").addEventListener("toggle", showCode);
}

/** Forget what was said, as when somebody signs out. */
export function clear() {
  answering?.abort();
  turns = [];
  for (const name of ["message", "system"]) $(name).value = "";
  empty();
  $("message").focus();
}

const empty = () =>
  $("conversation").replaceChildren(h("p", { class: "muted empty" }, "What you ask goes through the gateway like any caller's request, and counts like one."));

/** Read the models, when the view is opened. Throws `NoAnswer`. */
export async function show() {
  if (!$("conversation").childElementCount) empty();
  reading = readModels();
  await reading;
}

async function readModels() {
  const { data } = await askJson("v1/models", { key: keyFor("playground") });
  const chosen = $("model").value;
  $("model").replaceChildren(...data.map((card) => h("option", { value: card.id, selected: card.id === chosen }, card.id)));
  if (!data.length) $("model").append(h("option", { value: "" }, "no model is open to this key"));
  await readModel();
}

async function readModel() {
  const model = $("model").value;
  const told = await askJson(`model_info?model=${encodeURIComponent(model)}`, { key: keyFor("playground") }).catch(() => ({}));
  presets = told.presets ?? {};
  const chosen = $("preset").value;
  const options = Object.keys(presets).map((name) => h("option", { value: name, selected: name === chosen }, name));
  $("preset").replaceChildren(h("option", { value: "" }, "none"), ...options);
  tellPreset();
}

function tellPreset() {
  const fills = presets[$("preset").value] ?? {};
  $("preset-says").textContent = Object.entries(fills).map(([name, value]) => `${name.replaceAll("_", " ")} ${value}`).join(", ");
  showCode();
}

/** The request for a conversation, without what only this page needs. */
function bodyFor(messages) {
  const system = $("system").value.trim();
  const body = { model: $("model").value, messages: [...(system ? [{ role: "system", content: system }] : []), ...messages] };
  if ($("preset").value) body.preset = $("preset").value;
  for (const name of NUMBERS) if ($(name).value !== "") body[name] = Number($(name).value);
  return body;
}

// As code

function codeAs(language) {
  const typed = $("message").value.trim();
  const messages = typed || !turns.length ? [...turns, { role: "user", content: typed || "Hello!" }] : turns.slice(0, lastQuestion() + 1);
  const render = { curl, python }[language];
  return render(address("v1"), bodyFor(messages));
}

const lastQuestion = () => turns.findLastIndex((turn) => turn.role === "user");

let shown = "curl";
function showCode() {
  if ($("as-code").open) $("code").textContent = codeAs(shown);
}

async function copy(button) {
  shown = button.dataset.copy;
  showCode();
  const text = codeAs(shown);
  try {
    await navigator.clipboard.writeText(text);
    say("Copied.");
    button.textContent = "Copied";
  } catch {
    getSelection().selectAllChildren($("code")); // no clipboard where the page came over plain HTTP
    say("The code is selected: copy it with the keyboard.");
    button.textContent = "Selected: now copy";
  }
  setTimeout(() => (button.textContent = `Copy as ${button.dataset.copy === "curl" ? "curl" : "Python"}`), 1500);
}

// Asking

async function send() {
  const content = $("message").value.trim();
  if (!content || answering || !$("sampling").reportValidity()) return;
  answering = new AbortController();
  busy(true);
  $("message").value = "";
  if (!turns.length) $("conversation").replaceChildren();
  turns.push({ role: "user", content });
  $("conversation").append(bubble("user", "You", content).element);
  try {
    await converse(answering.signal);
  } finally {
    answering = null;
    busy(false);
    showCode();
  }
}

function busy(on) {
  $("send").disabled = on;
  const hadFocus = document.activeElement === $("stop");
  $("stop").hidden = !on;
  if (hadFocus && !on) $("message").focus();
}

async function converse(signal) {
  await reading.catch(() => {}); // told where it began; who types faster than models come asks one of them all the same
  if (signal.aborted) {
    turns.pop();
    return;
  }
  const answer = bubble("assistant", $("model").value, "");
  $("conversation").append(answer.element);
  await receive(answer, signal);
}

async function receive(answer, signal) {
  const heard = { text: "", reasoning: "", tokens: 0, began: performance.now(), usage: null, finish: null };
  say("Answering.");
  let ending = "";
  try {
    const body = { ...bodyFor(turns), stream: true, stream_options: { include_usage: true } };
    const response = await ask("v1/chat/completions", { key: keyFor("playground"), body, signal });
    heard.id = response.headers.get("x-request-id");
    for await (const data of events(response.body)) {
      if (data === "[DONE]") break;
      take(heard, JSON.parse(data), answer);
    }
  } catch (failure) {
    if (signal.aborted) ending = "stopped";
    else answer.fail(failure instanceof NoAnswer || failure instanceof Told ? failure : new Told("The stream broke off."));
    heard.id ??= failure.requestId;
  }
  heard.ended = performance.now();
  answer.done(heard, ending);
  if (heard.text) turns.push({ role: "assistant", content: heard.text });
  else turns.pop(); // nothing was answered: the question may be asked again
  say(ending || (heard.text ? `Answered: ${heard.text.slice(0, 300)}` : "No answer."));
}

/** An error that came inside the stream. */
class Told extends Error {}

function take(heard, chunk, answer) {
  if (chunk.error) throw new Told(String(chunk.error.message ?? chunk.error));
  if (chunk.usage) heard.usage = chunk.usage;
  const choice = chunk.choices?.[0];
  if (!choice) return;
  const { content, reasoning_content: thought, reasoning } = choice.delta ?? {};
  if (choice.finish_reason) heard.finish = choice.finish_reason;
  if (!content && !thought && !reasoning) return;
  heard.last = performance.now();
  heard.first ??= heard.last;
  heard.tokens += 1;
  heard.text += content ?? "";
  heard.reasoning += thought ?? reasoning ?? "";
  answer.tell(heard);
}

// What is seen

function bubble(role, name, content) {
  const text = h("div", { class: "text" }, content);
  const reasoning = h("div", { class: "reasoning muted", hidden: true });
  const about = h("p", { class: "about muted small" });
  const element = h("article", { class: `bubble ${role}`, "aria-label": name, "aria-busy": role === "assistant" ? "true" : null },
    h("h2", { class: "small muted" }, name), reasoning, text, about);
  const follow = (change) => {
    const box = $("conversation");
    const atEnd = box.scrollHeight - box.scrollTop - box.clientHeight < 60;
    change();
    if (atEnd) box.scrollTop = box.scrollHeight;
  };
  requestAnimationFrame(() => ($("conversation").scrollTop = $("conversation").scrollHeight));
  return {
    element,
    tell: (heard) => follow(() => {
      text.textContent = heard.text;
      reasoning.hidden = !heard.reasoning;
      reasoning.textContent = heard.reasoning;
      about.textContent = `${heard.tokens} tokens so far`;
    }),
    fail: (failure) => follow(() => {
      const code = failure.code ? ` (${failure.status} ${failure.code})` : "";
      text.append(h("p", { class: "notice bad" }, `${failure.message}${code}`));
    }),
    done: (heard, ending) => follow(() => {
      element.setAttribute("aria-busy", "false");
      about.replaceChildren(...figures(heard, ending).map((told) => h("span", {}, told)));
    }),
  };
}

/** The request's id, leading to its story where the gateway keeps that. */
const requestOf = (id) =>
  $("to-requests").hidden ? `request ${id}` : h("a", { href: `#requests/${encodeURIComponent(id)}` }, `request ${id.slice(0, 12)}…`);

/** What there is to tell of an answer: counts by the engine where it told them. */
function figures(heard, ending) {
  const out = heard.usage?.completion_tokens ?? heard.tokens;
  const streaming = (heard.last - heard.first) / 1000;
  return [
    heard.usage && `${whole(heard.usage.prompt_tokens)} prompt tokens`,
    heard.first && `${heard.usage ? "" : "about "}${whole(out)} tokens`,
    heard.first && `first after ${duration((heard.first - heard.began) / 1000)}`,
    out > 1 && streaming > 0 && `${short((out - 1) / streaming)} tokens/s`,
    `${duration((heard.ended - heard.began) / 1000)} in all`,
    ending || (heard.finish && heard.finish !== "stop" && `ended by ${heard.finish}`),
    heard.id && mayUse("operations") && requestOf(heard.id),
  ].filter(Boolean);
}
