// The gateway read every two seconds while somebody looks, and what has been seen: a line of points with gaps in it.

import { askJson } from "./ask.js";
import { between } from "./figures.js";

export const EVERY_MS = 2000;
const SPAN = 5; // readings that quantiles look back
const KEPT_MS = 31 * 60 * 1000;

export class Live {
  /** `changed(live)` is called after each reading and each failure. */
  constructor(key, changed) {
    this.points = []; // {time: ms, ...figures}, or {time: ms, gap: true}
    this.now = null; // the latest reading
    this.failure = null; // why there is no newer one
    this.failedSince = null;
    this._key = key;
    this._changed = changed;
    this._read_before = []; // since the last gap, the newest last
    this._timer = null;
    this._ended = false;
    this._seen = () => (document.hidden ? this._pause() : this._read());
    document.addEventListener("visibilitychange", this._seen);
    this._read();
  }

  end() {
    this._ended = true;
    this._pause();
    document.removeEventListener("visibilitychange", this._seen);
  }

  _pause() {
    clearTimeout(this._timer);
    this._timer = null;
  }

  async _read() {
    this._pause();
    const began = Date.now();
    try {
      const read = await askJson("admin/v1/live", { key: this._key });
      if (this._ended) return;
      this._take(read);
    } catch (failure) {
      if (this._ended) return;
      this.failure = failure;
      this.failedSince ??= new Date();
      this._read_before = [];
      this.points.push({ time: Date.now(), gap: true });
    }
    this._changed(this);
    if (!document.hidden && !this._ended) {
      this._timer = setTimeout(() => this._read(), Math.max(0, EVERY_MS - (Date.now() - began)));
    }
  }

  _take(read) {
    const time = Date.now();
    const point = between(this._read_before.at(-1) ?? null, read, this._read_before[0]);
    this.points.push(point ? { time, ...point } : { time, gap: true });
    while (this.points[0].time < time - KEPT_MS) this.points.shift();
    this._read_before = point ? [...this._read_before, read].slice(-SPAN) : [read];
    [this.now, this.failure, this.failedSince] = [read, null, null];
  }
}
