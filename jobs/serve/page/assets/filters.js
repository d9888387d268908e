/** Setting filters: the fields with their values and counts, what is set as chips, and the sheet of a small screen. */

import { ask } from "./api.js";
import { blank, conditions, contradiction, stateOf, withState, writeFilters } from "./address.js";
import { colourOf, isColours } from "./colours.js";
import {
  dislikeValue, dislikedProducts, dislikedValues, isDisliked, likeValue, withDislikes,
} from "./dislikes.js";
import { h, icon, redraw, toast } from "./dom.js";
import { go, here } from "./route.js";
import { count, label, named, text } from "./text.js";

const FEW = 8;
const FIND_FROM = 16;
const MOST = 200;
const OPEN = 5;
const opened = new Map();
const expanded = new Set();
const sought = new Map();

/** The fields' values with counts, given the filters of an address. */
export async function askFields(address, signal) {
  const { filters } = await withDislikes(address);
  if (contradiction(filters)) return null;
  const words = address.view === "home" && address.text ? [["text", address.text]] : [];
  return (await ask("/filters", [...writeFilters(filters), ...words], { signal })).fields;
}

/** A panel of all fields: {root, show(fields)}. What is pressed in it changes the address. */
export function facets() {
  const root = h("div", { class: "facets" });
  let fields = [];
  const draw = () => redraw(root, fields.map((each, at) => facet(here(), each, at, draw)));
  return {
    root,
    show(found) {
      fields = found ?? fields;
      draw();
    },
  };
}

function facet(address, { field, values, more = 0 }, at, draw) {
  const set = conditions(address.filters).filter(([of]) => of === field);
  const open = opened.get(field) ?? (at < OPEN || set.length > 0);
  const summary = h(
    "summary",
    { data: { key: `field ${field}` } },
    h("span", {}, label(field)),
    set.length > 0 && h("span", { class: "badge" }, String(set.length)),
    icon("down"),
  );
  const body = open ? facetBody(address, { field, values: withSet(values, set), more }, draw) : [];
  const node = h("details", { class: "facet", open }, summary, body);
  node.addEventListener("toggle", () => {
    if (node.open === open) return;
    opened.set(field, node.open);
    draw();
  });
  return node;
}

/** The values, and those that are set though no product has them under the other filters. */
function withSet(values, set) {
  const there = new Set(values.map(({ value }) => value));
  const lacking = set.filter(([, value]) => !there.has(value)).map(([, value]) => ({ value, count: 0 }));
  return [...values, ...lacking];
}

function facetBody(address, { field, values, more }, draw) {
  const wide = expanded.has(field);
  const words = (wide && sought.get(field)) || "";
  const matching = values.filter(({ value }) => named(value).toLowerCase().includes(words.toLowerCase()));
  const isSet = ({ value }) => stateOf(address.filters, field, value) !== "" || isDisliked(field, value);
  const first = [...matching.filter(isSet), ...matching.filter((each) => !isSet(each))];
  const shown = first.slice(0, wide ? MOST : Math.max(FEW, matching.filter(isSet).length));
  const coloured = isColours(values.map(({ value }) => value));
  const list = h(
    "ul",
    { class: wide && matching.length > FIND_FROM ? "values tall" : "values", role: "list" },
    shown.map((each) => valueRow(address, field, each, coloured)),
  );
  const rest = matching.length - shown.length + more;
  return [
    wide && values.length > FIND_FROM && finder(field, words, draw),
    list,
    !matching.length && h("p", { class: "soft small" }, text.filters.nothing),
    wide && rest > 0 && h("p", { class: "soft small" }, text.filters.rest(rest)),
    values.length > FEW && expander(field, wide, values.length + more, draw),
  ].filter(Boolean);
}

function finder(field, words, draw) {
  const seek = ({ target }) => {
    sought.set(field, target.value);
    draw();
    const input = document.activeElement;
    if (input.type === "search") input.setSelectionRange(input.value.length, input.value.length);
  };
  const input = h("input", {
    type: "search",
    class: "find",
    data: { key: `find ${field}` },
    "aria-label": text.filters.find(label(field)),
    placeholder: text.filters.find(label(field)),
    autocomplete: "off",
    oninput: seek,
  });
  input.value = words;
  return input;
}

