/** Browsing: all products that pass, as an endless grid of pictures beside the filters. */

import { excluding, write, writeFilters } from "./address.js";
import { ask, latest } from "./api.js";
import { card } from "./cards.js";
import { chips, contradicting, nothingLeft } from "./chips.js";
import { liked, withDislikes } from "./dislikes.js";
import { announce, h, redraw, toast } from "./dom.js";
import { askFields, facets } from "./filters.js";
import { problemNotice } from "./problem.js";
import { again, here } from "./route.js";
import { filterPlace } from "./sheet.js";
import { text } from "./text.js";

const PAGE = 60; // whole rows in 2, 3, 4, 5 and 6 columns
const FIRST = 12;
const SIZES = "(min-width: 64rem) 220px, (min-width: 40rem) 25vw, 50vw";
let left = null; // the list as it was when its view was left, for the way back

/** The view: {root, title, update(address), leave()}. */
export function home() {
  const panel = facets();
  const place = filterPlace(panel);
  const heading = h("h1", { tabindex: "-1" }, "\u00a0");
  const set = h("div", { class: "chips" });
  const feed = new Feed();
  const root = h(
    "div",
    { class: "beside" },
    place.aside,
    h(
      "section",
      { class: "main-column" },
      h("header", { class: "bar" }, heading, h("div", { class: "bar-buttons" }, place.button)),
      set,
      feed.root,
    ),
    place.sheet,
  );
  const newest = latest();
  let begun = false;

  const tell = (address, total) => {
    heading.textContent = text.home.count(total);
    place.tell(address, total);
    announce(text.home.count(total));
  };
  const update = (address, { back = false } = {}) =>
    newest(async (signal) => {
      redraw(set, chips(address));
      place.tell(address);
      askFields(address, signal).then(panel.show, () => {});
      const { filters, exclude } = await withDislikes(address).catch(() => address);
      const pairs = [...(address.text ? [["text", address.text]] : []), ...writeFilters(filters)];
      const key = write({ ...address, exclude: [], filters });
      const first = !begun;
      begun = true;
      const holds = (list) => list?.key === key && list.excluded.every((id) => exclude.includes(id));
      try {
        if (back && holds(left?.list)) {
          feed.show(left.list);
          scrollTo({ top: left.scroll, behavior: "instant" });
        } else if (holds(feed.list)) {
          feed.refresh();
        } else {
          if (!first) scrollTo({ top: 0, behavior: "instant" });
          const unable = await contradicting(address);
          if (unable) {
            heading.textContent = text.home.count(0);
            feed.say(unable);
            redraw(set);
            return;
          }
          const list = new List(key, pairs, exclude);
          feed.wait();
          await list.more(signal);
          if (signal.aborted) return;
          feed.show(list);
        }
        const total = await feed.list.countWithout(exclude, signal);
        tell(address, total);
        if (!total) {
          redraw(set); // the notice has them
          feed.say(nothingLeft(address, text.home));
        }
        performance.mark("first-view");
      } catch (problem) {
        if (signal.aborted) return;
        heading.textContent = text.home.title;
        feed.say(problemNotice(problem));
      }
    });
  const leave = () => {
    if (feed.list) left = { list: feed.list, scroll: scrollY };
    feed.stop();
  };
  return { root, title: () => here().text || "", update, leave };
}

/** Products as they are asked for, page after page, without those that were left out when it began. */
class List {
  constructor(key, pairs, excluded) {
    Object.assign(this, { key, pairs, excluded, products: [], total: 0, next: null, begun: false });
  }

  get ended() {
    return this.begun && this.next === null;
  }

  /** Ask for the next page. */
  async more(signal) {
    const own = [["limit", String(PAGE)], ...(this.next ? [["cursor", this.next]] : [])];
    const answer = await ask("/products", [...own, ...this.pairs, ...excluding(this.excluded)], { signal });
    this.products.push(...answer.products);
    Object.assign(this, { total: answer.total, next: answer.next, begun: true });
  }

  /** How many products there are without these, which are those that are left out and others hidden since. */
  async countWithout(exclude, signal) {
    if (exclude.length === this.excluded.length) return this.total;
    const answer = await ask("/products", [["limit", "1"], ...this.pairs, ...excluding(exclude)], { signal });
    return answer.total;
  }
}

