/** A product's page: its pictures, what is written of it, and the ten that look most like it. */

import { blank, excluding, stateOf, write, writeFilters } from "./address.js";
import { ask, knownFields, latest } from "./api.js";
import {
  dislikeProduct,
  dislikeValue,
  dislikedProducts,
  isDisliked,
  likeProduct,
  likeValue,
  withDislikes,
} from "./dislikes.js";
import { h, icon, picture, redraw, toast } from "./dom.js";
import { setValue } from "./filters.js";
import { results } from "./items.js";
import { problemNotice } from "./problem.js";
import { here } from "./route.js";
import { label, text, title } from "./text.js";

const SIZES = "(min-width: 64rem) 420px, 100vw";

/** The view: {root, title, update(address), leave()}. */
export function productPage() {
  const about = h("div", { class: "product" }, skeleton());
  const similar = results(text.product.similar);
  const root = h("div", {}, about, similar.root);
  const newest = latest();
  let product = null;
  let shown = null;

  const draw = async () => {
    const known = await knownFields().catch(() => new Set());
    if (product) redraw(about, gallery(product), details(product, known));
  };
  const update = async (address) => {
    if (shown === address.id) {
      draw();
    } else {
      shown = address.id;
      product = null;
      similar.root.hidden = false;
      newest(async (signal) => {
        try {
          const answer = await ask(`/products/${encodeURIComponent(address.id)}`, [], { signal });
          product = answer.product;
          document.title = text.pageOf(title(product));
          await draw();
        } catch (problem) {
          if (signal.aborted) return;
          shown = null;
          similar.root.hidden = true;
          redraw(about, problemNotice(problem));
        }
      });
    }
    await similar.update((signal) => askSimilar(address, signal));
  };
  return { root, title: () => product && title(product), update, leave: () => {} };
}

async function askSimilar(address, signal) {
  const { filters, exclude } = await withDislikes(address);
  const own = [...(address.k ? [["k", address.k]] : []), ...(address.explain ? [["explain", "true"]] : [])];
  const path = `/products/${encodeURIComponent(address.id)}/similar`;
  return ask(path, [...writeFilters(filters), ...excluding(exclude), ...own], { signal });
}

function skeleton() {
  return [
    h("div", { class: "gallery" }, h("span", { class: "tile" })),
    h("div", { class: "about" }, h("h1", { tabindex: "-1" }, "\u00a0")),
  ];
}

function gallery(product) {
  const name = title(product);
  const all = product.images?.length ? product.images : [product.image];
  const show = (at) =>
    picture(all[at], { sizes: SIZES, alt: text.product.pictureOf(name, at + 1, all.length), eager: true });
  const main = h("div", { class: "main-picture" }, show(0));
  const turn = (at) => () => {
    main.replaceChildren(show(at));
    [...thumbs.children].forEach((node, place) => node.setAttribute("aria-pressed", String(place === at)));
  };
  const thumbs = h(
    "div",
    { class: "thumbs" },
    all.map((source, at) =>
      h(
        "button",
        {
          type: "button",
          class: "thumb",
          "aria-label": text.product.showPicture(at + 1),
          "aria-pressed": String(at === 0),
          onclick: turn(at),
        },
        picture(source, { sizes: "72px", eager: true }),
      ),
    ),
  );
  return h("div", { class: "gallery" }, main, all.length > 1 && thumbs);
}

function details(product, known) {
  const given = Object.entries(product.attributes).filter(([, value]) => value !== null && value !== product.name);
  return h(
    "div",
    { class: "about" },
    product.kind && product.name && h("p", { class: "kicker" }, product.kind),
    h("h1", { tabindex: "-1" }, title(product)),
    h("p", { class: "soft" }, text.product.id(product.product_id)),
    h(
      "dl",
      { class: "attributes" },
      given.map(([field, value]) => attribute(field, value, known.has(field))),
    ),
    h("p", { class: "actions" }, hideAction(product), compareLink(product)),
  );
}

function attribute(field, value, filterable) {
  const values = Array.isArray(value) ? value : [value];
  return h(
    "div",
    { class: "attribute" },
    h("dt", {}, label(field)),
    values.map((each) => h("dd", {}, h("span", {}, String(each)), filterable && valueButtons(field, String(each)))),
  );
}

function valueButtons(field, value) {
  const only = stateOf(here().filters, field, value) === "had";
  const never = isDisliked(field, value);
  const turn = () => {
    if (never) return likeValue(field, value);
    dislikeValue(field, value);
    return toast(text.product.dislikedValue(value), () => likeValue(field, value));
  };
  return h(
    "span",
    { class: "value-buttons" },
    button(text.product.onlyShort, text.product.only(value), only, `only ${field} ${value}`, () =>
      setValue(field, value, only ? "" : "had"),
    ),
    button(text.product.neverShort, text.product.never(value), never, `never ${field} ${value}`, turn),
  );
}

function button(words, name, pressed, key, onclick) {
  const properties = { "aria-label": name, title: name, "aria-pressed": String(pressed), data: { key }, onclick };
  return h("button", { type: "button", class: "mini", ...properties }, words);
}

function hideAction(product) {
  const hidden = dislikedProducts().some(({ product_id: id }) => id === product.product_id);
  const turn = () => (hidden ? likeProduct(product.product_id) : dislikeProduct(product));
  const words = hidden ? text.product.hiddenNow : text.product.hide;
  return h(
    "button",
    { type: "button", class: "button", "aria-pressed": String(hidden), data: { key: "hide" }, onclick: turn },
    icon("hide"),
    words,
  );
}

function compareLink({ product_id: product }) {
  return h("a", { class: "button", href: write(blank("compare", { product })) }, icon("compare"), text.product.compare);
}
