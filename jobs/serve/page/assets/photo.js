/** Searching with a photo, dropped, pasted, chosen or taken: with the whole of it, or with what its persons wear. */

import { Problem, ask } from "./api.js";
import { conditions, excluding, withState, writeFilters } from "./address.js";
import { withDislikes } from "./dislikes.js";
import { h, icon, redraw } from "./dom.js";
import { results } from "./items.js";
import { boxed, lookResults, lookWords, withItems } from "./look.js";
import { problemNotice } from "./problem.js";
import { again, go, here } from "./route.js";
import { shrunk } from "./shrink.js";
import { percent, text } from "./text.js";

let photo = null; // {sent, seen, note}: it outlives the view, for the way back from a product

/** The view: {root, title, update(address), leave()}. */
export function photoPage() {
  const place = h("div", { class: "photo" });
  const ways = { whole: results(text.photo.results), look: lookResults() };
  const root = h("div", {}, place, ways.whole.root, ways.look.root);
  let taken = null;
  let failed = false;
  let asked = null; // what `taken` is the answer to

  const draw = () => redraw(place, photo ? seenPart(photo, taken, failed) : askPart());
  const update = async ({ look }) => {
    const way = look ? "look" : "whole";
    for (const [name, { root: section }] of Object.entries(ways)) section.hidden = !photo || name !== way;
    if (asked?.way !== way || asked.photo !== photo) [taken, failed] = [null, false];
    const mine = { way, photo };
    asked = mine;
    draw();
    if (!photo) return;
    const tell = (answer) => {
      if (asked !== mine) return; // the other way, or another photo, was chosen meanwhile
      [taken, failed] = [answer, !answer];
      draw();
    };
    await ways[way].update(async (signal) => {
      try {
        const answer = await (look ? askLook : askSearch)(mine.photo.sent, here(), signal);
        tell(answer);
        return answer;
      } catch (problem) {
        if (!signal.aborted) tell(null);
        throw problem;
      }
    });
  };
  return { root, title: () => text.photo.title, update, leave: () => {} };
}

async function askSearch(sent, address, signal) {
  const explain = address.explain ? [["explain", "true"]] : [];
  return ask("/search", [...(await question(address)), ...explain], { signal, body: sent });
}

async function askLook(sent, address, signal) {
  return withItems(await ask("/look", await question(address), { signal, body: sent }));
}

async function question(address) {
  const { filters, exclude } = await withDislikes(address);
  return [...writeFilters(filters), ...excluding(exclude), ...(address.k ? [["k", address.k]] : [])];
}

/** Take up a photo: show it, make it smaller where it must be, and search with it. */
async function take(file) {
  if (!file) return;
  const refuse = (heading, detail) => {
    const node = problemNotice(new Problem(400, { heading, detail }), { retry: false });
    document.querySelector(".photo-said")?.replaceChildren(node);
  };
  if (file.type && !file.type.startsWith("image/")) {
    refuse(text.photo.notImage, text.photo.notImageRemedy);
    return;
  }
  document.querySelector(".photo-said")?.replaceChildren(h("p", { role: "status" }, text.photo.shrinking));
  let sent;
  try {
    sent = await shrunk(file);
  } catch {
    refuse(text.photo.unreadable, text.photo.unreadableRemedy);
    return;
  }
  if (photo) URL.revokeObjectURL(photo.seen);
  const note = sent === file ? "" : text.photo.shrunkFrom(file.size, sent.size);
  photo = { sent, seen: URL.createObjectURL(sent), note };
  const address = here();
  // What the last photo was said to be says nothing of this one.
  if (address.view === "photo") again();
  else go({ ...address, view: "photo", id: "", text: "", product: "" });
}

function askPart() {
  const address = here();
  const gone = conditions(address.filters).length > 0 && h("p", { class: "soft" }, text.photo.gone);
  return h(
    "div",
    { class: "drop" },
    icon("photo"),
    h("h1", { tabindex: "-1" }, text.photo.title),
    h("p", { class: "lead" }, text.photo.lead),
    h("p", { class: "actions" }, chooser(text.photo.choose), camera()),
    h("p", { class: "soft fine-only" }, `${text.photo.drop}, ${text.photo.paste}.`),
    gone,
    h("p", { class: "soft small" }, text.photo.private),
    h("div", { class: "photo-said" }),
  );
}

/** A button that opens the browser's choice of files. */
function chooser(words, properties = {}) {
  const input = h("input", {
    type: "file",
    accept: "image/*,.heic,.heif,.avif",
    class: "unseen",
    onchange: ({ target }) => take(target.files[0]),
    ...properties,
  });
  const kind = properties.capture ? "button coarse-only" : "button strong";
  return h("label", { class: kind }, icon(properties.capture ? "camera" : "photo"), words, input);
}

const camera = () => chooser(text.photo.camera, { capture: "environment" });

