/** What is set and what is disliked, as chips to take away, and why a list has nothing. */

import { blank, conditions, contradiction } from "./address.js";
import { dislikeValue, dislikedProducts, dislikedValues, likeValue, withDislikes } from "./dislikes.js";
import { h, icon } from "./dom.js";
import { setValue } from "./filters.js";
import { go, here } from "./route.js";
import { label, named, text } from "./text.js";

/** What is set in an address and what is disliked, each with a button to take it away. */
export function chips(address) {
  const own = ownChips(address);
  const products = dislikedProducts().length;
  return [
    own,
    dislikedValues().map(([field, value]) =>
      chip(text.filters.never(label(field), named(value)), () => likeValue(field, value), { kind: "never" }),
    ),
    products > 0 &&
      h(
        "button",
        { type: "button", class: "chip never", onclick: openDislikes },
        icon("hide"),
        text.filters.hidden(products),
      ),
    own.length > 1 &&
      h(
        "button",
        { type: "button", class: "plain small", data: { key: "clear" }, onclick: () => go(cleared(here())) },
        text.clear,
      ),
  ].flat();
}

function openDislikes() {
  dispatchEvent(new Event("dislikes"));
}

function cleared({ view, id, a, b, product, explain, look, k }) {
  return blank(view, { id, a, b, product, explain, look, k });
}

/** The chips of what an address itself sets. */
function ownChips(address) {
  const words = address.view === "home" && address.text;
  const take = (field, value) => () => setValue(field, value, "");
  const many = address.exclude.length > 3;
  const excluded = many ? [address.exclude] : address.exclude.map((id) => [id]);
  return [
    words ? [chip(text.filters.text(words), () => go({ ...here(), text: "" }), {})] : [],
    conditions(address.filters).map(([field, value, state]) => {
      const always = state === "not" && value !== null && alwaysButton(field, value);
      return chip(text.filters[state](label(field), named(value)), take(field, value), { always });
    }),
    excluded.map((ids) => {
      const left = () => go({ ...here(), exclude: here().exclude.filter((id) => !ids.includes(id)) });
      return chip(many ? text.filters.withoutMany(ids.length) : text.filters.without(ids[0]), left, {});
    }),
  ].flat();
}

function alwaysButton(field, value) {
  const always = () => {
    dislikeValue(field, value);
    setValue(field, value, "");
  };
  return h(
    "button",
    { type: "button", class: "always", title: text.filters.alwaysTitle(value), onclick: always },
    text.filters.always,
  );
}

function chip([before, value], take, { kind = "", always = false }) {
  const words = before + value;
  return h(
    "span",
    { class: `chip ${kind}` },
    kind === "never" && icon("hide"),
    h("span", {}, before, h("strong", {}, value)),
    always,
    h(
      "button",
      {
        type: "button",
        class: "take",
        data: { key: `chip ${words}` },
        "aria-label": text.filters.takeOff(words),
        onclick: take,
      },
      icon("close"),
    ),
  );
}

/** Why a list is empty, with the chips of all that could be taken away. */
export function nothingLeft(address, { none, noneWhy, empty, emptyWhy }) {
  const all = chips(address);
  if (!all.length) return h("div", { class: "notice" }, h("h2", {}, empty ?? none), h("p", {}, emptyWhy));
  return h("div", { class: "notice" }, h("h2", {}, none), h("p", {}, noneWhy), h("p", { class: "chips" }, all));
}

/** The same where a field is asked to have only what it is not to have; null where none is. */
export async function contradicting(address) {
  const field = contradiction((await withDislikes(address)).filters);
  if (field === null) return null;
  const { title, why } = text.contradiction;
  return nothingLeft(address, { none: title(label(field)), noneWhy: why(label(field)) });
}
