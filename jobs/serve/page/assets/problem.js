/** What to show where an answer is a problem: what, where, what to do, and the way to try again. */

import { useKey } from "./api.js";
import { blank, write } from "./address.js";
import { h } from "./dom.js";
import { again } from "./route.js";
import { sentence, text } from "./text.js";

/** A notice of a problem; it asks again by itself where the server said when. */
export function problemNotice(problem, { retry = true } = {}) {
  if (problem.status === undefined) throw problem;
  if (problem.status === 401) return keyNotice();
  const where = text.problem.where(problem.value, problem.place);
  const node = h(
    "div",
    { class: "notice problem", role: "alert" },
    h("h2", {}, problem.heading ?? text.problem.titles[problem.status] ?? text.problem.title),
    h("p", {}, sentence(problem.message)),
    where && h("p", { class: "soft small" }, where),
    problem.remedy && h("p", {}, sentence(problem.remedy)),
    problem.retryAfter && h("p", { class: "soft small" }, text.problem.soon(problem.retryAfter)),
    retry &&
      h(
        "p",
        { class: "actions" },
        h("button", { type: "button", class: "button", onclick: again }, text.again),
        problem.status === 404 && h("a", { class: "button", href: write(blank("home")) }, text.problem.home),
      ),
  );
  if (problem.retryAfter) setTimeout(() => node.isConnected && again(), 1000 * problem.retryAfter);
  return node;
}

/** What an address that is none shows. */
export function missing() {
  return h(
    "div",
    { class: "notice" },
    h("h1", {}, text.problem.missing),
    h("p", {}, text.problem.missingWhy),
    h("p", {}, h("a", { class: "button", href: write(blank("home")) }, text.problem.home)),
  );
}

function keyNotice() {
  const input = h("input", { type: "password", id: "key", autocomplete: "off", required: true });
  const use = (event) => {
    event.preventDefault();
    useKey(input.value.trim());
    again();
  };
  return h(
    "div",
    { class: "notice problem", role: "alert" },
    h("h2", {}, text.problem.key),
    h("p", {}, text.problem.keyWhy),
    h(
      "form",
      { class: "inline", onsubmit: use },
      h("label", { for: "key" }, text.problem.keyLabel),
      input,
      h("button", { class: "button" }, text.problem.keyUse),
    ),
    h("p", { class: "soft small" }, text.problem.keyKept),
  );
}
