/** What somebody does not like: values and products, kept in this browser alone and left out of every list. */

import { knownFields } from "./api.js";
import { without } from "./address.js";

const KEY = "lookalike.dislikes";
const MOST = 1000; // products that the server leaves out
const changes = new EventTarget();
let kept = load();

function load() {
  try {
    const { values = [], products = [] } = JSON.parse(localStorage.getItem(KEY) ?? "{}");
    return { values, products };
  } catch {
    return { values: [], products: [] };
  }
}

function keep(next) {
  kept = next;
  try {
    localStorage.setItem(KEY, JSON.stringify(kept));
  } catch {
    // a browser that keeps nothing still leaves them out until it is closed
  }
  changes.dispatchEvent(new Event("change"));
}

addEventListener("storage", ({ key }) => {
  if (key !== KEY) return;
  kept = load();
  changes.dispatchEvent(new Event("change"));
});

/** Call `listener` whenever a dislike comes or goes, in another tab too. */
export function onDislikes(listener) {
  changes.addEventListener("change", listener);
}

/** [field, value] pairs. */
export function dislikedValues() {
  return kept.values;
}

/** Products as {product_id, name, image}. */
export function dislikedProducts() {
  return kept.products;
}

export function isDisliked(field, value) {
  return kept.values.some((pair) => pair[0] === field && pair[1] === value);
}

export function dislikeValue(field, value) {
  if (!isDisliked(field, value)) keep({ ...kept, values: [...kept.values, [field, value]] });
}

export function likeValue(field, value) {
  keep({ ...kept, values: kept.values.filter((pair) => pair[0] !== field || pair[1] !== value) });
}

export function dislikeProduct({ product_id, name = null, image = null }) {
  const others = kept.products.filter((product) => product.product_id !== product_id);
  keep({ ...kept, products: [...others, { product_id, name, image }] });
}

export function likeProduct(id) {
  keep({ ...kept, products: kept.products.filter((product) => product.product_id !== id) });
}

export function likeEverything() {
  keep({ values: [], products: [] });
}

/** Those of a list that are not left out by an address or a dislike that came after the server was asked. */
export function liked(products, { exclude }) {
  const out = new Set([...exclude, ...kept.products.map((product) => product.product_id)]);
  return out.size ? products.filter((product) => !out.has(product.product_id)) : products;
}

/**
 * What to ask the server for so that an address shows nothing disliked: {filters, exclude}.
 *
 * A field that the live catalogue lacks is left out: dislikes outlive catalogues. So are the products that were hidden
 * first, where there are too many.
 */
export async function withDislikes({ filters, exclude }) {
  let values = kept.values;
  if (values.length) {
    const known = await knownFields();
    values = values.filter(([field]) => known.has(field));
  }
  const ids = kept.products.map((product) => product.product_id).reverse();
  return { filters: without(filters, values), exclude: [...new Set([...exclude, ...ids])].slice(0, MOST) };
}
