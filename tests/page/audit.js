// What a reader of the page, a keyboard or a weak eye would stumble over, found by looking at every element shown.
() => {
  const found = [];
  const shown = (element) => element.checkVisibility({ visibilityProperty: true });
  const where = (element) => `<${element.localName}${element.id ? ` #${element.id}` : ""}${element.className?.baseVal ?? element.className ? ` .${element.className.baseVal ?? element.className}` : ""}>`;

  // Every field, button, link and box that can be reached has a name.
  const labelOf = (element) =>
    [...(element.labels ?? [])].map((label) => label.textContent).join(" ").trim() || element.getAttribute("aria-label") ||
    (element.getAttribute("aria-labelledby") ?? "").split(" ").map((id) => document.getElementById(id)?.textContent ?? "").join(" ").trim();
  for (const element of document.querySelectorAll("input, select, textarea, [role=region], nav, meter:not([aria-hidden])")) {
    if (shown(element) && !labelOf(element)) found.push(`no label: ${where(element)}`);
  }
  for (const element of document.querySelectorAll("button, a, summary")) {
    if (shown(element) && !(element.textContent.trim() || labelOf(element))) found.push(`no name: ${where(element)}`);
  }
  for (const element of document.querySelectorAll("img, svg[role=img]")) {
    if (shown(element) && element.getAttribute("alt") === null && !element.getAttribute("aria-label")) found.push(`no text in its place: ${where(element)}`);
  }
  for (const element of document.querySelectorAll("svg:not([role=img])")) {
    if (shown(element) && !element.closest("[aria-hidden=true]")) found.push(`a picture that is read and says nothing: ${where(element)}`);
  }
  for (const element of document.querySelectorAll("table")) {
    if (!element.caption?.textContent) found.push("a table without a caption");
    if ([...element.querySelectorAll("th")].some((cell) => !cell.scope)) found.push("a heading cell without a scope");
  }

  // Ids are one element's; what refers to one finds it; headings go down one step at a time; there is one h1 and one main.
  const ids = [...document.querySelectorAll("[id]")].map((element) => element.id);
  for (const id of new Set(ids)) if (ids.filter((one) => one === id).length > 1) found.push(`id twice: ${id}`);
  for (const name of ["aria-describedby", "aria-labelledby", "for"]) {
    for (const element of document.querySelectorAll(`[${name}]`)) {
      for (const id of element.getAttribute(name).split(" ")) if (!ids.includes(id)) found.push(`${name} leads nowhere: ${id}`);
    }
  }
  const levels = [...document.querySelectorAll("h1, h2, h3")].filter(shown).map((element) => Number(element.localName[1]));
  if (levels.filter((level) => level === 1).length !== 1) found.push(`headings of level 1: ${levels}`);
  if (levels.some((level, index) => level > (levels[index - 1] ?? 0) + 1)) found.push(`headings skip a level: ${levels}`);
  if (document.querySelectorAll("main").length !== 1 || !document.documentElement.lang) found.push("no main, or no language");
  for (const box of document.querySelectorAll("*")) {
    const scrolls = ["auto", "scroll"].includes(getComputedStyle(box).overflowX) && box.scrollWidth > box.clientWidth + 1;
    if (shown(box) && scrolls && box.tabIndex < 0 && !box.querySelector("a, button, input, textarea, select")) {
      found.push(`scrolls, and no keyboard gets there: ${where(box)}`);
    }
  }

  // Text stands out from its ground as WCAG's level AA asks: 4.5, or 3 where it is large.
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgba = (colour) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const light = (parts) => {
    const [r, g, b] = parts.slice(0, 3).map((part) => part / 255).map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const groundOf = (element) => {
    for (let one = element; one; one = one.parentElement) {
      const ground = rgba(getComputedStyle(one).backgroundColor);
      if (ground[3] === 255) return ground;
      if (ground[3] > 0) found.push(`half a ground: ${where(one)}`);
    }
    return rgba(matchMedia("(prefers-color-scheme: dark)").matches ? "#000" : "#fff");
  };
  const contrast = (a, b) => (Math.max(light(a), light(b)) + 0.05) / (Math.min(light(a), light(b)) + 0.05);
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  let looked = 0;
  while (texts.nextNode()) {
    const element = texts.currentNode.parentElement;
    if (!texts.currentNode.textContent.trim() || !shown(element) || element.closest("option, noscript, script, :disabled")) continue;
    const style = getComputedStyle(element);
    const ratio = contrast(rgba(element.closest("svg") ? style.fill : style.color), groundOf(element));
    const large = parseFloat(style.fontSize) >= 24 || (parseFloat(style.fontSize) >= 18.66 && style.fontWeight >= 700);
    looked += 1;
    if (ratio < (large ? 3 : 4.5)) found.push(`contrast ${ratio.toFixed(2)}: ${where(element)} ${texts.currentNode.textContent.trim().slice(0, 30)}`);
  }
  for (const line of document.querySelectorAll("path.line, circle.line")) {
    if (shown(line) && contrast(rgba(getComputedStyle(line).stroke), groundOf(line.closest("figure"))) < 3) found.push(`a line too faint: ${where(line)}`);
  }
  for (const field of document.querySelectorAll("input:not([type=checkbox]), select, textarea, button.quiet")) {
    if (shown(field) && contrast(rgba(getComputedStyle(field).borderTopColor), groundOf(field.parentElement)) < 3) found.push(`an edge too faint: ${where(field)}`);
  }
  if (looked < 10) found.push(`only ${looked} texts were looked at`);

  // Nothing is wider than the window.
  if (document.scrollingElement.scrollWidth > innerWidth) {
    const wide = [...document.querySelectorAll("body *")].filter((one) => shown(one) && one.getBoundingClientRect().right > innerWidth + 1 && !one.closest(".scroll, pre, .conversation, .hidden"));
    found.push(`wider than the window by ${document.scrollingElement.scrollWidth - innerWidth}: ${wide.slice(0, 4).map(where).join(" ")}`);
  }
  return [...new Set(found)];
}
