// Numbers and times as people read them. Pure.

const UNITS = [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]];

/** A number in few characters: 0, 0.25, 3.1, 42, 1.2 k. */
export function short(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  for (const [size, unit] of UNITS) {
    if (Math.abs(value) >= size) return `${trim((value / size).toPrecision(3))} ${unit}`;
  }
  return Number.isInteger(value) ? String(value) : trim(value.toPrecision(value < 1 ? 2 : 3));
}

const trim = (text) => (text.includes(".") && !text.includes("e") ? text.replace(/\.?0+$/, "") : text);

/** A count, whole. */
export const whole = (value) => (value === null || value === undefined ? "–" : value.toLocaleString("en"));

/** Seconds, in the unit that suits them. */
export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 0.01) return `${trim((seconds * 1000).toPrecision(2))} ms`;
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 90) return `${trim(seconds.toPrecision(3))} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return seconds < 172800 ? `${trim((seconds / 3600).toPrecision(2))} h` : `${Math.round(seconds / 86400)} days`;
}

/** Bytes, in binary units. */
export function bytes(value) {
  if (value === null || value === undefined) return "–";
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  const power = value < 1 ? 0 : Math.min(Math.floor(Math.log2(value) / 10), units.length - 1);
  return `${trim((value / 1024 ** power).toPrecision(3))} ${units[power]}`;
}

/** A share of one. */
export const percent = (share) => (share === null || share === undefined ? "–" : `${Math.round(share * 100)} %`);

/** A moment, given as Unix seconds or as a text with a time zone. */
export function moment(value) {
  if (!value) return "–";
  const date = new Date(typeof value === "number" ? value * 1000 : value);
  if (Number.isNaN(date.getTime())) return String(value);
  const pad = (number) => String(number).padStart(2, "0");
  const day = `${date.getFullYear()}-${pad(date.getMonth() + 1)}-${pad(date.getDate())}`;
  return `${day} ${clock(date)}`;
}

/** A time of day. */
export function clock(date) {
  return [date.getHours(), date.getMinutes(), date.getSeconds()].map((part) => String(part).padStart(2, "0")).join(":");
}
