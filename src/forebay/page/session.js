// Who is signed in: a key for operations, a key for the playground, mostly the same. In this tab's session memory alone.

import { NoAnswer, askJson } from "./ask.js";

const NAMES = { operations: "forebay.operations", playground: "forebay.playground" };
const PROBES = { operations: "admin/v1/live", playground: "v1/models" };

/** The key for a part: null where none is needed, undefined where there is none. */
export function keyFor(part) {
  const kept = sessionStorage.getItem(NAMES[part]);
  return kept === null ? undefined : kept || null;
}

export const mayUse = (part) => keyFor(part) !== undefined;

export function signOut() {
  for (const name of Object.values(NAMES)) sessionStorage.removeItem(name);
}

export function forget(part) {
  sessionStorage.removeItem(NAMES[part]);
}

/** Try a key (null: none) and keep it for what it opens. Throws `NoAnswer` where that is nothing. */
export async function signIn(key) {
  if (key !== null && !/^[\x21-\x7e]+$/.test(key)) throw new NoAnswer("A key has no spaces and no such characters.");
  const parts = Object.keys(PROBES);
  const tried = await Promise.allSettled(parts.map((part) => askJson(PROBES[part], { key })));
  const opened = parts.filter((_, index) => tried[index].status === "fulfilled");
  for (const part of opened) sessionStorage.setItem(NAMES[part], key ?? "");
  if (opened.length) return opened;
  const failures = tried.map((one) => one.reason);
  const why = failures.find((one) => one.status === 0) ?? failures.find((one) => one.status !== 401 && one.status !== 403);
  if (why) throw why;
  if (failures.some((one) => one.status === 403)) {
    throw new NoAnswer("This key has neither the scope admin nor the scope inference.", { status: 403 });
  }
  throw new NoAnswer("The gateway does not know this key.", { status: 401 });
}
