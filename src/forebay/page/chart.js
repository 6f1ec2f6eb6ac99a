// A chart of lines over the last minutes: SVG of our own, a legend that has the numbers, and a table for who reads.

import { h, svg, table } from "./dom.js";
import { clock } from "./say.js";

const HEIGHT = 132;
const EDGE = { left: 56, right: 8, top: 8, bottom: 18 };
const LINES_IN_TABLE = 30;
const DASHES = ["", "5 3", "1.5 3", "8 3 2 3"]; // lines differ in more than colour

export class Chart {
  /** `series` are [{name, of(point)}], or a function of the points that makes them; `say` tells a value. */
  constructor(title, series, say, { note = "" } = {}) {
    this._title = title;
    this._series = typeof series === "function" ? series : () => series;
    this._say = say;
    this._points = [];
    this._cursor = null; // where the mouse is, as a time
    this._legend = h("ul", { class: "legend", "aria-hidden": "true" });
    this._svg = svg("svg", { role: "img", height: HEIGHT });
    this._svg.addEventListener("pointermove", (event) => this._point(event));
    this._svg.addEventListener("pointerleave", () => this._point(null));
    this._table = h("div");
    this._details = h("details", {}, h("summary", {}, "Table", h("span", { class: "hidden" }, ` of ${title}`)), this._table);
    this._details.addEventListener("toggle", () => this._tell());
    this.element = h("figure", { class: "panel chart" },
      h("figcaption", {}, h("h2", {}, title), note && h("span", { class: "muted small" }, note)),
      this._legend, this._svg, this._details);
    new ResizeObserver(() => this._draw()).observe(this._svg);
  }

  show(points, seconds) {
    this._to = Date.now();
    this._from = this._to - seconds * 1000;
    const first = points.findIndex((point) => point.time >= this._from);
    this._points = first < 0 ? [] : points.slice(Math.max(0, first - 1)); // one more, so that the line begins at the edge
    this._draw();
    this._tell();
  }

  _draw() {
    const width = this._svg.clientWidth;
    if (!width || this._to === undefined) return;
    const lines = this._series(this._points);
    const top = nice(Math.max(0, ...lines.flatMap((line) => this._points.map((point) => value(line, point) ?? 0))));
    const x = (time) => EDGE.left + ((time - this._from) / (this._to - this._from)) * (width - EDGE.left - EDGE.right);
    const y = (number) => HEIGHT - EDGE.bottom - (number / top) * (HEIGHT - EDGE.top - EDGE.bottom);
    this._scale = { x, width };
    this._svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    this._svg.setAttribute("aria-label", this._summary(lines));
    const clip = `${this._title.replace(/\W+/g, "-")}-clip`;
    this._svg.replaceChildren(
      svg("clipPath", { id: clip }, svg("rect", { x: EDGE.left, y: 0, width: Math.max(0, width - EDGE.left - EDGE.right + 2), height: HEIGHT })),
      ...this._grid(top, x, y, width),
      svg("g", { "clip-path": `url(#${clip})` }, ...lines.flatMap((line, index) => this._line(line, index, x, y))),
      ...this._cursorLine(y, top));
    this._tellLegend(lines);
  }

  _grid(top, x, y, width) {
    const rows = [0, top / 2, top].flatMap((number) => [
      svg("line", { class: "grid", x1: EDGE.left, x2: width - EDGE.right, y1: y(number), y2: y(number) }),
      svg("text", { class: "axis", x: EDGE.left - 6, y: y(number) + 4, "text-anchor": "end" }, this._say(number)),
    ]);
    const minutes = (this._to - this._from) / 60_000;
    const times = [[this._from, `${minutes} min ago`, "start"], [this._to, "now", "end"]];
    return [...rows, ...times.map(([time, text, anchor]) =>
      svg("text", { class: "axis", x: x(time), y: HEIGHT - 4, "text-anchor": anchor }, text))];
  }

  /** A path for each stretch without a gap; a dot where a stretch is one point. */
  _line(line, index, x, y) {
    const stretches = [[]];
    for (const point of this._points) {
      const number = value(line, point);
      if (number === null) stretches.push([]);
      else stretches.at(-1).push([x(point.time).toFixed(1), y(number).toFixed(1)]);
    }
    const name = `line s${index % 4}`;
    return stretches.filter((stretch) => stretch.length).map((stretch) =>
      stretch.length === 1
        ? svg("circle", { class: name, cx: stretch[0][0], cy: stretch[0][1], r: 1.5 })
        : svg("path", { class: name, d: `M${stretch.map((pair) => pair.join(" ")).join("L")}`, "stroke-dasharray": DASHES[index % 4] }));
  }

  _cursorLine(y, top) {
    const at = this._at();
    if (this._cursor === null || at === undefined) return [];
    const x = this._scale.x(at.time);
    return [svg("line", { class: "cursor", x1: x, x2: x, y1: y(0), y2: y(top) })];
  }

  _point(event) {
    const { left } = this._svg.getBoundingClientRect();
    const share = event && (event.clientX - left - EDGE.left) / (this._svg.clientWidth - EDGE.left - EDGE.right);
    this._cursor = event ? this._from + share * (this._to - this._from) : null;
    this._draw();
  }

  /** The point that the legend tells of: the one at the cursor, else the latest. */
  _at() {
    if (this._cursor === null) return this._points.at(-1);
    const distance = (point) => Math.abs(point.time - this._cursor);
    return this._points.reduce((best, point) => (best && distance(best) <= distance(point) ? best : point), undefined);
  }

  _tellLegend(lines) {
    const at = this._at();
    const when = this._cursor === null || !at ? [] : [h("li", { class: "muted" }, clock(new Date(at.time)))];
    this._legend.replaceChildren(...when, ...lines.map((line, index) => {
      const key = svg("svg", { class: "key", width: 18, height: 8 },
        svg("path", { class: `line s${index % 4}`, d: "M0 4L18 4", "stroke-dasharray": DASHES[index % 4] }));
      return h("li", {}, key, `${line.name} `, h("b", {}, at ? this._say(value(line, at)) : "–"));
    }));
  }

  _summary(lines) {
    const told = lines.map((line) => {
      const numbers = this._points.map((point) => value(line, point)).filter((number) => number !== null);
      if (!numbers.length) return `${line.name}: nothing yet`;
      return `${line.name}: ${this._say(numbers.at(-1))} at last, ${this._say(Math.max(...numbers))} at most`;
    });
    return `${this._title}. ${told.join("; ") || "Nothing"}.`;
  }

  _tell() {
    if (!this._details.open) {
      this._table.replaceChildren();
      return;
    }
    const columns = [
      { title: "time", of: (point) => clock(new Date(point.time)) },
      ...this._series(this._points).map((line) => ({ title: line.name, number: true, of: (point) => this._say(value(line, point)) })),
    ];
    this._table.replaceChildren(table(this._title, columns, this._points.slice(-LINES_IN_TABLE).reverse()));
  }
}

const value = (line, point) => (point.gap ? null : line.of(point) ?? null);

/** The end of an axis: a round number, not below the highest value. */
function nice(highest) {
  if (highest <= 0) return 1;
  const power = 10 ** Math.floor(Math.log10(highest));
  return [1, 2, 3, 4, 5, 6, 8, 10].map((step) => step * power).find((step) => step >= highest * 0.999);
}