function expander(field, wide, number, draw) {
  const turn = () => {
    wide ? expanded.delete(field) : expanded.add(field);
    draw();
  };
  const words = wide ? text.filters.fewer : text.filters.all(number);
  const name = { "aria-expanded": String(wide), "aria-label": `${words}: ${label(field)}` };
  return h("button", { type: "button", class: "plain small", data: { key: `all ${field}` }, onclick: turn, ...name }, words);
}

function valueRow(address, field, { value, count: number }, coloured) {
  const disliked = isDisliked(field, value);
  const state = disliked ? "never" : stateOf(address.filters, field, value);
  const name = named(value);
  const turn = (to) => () => setValue(field, value, state === to ? "" : to);
  const colour = coloured && colourOf(value);
  const except = disliked
    ? text.filters.disliked(name)
    : state === "not"
      ? text.filters.notPicked(name)
      : text.filters.except(name);
  return h(
    "li",
    { class: `value ${state}` },
    h(
      "button",
      {
        type: "button",
        class: "pick",
        data: { key: `had ${field} ${value}` },
        "aria-pressed": String(state === "had"),
        onclick: turn("had"),
      },
      coloured && h("span", { class: colour ? "swatch" : "swatch several", style: colour ? { "--colour": colour } : {} }),
      h("span", { class: value === null ? "name soft" : "name" }, name),
      h("span", { class: "count" }, count(number), h("span", { class: "unseen" }, text.filters.products(number))),
    ),
    h(
      "button",
      {
        type: "button",
        class: "except",
        data: { key: `not ${field} ${value}` },
        "aria-pressed": String(state === "not" || disliked),
        "aria-label": except,
        title: except,
        onclick: disliked ? () => likeValue(field, value) : turn("not"),
      },
      icon(disliked ? "hide" : "not"),
    ),
  );
}

/** Set a value of a field to be had, not to be had, or neither; one that is to be had is no longer disliked. */
export function setValue(field, value, state) {
  if (state === "had" && isDisliked(field, value)) {
    likeValue(field, value);
    toast(text.filters.likedAgain(named(value)), () => dislikeValue(field, value));
  }
  const address = here();
  go({ ...address, filters: withState(address.filters, field, value, state) });
}

// Chips ---------------------------------------------------------------------------------------------------------------

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
      h("button", { type: "button", class: "chip never", onclick: openDislikes }, icon("hide"), text.filters.hidden(products)),
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

function cleared({ view, id, a, b, product, explain, k }) {
  return blank(view, { id, a, b, product, explain, k });
}

/** The chips of what an address itself sets. */
export function ownChips(address) {
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
  return h("button", { type: "button", class: "always", title: text.filters.alwaysTitle(value), onclick: always }, text.filters.always);
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
      { type: "button", class: "take", data: { key: `chip ${words}` }, "aria-label": text.filters.takeOff(words), onclick: take },
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

// The sheet of small screens ------------------------------------------------------------------------------------------

/** A place for the panel beside a list, and the button and sheet that hold it where there is no room: {aside, button}. */
export function filterPlace(panel, { always = false } = {}) {
  const aside = h("aside", { class: always ? "side hidden" : "side", "aria-label": text.filters.title }, panel.root);
  const words = h("span", {}, text.filters.title);
  const done = h("button", { type: "button", class: "button", onclick: () => sheet.close() }, text.filters.show());
  const heading = h("h2", {}, text.filters.title);
  const close = h("button", { type: "button", class: "round", "aria-label": text.close, onclick: () => sheet.close() }, icon("close"));
  const body = h("div", { class: "sheet-body" });
  const sheet = h("dialog", { class: "sheet", "aria-label": text.filters.title }, h("header", {}, heading, close), body, h("footer", {}, done));
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
