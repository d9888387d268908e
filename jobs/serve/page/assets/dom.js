/** Building the document: elements, icons, pictures, and focus that survives a redrawing. */

import { text } from "./text.js";

const SVG = "http://www.w3.org/2000/svg";

/** An element; `on…` are listeners, `style` and `data` are objects, children that are nothing are left out. */
export function h(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "style") Object.entries(value).forEach((pair) => node.style.setProperty(...pair));
    else if (name === "data") Object.assign(node.dataset, value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat(Infinity).filter((child) => child !== undefined && child !== null && child !== false));
  return node;
}

/** One of the symbols in index.html, for the eye alone. */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  const use = document.createElementNS(SVG, "use");
  use.setAttribute("href", `#icon-${name}`);
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  svg.append(use);
  return svg;
}

/** A product's picture on its tile, or a sign where it has none or it does not load. `sizes` as in HTML. */
export function picture(source, { sizes = "240px", alt = "", eager = false } = {}) {
  const tile = h("span", { class: "tile" });
  const none = () => tile.replaceChildren(icon("hanger"), alt && h("span", { class: "unseen" }, text.noPicture));
  if (!source) {
    none();
    return tile;
  }
  const at = (width) => `${source}?width=${width}`;
  const image = h("img", {
    sizes,
    srcset: [120, 240, 480].map((width) => `${at(width)} ${width}w`).join(", "),
    alt,
    loading: eager ? "eager" : "lazy",
    decoding: "async",
    onerror: none,
  });
  image.src = at(240);
  tile.append(image);
  return tile;
}

/** Replace what a node contains; the element that had the focus has it again, found by its `data-key`. */
export function redraw(node, ...children) {
  const key = node.contains(document.activeElement) ? document.activeElement.dataset.key : undefined;
  const scrolled = node.scrollTop;
  node.replaceChildren(...children.flat(Infinity).filter(Boolean));
  node.scrollTop = scrolled;
  if (key)
    [...node.querySelectorAll("[data-key]")].find((each) => each.dataset.key === key)?.focus({ preventScroll: true });
}

/** Say something to a screen reader. */
export function announce(words) {
  document.getElementById("said").textContent = words;
}

/** Show a message for some seconds, with a button that takes back what was done. */
export function toast(words, undo) {
  const place = document.getElementById("toast");
  const close = () => node.remove();
  const button = undo && h("button", { type: "button", class: "plain", onclick: () => (undo(), close()) }, text.undo);
  const node = h("div", { class: "toast" }, h("span", {}, words), button);
  place.replaceChildren(node);
  setTimeout(close, 8000);
}
