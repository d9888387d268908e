/** The products most like another or like a photo: the list, its filters, and on demand why each is in it. */

import { latest } from "./api.js";
import { hideButton, productLink } from "./cards.js";
import { chips, contradicting, nothingLeft } from "./chips.js";
import { announce, h, icon, picture, redraw } from "./dom.js";
import { askFields, facets } from "./filters.js";
import { problemNotice } from "./problem.js";
import { go, here } from "./route.js";
import { filterPlace } from "./sheet.js";
import { label, part, score, text, title } from "./text.js";

export const K = 10;
const PICTURES = { sizes: "(min-width: 64rem) 220px, (min-width: 40rem) 25vw, 50vw", eager: true };

/** How an answer with one list is shown. */
const ONE_LIST = { list: itemList, saying, found: ({ items }) => text.items.found(items.length), explains: true };

/**
 * A section with a list of items: {root, update(ask)}.
 *
 * `ask(signal)` gives an answer with `items`, and with `model` where they are explained. `how` is for what is not one
 * list: `list(answer, address)` draws it, `saying` stands below, `found` is said, `explains`: whether it can.
 */
export function results(heading, how = ONE_LIST) {
  const panel = facets();
  const place = filterPlace(panel);
  const set = h("div", { class: "chips" });
  const said = h("p", { class: "soft said" });
  const list = h("div", { class: "items-place" }, skeletons());
  const explain = how.explains && h(
    "button",
    {
      type: "button",
      class: "button toggle",
      onclick: () => go({ ...here(), explain: !here().explain }, { replace: true }),
    },
    icon("why"),
    text.items.explain,
  );
  const root = h(
    "section",
    { class: "beside results" },
    place.aside,
    h(
      "div",
      { class: "main-column" },
      h("header", { class: "bar" }, h("h2", {}, heading), h("div", { class: "bar-buttons" }, place.button, explain)),
      set,
      list,
      said,
    ),
    place.sheet,
  );
  const newest = latest();
  const update = (ask) =>
    newest(async (signal) => {
      const address = here();
      if (explain) explain.setAttribute("aria-pressed", String(address.explain));
      redraw(set, chips(address));
      place.tell(address);
      list.setAttribute("aria-busy", "true");
      const fields = askFields(address, signal).then(panel.show);
      fields.catch(() => {}); // the list says what is wrong
      try {
        const unable = await contradicting(address);
        const answer = unable ? null : await ask(signal);
        if (signal.aborted) return;
        if (!answer?.items.length) redraw(set); // the notice has them
        redraw(list, unable ?? how.list(answer, address));
        said.textContent = answer ? how.saying(answer, address) : "";
        announce(answer ? how.found(answer) : "");
      } catch (problem) {
        if (!signal.aborted) redraw(list, problemNotice(problem));
      }
      if (!signal.aborted) list.removeAttribute("aria-busy");
    });
  return { root, update };
}

/** What is to be said above a list: that it is short, and which model made it. */
function saying({ items, model }, { k }) {
  const asked = Number(k) || K;
  const words = [items.length > 0 && items.length < asked && text.items.short(items.length, asked)];
  return [...words, model && text.items.model(model)].filter(Boolean).join(" ");
}

function skeletons() {
  const cards = Array.from({ length: K }, () => h("li", { class: "card skeleton" }, h("span", { class: "tile" })));
  return h("ol", { class: "items", role: "list", "aria-hidden": "true" }, cards);
}

/** The items of an answer, or why there are none. */
export function itemList({ items }, address) {
  if (!items.length) return nothingLeft(address, text.items);
  const explained = address.explain && items.some((item) => item.explain);
  return ordered(items, address, explained ? "items explained" : "items");
}

/** Items one after another, in a list of a `kind` of style.css; `pictures` as `picture` takes it. */
export function ordered(items, address, kind, pictures = PICTURES) {
  const filtered = chips(address).length > 0;
  return h(
    "ol",
    { class: kind, role: "list" },
    items.map((item) =>
      h("li", { class: "card", data: { id: item.product_id } }, itemParts(item, address, { filtered, pictures })),
    ),
  );
}

function itemParts(item, address, { filtered, pictures }) {
  return [
    productLink(
      item,
      address.view === "product" ? address : null,
      { class: "card-link", data: { key: `item ${item.product_id}` } },
      picture(item.image, pictures),
      h("span", { class: "card-name" }, title(item)),
    ),
    hideButton(item),
    address.explain && item.explain && explanation(item, { compared: address.view === "product", filtered }),
  ];
}

/** Why an item is in a list; what it has in common with a product, and its place without filters where there are some. */
function explanation({ score: whole, rank, explain }, { compared, filtered }) {
  return h(
    "div",
    { class: "reason" },
    h("p", { class: "score" }, h("span", { class: "soft" }, `${text.items.score} `), h("strong", {}, score(whole))),
    blockBar(explain.blocks),
    compared && comparison(explain),
    compared && filtered && h("p", { class: "soft small" }, text.items.place(rank, explain.rank_without_filters)),
  );
}

/** What two products have in common, and what not. */
function comparison({ shared, differing }) {
  const values = Object.values(shared).flat();
  const differs = Object.entries(differing);
  return h(
    "dl",
    { class: "words" },
    h("dt", {}, text.items.shared),
    h("dd", {}, values.length ? values.join(", ") : text.items.sharesNothing),
    differs.length > 0 && [
      h("dt", {}, text.items.differing),
      differs.map(([field, [from, to]]) =>
        h("dd", {}, h("span", { class: "soft" }, `${label(field)} `), text.items.change(from, to)),
      ),
    ],
  );
}

/** The parts of a score as a bar; what it says is written beneath. */
function blockBar(blocks) {
  const parts = Object.entries(blocks);
  return [
    h(
      "div",
      { class: "blocks", "aria-hidden": "true" },
      parts.map(([, value], at) =>
        h("span", { class: `block block-${at % 6}`, style: { "--part": Math.max(0, value) } }),
      ),
    ),
    h(
      "ul",
      { class: "legend", role: "list" },
      parts.map(([name, value], at) =>
        h(
          "li",
          {},
          h("span", { class: `dot block-${at % 6}` }),
          h("span", {}, `${name} `, h("strong", {}, part(value))),
        ),
      ),
    ),
  ];
}
