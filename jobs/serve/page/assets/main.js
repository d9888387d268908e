/** The page's frame: its head, and the view that the address names. */

import { blank } from "./address.js";
import { comparePage } from "./compare.js";
import { onDislikes } from "./dislikes.js";
import { home } from "./home.js";
import { dislikesPanel } from "./panel.js";
import { acceptPhotos, photoPage } from "./photo.js";
import { missing } from "./problem.js";
import { productPage } from "./product.js";
import { go, here } from "./route.js";
import { text } from "./text.js";

const VIEWS = { home, product: productPage, photo: photoPage, compare: comparePage };
const SEARCH_AFTER_MS = 250;
const main = document.getElementById("main");
const search = document.getElementById("search");
let current = { view: null };

function show({ back = false } = {}) {
  const address = here();
  const fresh = current.view !== address.view;
  if (fresh) {
    current.leave?.();
    const made = VIEWS[address.view]?.() ?? { root: missing(), title: () => "", update: () => {}, leave: () => {} };
    const first = current.view === null;
    current = { ...made, view: address.view };
    main.replaceChildren(made.root);
    if (!first && !back) scrollTo({ top: 0, behavior: "instant" });
    if (!first && document.activeElement !== search) main.focus({ preventScroll: true });
  } else if (shownIn(address) !== current.shown && !back) {
    scrollTo({ top: 0, behavior: "instant" });
    main.focus({ preventScroll: true });
  }
  current.shown = shownIn(address);
  if (document.activeElement !== search) search.value = address.text;
  for (const link of document.querySelectorAll("[data-view]")) {
    link.toggleAttribute("data-here", link.dataset.view === address.view);
    link.dataset.view === address.view
      ? link.setAttribute("aria-current", "page")
      : link.removeAttribute("aria-current");
  }
  const done = current.update(address, { back });
  document.title = text.pageOf(current.title());
  return done;
}

/** The product that a view is about. */
function shownIn({ id, product }) {
  return id || product;
}

function follow(event) {
  const link = event.target.closest?.("a[href]");
  const plain =
    !event.defaultPrevented &&
    event.button === 0 &&
    !event.metaKey &&
    !event.ctrlKey &&
    !event.shiftKey &&
    !event.altKey;
  if (!link || !plain || link.origin !== location.origin || link.target || link.hash) return;
  event.preventDefault();
  const target = link.pathname + link.search;
  if (target !== location.pathname + location.search) history.pushState({}, "", target);
  show();
}

function searchFor(words) {
  const address = here();
  if (address.view === "home") go({ ...address, text: words }, { replace: true });
  else go(blank("home", { text: words }));
}

/** Put the words into what index.html has: `data-text`, `data-label` for a screen reader, `data-hint` in a field. */
function name(words) {
  const each = (attribute, put) =>
    document.querySelectorAll(`[data-${attribute}]`).forEach((node) => put(node, words[node.dataset[attribute]]));
  each("text", (node, said) => (node.textContent = said));
  each("label", (node, said) => node.setAttribute("aria-label", said));
  each("hint", (node, said) => (node.placeholder = said));
}

name(text.frame);
history.scrollRestoration = "manual";
addEventListener("popstate", () => show({ back: true }));
addEventListener("go", () => show());
addEventListener("click", follow);
addEventListener("keydown", (event) => {
  if (event.key !== "/" || event.target.closest("input, select, textarea, dialog")) return;
  event.preventDefault();
  search.focus();
});
document.addEventListener("run", ({ detail }) => {
  document.getElementById("run").textContent = text.run(detail.run);
});
onDislikes(() => show());
let waiting;
search.addEventListener("input", () => {
  clearTimeout(waiting);
  waiting = setTimeout(() => searchFor(search.value.trim()), SEARCH_AFTER_MS);
});
search.form.addEventListener("submit", (event) => {
  event.preventDefault();
  clearTimeout(waiting);
  searchFor(search.value.trim());
});
dislikesPanel(document.getElementById("dislikes"));
acceptPhotos();
show();
