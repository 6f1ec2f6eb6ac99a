// A chat request as curl and as Python. Pure. The key is a variable in both: nobody pastes it into a chat by accident.

export const KEY = "FOREBAY_API_KEY";
const OPENAI = new Set(["model", "messages", "temperature", "top_p", "max_tokens", "seed"]);

/** A command line for a POSIX shell. */
export function curl(url, body) {
  const json = JSON.stringify({ ...body, stream: true }, null, 2).replaceAll("'", "'\\''");
  return [
    `curl --no-buffer ${quoted(`${url}/chat/completions`)} \\`,
    `  -H "Authorization: Bearer $${KEY}" \\`,
    "  -H 'Content-Type: application/json' \\",
    `  -d '${json}'`,
  ].join("\n");
}

const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

/** A program for OpenAI's own client. */
export function python(url, body) {
  const fields = Object.entries(body).filter(([name]) => OPENAI.has(name));
  const extra = Object.fromEntries(Object.entries(body).filter(([name]) => !OPENAI.has(name)));
  const given = fields.map(([name, value]) => `    ${name}=${literal(value)},`);
  if (Object.keys(extra).length) given.push(`    extra_body=${literal(extra)},`);
  return [
    "import os",
    "",
    "from openai import OpenAI",
    "",
    `client = OpenAI(base_url=${literal(url)}, api_key=os.environ["${KEY}"])`,
    "stream = client.chat.completions.create(",
    ...given,
    "    stream=True,",
    ")",
    "for chunk in stream:",
    "    if chunk.choices:",
    '        print(chunk.choices[0].delta.content or "", end="", flush=True)',
    "print()",
  ].join("\n");
}

/** A value as Python writes it. JSON's strings are Python's too. */
export function literal(value) {
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (Array.isArray(value)) return `[${value.map(literal).join(", ")}]`;
  if (typeof value === "object") {
    return `{${Object.entries(value).map(([name, one]) => `${literal(name)}: ${literal(one)}`).join(", ")}}`;
  }
  return JSON.stringify(value);
}
