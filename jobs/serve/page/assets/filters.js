/** The fields with their values and counts: pressing a value sets a filter. */

import { conditions, contradiction, excluding, stateOf, withState, writeFilters } from "./address.js";
import { ask } from "./api.js";
import { colourOf, isColours } from "./colours.js";
import { dislikeValue, isDisliked, likeValue, withDislikes } from "./dislikes.js";
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

/** The fields' values with counts, given the filters of an address and what is left out. */
export async function askFields(address, signal) {
  const { filters, exclude } = await withDislikes(address);
  if (contradiction(filters)) return null;
  const words = address.view === "home" && address.text ? [["text", address.text]] : [];
  return (await ask("/filters", [...writeFilters(filters), ...excluding(exclude), ...words], { signal })).fields;
}

/** A panel of all fields: {root, show(fields)}. What is pressed in it changes the address. */
export function facets() {
  const root = h("div", { class: "facets" });
  let fields = [];
  const draw = () =>
    redraw(
      root,
      fields.map((each, at) => facet(here(), each, at, draw)),
    );
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
  return h(
    "button",
    { type: "button", class: "plain small", data: { key: `all ${field}` }, onclick: turn, ...name },
    words,
  );
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
      coloured &&
        h("span", { class: colour ? "swatch" : "swatch several", style: colour ? { "--colour": colour } : {} }),
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
