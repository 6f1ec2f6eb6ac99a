// What lies between two readings of the gateway's counters. Pure. The same rules as `forebay top` has.

const FURTHEST_S = 7; // two readings further apart say nothing of the time between them

/**
 * A point of every chart, or null: there was no reading before, the gateway was started again, or time is missing.
 * Rates are of the time since `old`; quantiles of that since `older`, a few readings before, for one has few values.
 */
export function between(old, now, older = old) {
  if (old === null) return null;
  const seconds = now.at - old.at;
  if (seconds <= 0 || seconds > FURTHEST_S) return null;
  const rate = (name) => Math.max(0, now.counters[name] - old.counters[name]) / seconds;
  const statuses = increases(old.counters.statuses, now.counters.statuses);
  const errors = increases(old.counters.errors, now.counters.errors);
  const cache = increases(old.counters.cache, now.counters.cache);
  const failed = sum(Object.entries(statuses).filter(([status]) => status !== "499" && status >= "400"));
  const lookedUp = (cache.hit ?? 0) + (cache.miss ?? 0);
  return {
    requests: sum(Object.entries(statuses)) / seconds,
    failed: failed / seconds,
    tokensOut: rate("completion_tokens"),
    tokensIn: rate("prompt_tokens"),
    ttft50: quantile(0.5, older.histograms.ttft, now.histograms.ttft),
    ttft95: quantile(0.95, older.histograms.ttft, now.histograms.ttft),
    itl50: quantile(0.5, older.histograms.itl, now.histograms.itl),
    itl95: quantile(0.95, older.histograms.itl, now.histograms.itl),
    running: now.gauges.running,
    queued: now.gauges.queued,
    errors: Object.fromEntries(Object.entries(errors).filter(([, n]) => n).map(([code, n]) => [code, n / seconds])),
    replicas: Object.fromEntries(now.replicas.map((one) => [one.name, one.in_flight])),
    gpuBusy: Object.fromEntries(now.gpus.map((one) => [gpuName(one), one.utilization_ratio ?? null])),
    gpuMemory: Object.fromEntries(now.gpus.map((one) => [gpuName(one), share(one.memory_used_bytes, one.memory_total_bytes)])),
    hits: lookedUp ? (cache.hit ?? 0) / lookedUp : null,
  };
}

/** What a GPU, or a part of one, is called. */
export const gpuName = (one) => [one.gpu, one.mig].filter(Boolean).join("/");

/** The value below which a share of what was counted between two readings lies, as Prometheus has it; null of nothing. */
export function quantile(share, old, now) {
  const counts = now.counts.map((count, index) => count - (old.counts[index] ?? 0));
  const all = counts.at(-1);
  if (!(all > 0)) return null;
  const rank = share * all;
  let [below, floor] = [0, 0];
  for (const [index, count] of counts.entries()) {
    if (index === now.bounds.length) return floor; // beyond the last bound nothing is known but that
    if (count >= rank && count > below) return floor + (now.bounds[index] - floor) * (rank - below) / (count - below);
    [below, floor] = [count, now.bounds[index]];
  }
  return floor;
}

function increases(old, now) {
  const up = ([name, value]) => [name, value >= (old[name] ?? 0) ? value - (old[name] ?? 0) : value];
  return Object.fromEntries(Object.entries(now).map(up));
}

const share = (part, whole) => (part >= 0 && whole > 0 ? part / whole : null);
const sum = (pairs) => pairs.reduce((total, [, value]) => total + value, 0);
