/** Where the filters are: beside a list, or on a small screen in a sheet that a button opens. */

import { conditions } from "./address.js";
import { h, icon } from "./dom.js";
import { text } from "./text.js";

/** A place for the panel beside a list, and the button and sheet that hold it where there is no room: {aside, button}. */
export function filterPlace(panel, { always = false } = {}) {
  const aside = h("aside", { class: always ? "side hidden" : "side", "aria-label": text.filters.title }, panel.root);
  const words = h("span", {}, text.filters.title);
  const done = h("button", { type: "button", class: "button", onclick: () => sheet.close() }, text.filters.show());
  const heading = h("h2", {}, text.filters.title);
  const close = h(
    "button",
    { type: "button", class: "round", "aria-label": text.close, onclick: () => sheet.close() },
    icon("close"),
  );
  const body = h("div", { class: "sheet-body" });
  const sheet = h(
    "dialog",
    { class: "sheet", "aria-label": text.filters.title },
    h("header", {}, heading, close),
    body,
    h("footer", {}, done),
  );
  const open = () => {
    body.append(panel.root);
    sheet.showModal();
  };
  sheet.addEventListener("close", () => aside.append(panel.root));
  sheet.addEventListener("click", ({ target }) => target === sheet && sheet.close());
  const button = h(
    "button",
    { type: "button", class: always ? "button filter-button" : "button filter-button narrow", onclick: open },
    icon("filter"),
    words,
  );
  return {
    aside,
    button,
    sheet,
    /** Say how many filters are set, and how many products they leave. */
    tell(address, number) {
      words.textContent = text.filters.titleOf(conditions(address.filters).length);
      done.textContent = text.filters.show(number);
    },
  };
}
