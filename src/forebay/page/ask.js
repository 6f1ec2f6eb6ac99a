// The gateway, asked with a key. Addresses are relative to the page's own, so that it works below any prefix.

const PATIENCE_MS = 10_000;

/** The gateway did not answer, or said no. `status` is 0 where nobody answered. */
export class NoAnswer extends Error {
  constructor(message, { status = 0, code = "", requestId = "" } = {}) {
    super(message);
    Object.assign(this, { status, code, requestId });
  }
}

export const address = (path) => new URL(path, document.baseURI).href;

/** Ask; the answer's head is there, and it is a yes. Throws `NoAnswer`; an abort by `signal` is thrown as it is. */
export async function ask(path, { key = null, body = undefined, signal = undefined } = {}) {
  const headers = { accept: "application/json" };
  if (key) headers.authorization = `Bearer ${key}`;
  if (body !== undefined) headers["content-type"] = "application/json";
  let answer;
  try {
    answer = await fetch(address(path), {
      method: body === undefined ? "GET" : "POST",
      headers,
      body: body === undefined ? undefined : JSON.stringify(body),
      signal: signal ?? AbortSignal.timeout(PATIENCE_MS),
      credentials: "omit",
      cache: "no-store",
      redirect: "error",
      referrerPolicy: "no-referrer",
    });
  } catch (failure) {
    if (signal?.aborted) throw failure;
    throw new NoAnswer("The gateway cannot be reached.");
  }
  if (!answer.ok) throw await refusal(answer);
  return answer;
}

/** The same, for an answer that is JSON. */
export async function askJson(path, options = {}) {
  const answer = await ask(path, options);
  try {
    return await answer.json();
  } catch {
    throw new NoAnswer("The gateway's answer was cut, or is not JSON.", { status: answer.status });
  }
}

async function refusal(answer) {
  let error = {};
  try {
    error = (await answer.json()).error ?? {};
  } catch {
    // not ours: something between here and the gateway answered
  }
  return new NoAnswer(String(error.message ?? `Status ${answer.status}.`), {
    status: answer.status,
    code: String(error.code ?? ""),
    requestId: answer.headers.get("x-request-id") ?? "",
  });
}
