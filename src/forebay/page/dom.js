// Elements made of text, never of markup: what others wrote (names, errors, answers) is only ever set as text.

export const $ = (id) => document.getElementById(id);

/** An element with attributes and children; a child that is a string, a number or null is text, or nothing. */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, String(value));
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** The same for SVG. */
export function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, String(value));
  element.append(...children);
  return element;
}

/** Tell it to those who listen to the page instead of seeing it, once they have heard what is being said. */
export function say(text) {
  $("said").textContent = text;
}

/**
 * A table in a box that scrolls by itself. Columns are {title, number, of(row)}, where `of` gives text or an element.
 * The first column names the row.
 */
export function table(caption, columns, rows, { empty = "None." } = {}) {
  const cell = (column, row, index) => {
    const kind = { class: column.number ? "number" : column.class };
    const content = column.of(row) ?? "–";
    return index === 0 ? h("th", { scope: "row", ...kind }, content) : h("td", kind, content);
  };
  const head = columns.map((column) => h("th", { scope: "col", class: column.number ? "number" : null }, column.title));
  const body = rows.map((row) => h("tr", {}, columns.map((column, index) => cell(column, row, index))));
  if (!rows.length) body.push(h("tr", {}, h("td", { colspan: columns.length, class: "muted" }, empty)));
  return h("div", { class: "scroll", role: "region", "aria-label": caption, tabindex: 0 },
    h("table", {}, h("caption", { class: "hidden" }, caption), h("thead", {}, h("tr", {}, head)), h("tbody", {}, body)));
}