function seenPart({ seen, note }, taken, failed) {
  const image = h("img", { src: seen, alt: text.photo.yours });
  image.addEventListener("error", () => image.replaceWith(icon("photo"))); // HEIC, which many browsers do not show
  const picture = taken?.persons ? boxed(image, taken) : h("span", { class: "tile own" }, image);
  return [
    h("div", { class: "gallery" }, h("div", { class: "main-picture" }, picture)),
    h(
      "div",
      { class: "about" },
      waysPart(),
      taken?.persons ? [taken.answer && takenFor(taken.answer), lookWords(taken)] : takenFor(taken, failed),
      note && h("p", { class: "soft small" }, note),
      h("p", { class: "actions" }, chooser(text.photo.another), camera()),
      h("p", { class: "soft small" }, text.photo.private),
      h("div", { class: "photo-said" }),
    ),
  ];
}

/** The choice between the whole photo and the look. */
function waysPart() {
  const way = (look, words) =>
    h(
      "button",
      {
        type: "button",
        class: "button",
        data: { key: `way ${look}` },
        "aria-pressed": String(here().look === look),
        onclick: () => go({ ...here(), look }),
      },
      words,
    );
  const name = { role: "group", "aria-label": text.photo.ways };
  return h("div", { class: "actions", ...name }, way(false, text.photo.whole), way(true, text.photo.look));
}

function takenFor(taken, failed) {
  const kicker = h("p", { class: "kicker" }, here().look && !taken ? text.look.kicker : text.photo.takenFor);
  if (failed) return [kicker, h("h1", { tabindex: "-1" }, text.photo.failed)];
  if (!taken) return [kicker, h("h1", { tabindex: "-1", class: "pending" }, text.photo.looking)];
  const { subcategory, derived_type: type, stage } = taken;
  const guess = (stage === "derivedType" && type) || (stage !== "filters" && subcategory) || null;
  return [
    kicker,
    h("h1", { tabindex: "-1" }, guess?.value ?? text.photo.unknown),
    [subcategory, type].filter(Boolean).map(meter),
    h("p", { class: "soft small" }, text.photo.why(taken.why)),
    otherwise(taken),
  ];
}

function meter({ value, confidence }) {
  const { sure, confidence: percentSure } = text.photo;
  return h(
    "div",
    { class: "meter" },
    h("span", {}, value),
    h("span", { class: "track", "aria-hidden": "true" }, h("span", { style: { "--share": confidence } })),
    h("span", { class: "soft small" }, `${percentSure(confidence)}, ${sure(confidence)}`),
  );
}

/** The other things that it may be; one that is chosen is a filter of the field that groups kinds. */
function otherwise({ group, alternatives, subcategory }) {
  if (!group) return null;
  const chosen = here().filters.get(group)?.had ?? [];
  const choose = (value) => () => go({ ...here(), filters: withState(cleared(group), group, value, "had") });
  const others = alternatives.filter(({ value }) => !chosen.includes(value) && value !== subcategory?.value);
  return h(
    "section",
    { class: "otherwise", "aria-label": text.photo.else },
    chosen.length === 1 && [
      h("p", {}, text.photo.chosen(chosen[0] ?? "")),
      h(
        "button",
        {
          type: "button",
          class: "button",
          data: { key: "decide" },
          onclick: () => go({ ...here(), filters: cleared(group) }),
        },
        text.photo.back,
      ),
    ],
    h("h2", { class: "small-title" }, text.photo.else),
    h(
      "p",
      { class: "chips" },
      others.map(({ value, confidence }) =>
        h(
          "button",
          { type: "button", class: "chip choice", data: { key: `else ${value}` }, onclick: choose(value) },
          h("strong", {}, value),
          h("span", { class: "soft" }, ` ${percent(confidence)}`),
        ),
      ),
      h("span", { class: "soft small" }, text.photo.elseNone),
    ),
  );
}

function cleared(field) {
  const filters = new Map(here().filters);
  filters.delete(field);
  return filters;
}

/** Let photos be dropped and pasted anywhere on the page. */
export function acceptPhotos() {
  const hasFile = ({ dataTransfer }) => [...(dataTransfer?.types ?? [])].includes("Files");
  const over = (on) => document.body.classList.toggle("dropping", on);
  let depth = 0;
  addEventListener("dragenter", (event) => hasFile(event) && over((depth += 1) > 0));
  addEventListener("dragleave", (event) => hasFile(event) && over((depth -= 1) > 0));
  addEventListener("dragover", (event) => hasFile(event) && event.preventDefault());
  addEventListener("drop", (event) => {
    depth = 0;
    over(false);
    if (!hasFile(event)) return;
    event.preventDefault();
    take(event.dataTransfer.files[0]);
  });
  addEventListener("paste", ({ clipboardData }) => {
    const file = [...(clipboardData?.files ?? [])].find(({ type }) => type.startsWith("image/"));
    if (file) take(file);
  });
}
