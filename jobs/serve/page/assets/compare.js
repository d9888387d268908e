/** Two runs beside each other: which lists changed most, and the two lists of one product. */

import { blank, excluding, write, writeFilters } from "./address.js";
import { ask, latest } from "./api.js";
import { chips, contradicting } from "./chips.js";
import { withDislikes } from "./dislikes.js";
import { h, icon, picture, redraw } from "./dom.js";
import { askFields, facets } from "./filters.js";
import { problemNotice } from "./problem.js";
import { go, here } from "./route.js";
import { filterPlace } from "./sheet.js";
import { count, score, text, title } from "./text.js";

const SIZES = "(min-width: 64rem) 200px, 33vw";

/** The view: {root, title, update(address), leave()}. */
export function comparePage() {
  const panel = facets();
  const place = filterPlace(panel, { always: true });
  const choice = h("div", { class: "run-choice" });
  const set = h("div", { class: "chips" });
  const body = h("div", { class: "compared" });
  place.button.hidden = true;
  const root = h(
    "div",
    { class: "compare" },
    h(
      "header",
      { class: "bar" },
      h("h1", { tabindex: "-1" }, text.compare.title),
      h("div", { class: "bar-buttons" }, place.button),
    ),
    h("p", { class: "lead soft" }, text.compare.lead),
    choice,
    set,
    body,
    place.aside,
    place.sheet,
  );
  const newest = latest();
  const update = (address) =>
    newest(async (signal) => {
      body.setAttribute("aria-busy", "true");
      try {
        const { runs } = await ask("/runs", [], { signal });
        const [a, b] = chosen(runs, address);
        redraw(choice, runs.length > 1 && chooseRuns(runs, a, b));
        place.button.hidden = !address.product || runs.length < 2;
        redraw(set, address.product && runs.length > 1 ? chips(address) : []);
        place.tell(address);
        if (!a || !b) redraw(body, tooFew(runs));
        else if (a === b) redraw(body, h("p", { class: "notice" }, text.compare.itself));
        else await show(address, [a, b], runs, { body, panel, signal });
      } catch (problem) {
        if (!signal.aborted) redraw(body, problemNotice(problem));
      }
      if (!signal.aborted) body.removeAttribute("aria-busy");
    });
  return { root, title: () => text.compare.title, update, leave: () => {} };
}

/** The ids of the runs of an address; where it names none, the live one with the one before it. */
function chosen(runs, { a, b }) {
  const live = runs.findIndex((run) => run.live);
  const second = b || String(runs[Math.max(0, live)]?.run_id ?? "");
  const others = runs.filter((run) => String(run.run_id) !== second);
  const before = others.find((run) => run.run_id < Number(second)) ?? others[0];
  return [a || String(before?.run_id ?? ""), second];
}

async function show(address, [a, b], runs, { body, panel, signal }) {
  const path = `/runs/${encodeURIComponent(a)}/compare/${encodeURIComponent(b)}`;
  const { filters, exclude } = await withDislikes(address);
  if (!address.product) {
    const answer = await ask(path, excluding(exclude), { signal });
    if (!signal.aborted) redraw(body, figures(answer), changedLists(answer));
    return;
  }
  askFields(address, signal).then(panel.show, () => {});
  const unable = await contradicting(address);
  if (unable) {
    redraw(body, unable);
    return;
  }
  const pairs = [["product", address.product], ...writeFilters(filters), ...excluding(exclude)];
  const [answer, product] = await Promise.all([
    ask(path, pairs, { signal }),
    ask(`/products/${encodeURIComponent(address.product)}`, [], { signal }).then(
      (found) => found.product,
      () => ({ product_id: address.product, name: null, kind: null, image: null }), // the live run may lack it
    ),
  ]);
  if (!signal.aborted) redraw(body, sideBySide(product, answer));
}

function chooseRuns(runs, a, b) {
  const select = (name, value) => {
    const words = (run) => `${run.run} · ${text.home.count(run.products)}${run.live ? ` · ${text.compare.live}` : ""}`;
    const options = runs.map((run) => {
      const id = String(run.run_id);
      return h("option", { value: id, selected: id === value }, words(run));
    });
    const turn = ({ target }) => go({ ...here(), a, b, [name]: target.value });
    return h("select", { id: `run-${name}`, data: { key: `run ${name}` }, onchange: turn }, options);
  };
  const input = h("input", { id: "compared-product", data: { key: "product" }, autocomplete: "off", size: 10 });
  input.value = here().product;
  const find = (event) => {
    event.preventDefault();
    go({ ...here(), a, b, product: input.value.trim() });
  };
  return [
    h(
      "p",
      { class: "runs" },
      h("label", { for: "run-a" }, text.compare.from),
      select("a", a),
      h("label", { for: "run-b" }, text.compare.with),
      select("b", b),
    ),
    h(
      "form",
      { class: "inline", onsubmit: find },
      h("label", { for: "compared-product" }, text.compare.findProduct),
      input,
      h("button", { class: "button" }, text.compare.show),
    ),
  ];
}

