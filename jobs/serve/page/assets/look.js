/** The look of a photo: boxes over it of what its persons wear, and a row of products for each article. */

import { nothingLeft } from "./chips.js";
import { h } from "./dom.js";
import { K, itemList, ordered, results } from "./items.js";
import { percent, sentence, text } from "./text.js";

const COLOURS = 8; // of style.css
const CORNERS = 4; // in which labels stand in turn, as boxes often share one

/** A section with a row of products for each article: {root, update(ask)}, as `results` has it. */
export function lookResults() {
  const saying = (look) => (look.answer ? "" : text.look.boxesBy(look.boxes_by));
  return results(text.look.results, { list: rows, saying, found, explains: false });
}

/** The server's answer with all products that are in it. */
export function withItems(look) {
  return { ...look, items: look.answer?.items ?? articlesOf(look).flatMap(({ items }) => items) };
}

/** The articles of all persons, in the order in which they are numbered. */
function articlesOf({ persons }) {
  return persons.flatMap(({ articles }) => articles);
}

function found(look) {
  const number = look.items.length;
  return look.answer ? text.items.found(number) : text.look.found(articlesOf(look).length, number);
}

/** The photo with a box for each article, which leads to its row. */
export function boxed(image, look) {
  const articles = articlesOf(look);
  const size = ({ box: [left, top, right, bottom] }) => (right - left) * (bottom - top);
  const above = [...articles].sort((one, other) => size(other) - size(one)); // a small box lies over a large one
  return h(
    "div",
    { class: "tile own boxed", style: { "--ratio": look.width / look.height } },
    image,
    look.persons.length > 1 &&
      look.persons.map((person) => h("span", { class: "person-box", style: place(person, look) })),
    articles.map((article, at) =>
      h(
        "button",
        {
          type: "button",
          class: `box colour-${at % COLOURS} corner-${at % CORNERS}`,
          style: { ...place(article, look), "--above": above.indexOf(article) + 1 },
          data: { key: `box ${at + 1}` },
          "aria-label": text.look.box(at + 1, named(article), article.confidence),
          onclick: () => show(at + 1),
        },
        h("span", { class: "box-label", "aria-hidden": "true" }, `${at + 1} ${named(article)}`),
      ),
    ),
  );
}

/** Where a box is on a picture of any size. */
function place({ box: [left, top, right, bottom] }, { width, height }) {
  return {
    "--left": left / width,
    "--top": top / height,
    "--wide": (right - left) / width,
    "--high": (bottom - top) / height,
  };
}

function show(number) {
  document.getElementById(`article-${number}`)?.scrollIntoView();
  document.getElementById(`article-title-${number}`)?.focus({ preventScroll: true });
}

/** What is to be said of a look beside the photo, whose heading is what that was taken for where nothing is worn. */
export function lookWords({ persons, says, answer }) {
  return [
    !answer && [
      h("p", { class: "kicker" }, text.look.kicker),
      h("h1", { tabindex: "-1" }, text.look.persons(persons.length)),
    ],
    says.map((words) => h("p", {}, sentence(words))),
    !answer && h("p", { class: "soft small" }, text.look.lead),
  ];
}

function rows(look, address) {
  if (!look.items.length) return nothingLeft(address, text.items);
  if (look.answer) return itemList(look.answer, address);
  let number = 0;
  return h(
    "div",
    { class: "look" },
    look.persons.map((person, at) =>
      h(
        "section",
        { class: "person", "aria-labelledby": `person-${at + 1}` },
        h("h3", { id: `person-${at + 1}` }, text.look.person(at + 1, look.persons.length)),
        h("p", { class: "soft small" }, text.look.pose(person.pose), text.look.wears[person.gender] ?? ""),
        person.articles.map((article) => row(article, (number += 1), address)),
        !person.articles.length && h("p", { class: "soft" }, text.look.nothingWorn),
      ),
    ),
  );
}

function row(article, number, address) {
  const { items, confidence, derived_type: type, says } = article;
  const asked = Number(address.k) || K;
  const short = items.length > 0 && items.length < asked && text.items.short(items.length, asked);
  const words = [sentence(text.photo.confidence(confidence)), sentence(says), type && text.look.taken(type), short];
  return h(
    "section",
    { class: "worn", id: `article-${number}`, "aria-labelledby": `article-title-${number}` },
    h(
      "h4",
      { id: `article-title-${number}`, tabindex: "-1" },
      h("span", { class: `number colour-${(number - 1) % COLOURS}` }, String(number)),
      named(article),
    ),
    h("p", { class: "soft small" }, words.filter(Boolean).join(" ")),
    items.length > 0 && ordered(items, address, "items row", { sizes: "152px" }),
  );
}

function named(article) {
  return text.look.classes[article.class] ?? article.class;
}