/** The grid: chunks of a page, of which only those near the window hold cards; their heights follow from CSS alone. */
class Feed {
  constructor() {
    this.grid = h("div", { class: "feed", role: "feed", "aria-label": text.home.title });
    this.note = h("div");
    this.foot = h("div", { class: "foot soft" });
    this.root = h("div", {}, this.grid, this.note, this.foot);
    this.near = new IntersectionObserver((entries) => entries.forEach((entry) => this.#turn(entry)), {
      rootMargin: "1500px",
    });
    this.end = new IntersectionObserver((entries) => entries.at(-1).isIntersecting && this.#more(), {
      rootMargin: "2500px",
    });
    this.end.observe(this.foot);
    this.list = null;
    this.wait();
  }

  /** Show the shapes of products that are still asked for, unless others are there. */
  wait() {
    this.grid.setAttribute("aria-busy", "true");
    if (this.list) return;
    this.grid.hidden = false;
    this.note.replaceChildren();
    const shapes = Array.from({ length: 2 * FIRST }, () =>
      h("div", { class: "card skeleton" }, h("span", { class: "tile" })),
    );
    this.grid.replaceChildren(h("div", { class: "chunk", style: { "--n": shapes.length } }, shapes));
    this.foot.textContent = "";
  }

  show(list) {
    this.list = list;
    this.#clear();
    this.grid.hidden = false;
    this.#lay();
    this.#watch();
  }

  say(notice) {
    this.list = null;
    this.#clear();
    this.grid.hidden = true;
    this.note.replaceChildren(notice);
  }

  #clear() {
    this.near.disconnect();
    this.grid.replaceChildren();
    this.grid.removeAttribute("aria-busy");
    this.note.replaceChildren();
    this.foot.textContent = "";
  }

  /** Look for the end again: an observer tells only of what changes, and the foot may be near as it was before. */
  #watch() {
    this.end.unobserve(this.foot);
    this.end.observe(this.foot);
  }

  /** Leave out what has been hidden since, and show what no longer is. */
  refresh() {
    this.grid.removeAttribute("aria-busy");
    this.#lay(true);
    this.#watch();
  }

  stop() {
    this.near.disconnect();
    this.end.disconnect();
    this.list = null;
  }

  async #more() {
    const { list } = this;
    if (!list || list.ended || this.asking) return;
    this.asking = true;
    this.foot.textContent = text.home.more;
    try {
      await list.more();
    } catch (problem) {
      if (this.list === list) this.#stuck(problem);
      return;
    } finally {
      this.asking = false;
    }
    if (this.list !== list) return;
    this.#lay();
    this.#watch();
  }

  #stuck(problem) {
    if (problem.status === 410) {
      toast(text.home.newRun);
      this.list = null;
      again();
    } else {
      this.foot.replaceChildren(problemNotice(problem));
    }
  }

  /** Have a chunk for every page of visible products, and tell each how many it holds. */
  #lay(drawn = false) {
    const products = liked(this.list.products, here());
    this.chunks = Array.from({ length: Math.ceil(products.length / PAGE) }, (_, at) =>
      products.slice(at * PAGE, (at + 1) * PAGE),
    );
    while (this.grid.children.length > this.chunks.length) this.grid.lastChild.remove();
    this.chunks.forEach((chunk, at) => {
      let node = this.grid.children[at];
      const fresh = !node;
      if (fresh) {
        node = h("div", { class: "chunk", data: { at } });
        this.grid.append(node);
      }
      const changed = node.style.getPropertyValue("--n") !== String(chunk.length);
      node.style.setProperty("--n", chunk.length);
      if (fresh && at === 0) this.#fill(node);
      else if ((drawn || changed) && node.firstChild) this.#fill(node);
      if (fresh) this.near.observe(node);
    });
    this.foot.textContent = this.list.ended ? text.home.end(products.length) : "";
  }

  #turn({ target, isIntersecting }) {
    if (isIntersecting && !target.firstChild) this.#fill(target);
    else if (!isIntersecting && !target.contains(document.activeElement)) target.replaceChildren();
  }

  #fill(node) {
    const at = Number(node.dataset.at);
    const cards = this.chunks[at].map((product, place) => {
      const element = card(product, { sizes: SIZES, eager: at === 0 && place < FIRST });
      element.setAttribute("aria-posinset", at * PAGE + place + 1);
      element.setAttribute("aria-setsize", this.list.ended ? this.list.products.length : this.list.total || -1);
      return element;
    });
    node.replaceChildren(...cards);
  }
}