function tooFew(runs) {
  const [words, why] = runs.length
    ? [text.compare.one, text.compare.oneWhy]
    : [text.compare.none, text.compare.noneWhy];
  return h("div", { class: "notice" }, h("h2", {}, words), h("p", {}, why));
}

function figures({ a, b, products }) {
  const figure = (number, words) => h("div", {}, h("dt", {}, words), h("dd", {}, count(number)));
  return h(
    "dl",
    { class: "figures" },
    figure(products.both, text.compare.both),
    figure(products.only_a, text.compare.onlyA(a.run)),
    figure(products.only_b, text.compare.onlyB(b.run)),
  );
}

function changedLists(answer) {
  const changed = answer.changed ?? [];
  if (!changed.length)
    return h("div", { class: "notice" }, h("h2", {}, text.compare.same), h("p", {}, text.compare.sameWhy));
  return [h("h2", {}, text.compare.changed), h("ol", { class: "items", role: "list" }, changed.map(changedCard))];
}

function changedCard(product) {
  const target = write({ ...here(), product: product.product_id });
  return h(
    "li",
    { class: "card" },
    h(
      "a",
      { class: "card-link", href: target },
      picture(product.image, { sizes: SIZES }),
      h("span", { class: "card-name" }, title(product)),
      h("span", { class: "card-kind" }, text.compare.kept(product.kept)),
    ),
  );
}

function sideBySide(product, { a, b, product: answered }) {
  const name = title(product);
  const lists = { a: answered.a ?? [], b: answered.b ?? [] };
  const kept = lists.a.filter((item) => lists.b.some((other) => other.product_id === item.product_id)).length;
  return [
    h(
      "p",
      {},
      h(
        "a",
        { class: "back", href: write({ ...here(), product: "", filters: new Map(), exclude: [] }) },
        icon("back"),
        text.compare.back,
      ),
    ),
    h(
      "div",
      { class: "compared-product" },
      picture(product.image, { sizes: "96px", alt: name, eager: true }),
      h(
        "div",
        {},
        h("h2", {}, text.compare.lists(name)),
        h("p", { class: "soft" }, text.compare.summary(kept, Math.max(lists.a.length, lists.b.length))),
        h("a", { href: write(blank("product", { id: product.product_id })) }, text.product.id(product.product_id)),
      ),
    ),
    h("div", { class: "two-lists" }, column(a, lists.a, lists.b, false), column(b, lists.b, lists.a, true)),
  ];
}

function column(run, items, others, later) {
  const place = new Map(others.map((item) => [item.product_id, item.rank]));
  return h(
    "section",
    { "aria-label": text.run(run.run) },
    h("h3", {}, text.run(run.run)),
    !items.length && h("p", { class: "soft" }, text.compare.absent),
    h(
      "ol",
      { class: "ranked", role: "list" },
      items.map((item) => rankedItem(item, place.get(item.product_id), later)),
    ),
  );
}

function rankedItem(item, other, later) {
  const [kind, words] = moved(item.rank, other, later);
  return h(
    "li",
    { class: `ranked-item ${kind}` },
    h("span", { class: "rank" }, String(item.rank)),
    h(
      "a",
      { href: write(blank("product", { id: item.product_id })) },
      picture(item.image, { sizes: "72px" }),
      h(
        "span",
        { class: "ranked-words" },
        h("span", { class: "card-name" }, title(item)),
        h("span", { class: "soft small" }, score(item.score)),
      ),
    ),
    words && h("span", { class: "mark" }, words),
  );
}

/** How an item's place changed: only the later run's list says so of what is in both. */
function moved(rank, other, later) {
  if (other === undefined) return later ? ["fresh", text.compare.fresh] : ["gone", text.compare.gone];
  if (!later || other === rank) return ["", ""];
  return other > rank ? ["", text.compare.up(other - rank)] : ["", text.compare.down(rank - other)];
}
