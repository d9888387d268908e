/** The dislikes, shown and taken back: a sheet that the button in the page's head opens. */

import { write } from "./address.js";
import {
  dislikedProducts,
  dislikedValues,
  likeEverything,
  likeProduct,
  likeValue,
  onDislikes,
  withDislikes,
} from "./dislikes.js";
import { h, icon, picture, redraw, toast } from "./dom.js";
import { here } from "./route.js";
import { label, text, title } from "./text.js";

/** Wire the button in the page's head to its sheet. */
export function dislikesPanel(button) {
  const body = h("div", { class: "sheet-body" });
  const close = h(
    "button",
    { type: "button", class: "round", "aria-label": text.close, onclick: () => sheet.close() },
    icon("close"),
  );
  const sheet = h(
    "dialog",
    { class: "sheet", "aria-labelledby": "dislikes-title" },
    h("header", {}, h("h2", { id: "dislikes-title" }, text.dislikes.title), close),
    body,
  );
  sheet.addEventListener("click", ({ target }) => target === sheet && sheet.close());
  document.body.append(sheet);
  const badge = h("span", { class: "badge" });
  button.append(badge);
  const draw = () => {
    const number = dislikedValues().length + dislikedProducts().length;
    badge.textContent = number || "";
    badge.hidden = !number;
    redraw(body, content());
  };
  const open = () => {
    draw();
    sheet.showModal();
  };
  button.addEventListener("click", open);
  addEventListener("dislikes", open);
  onDislikes(draw);
  draw();
}

function content() {
  const values = dislikedValues();
  const products = dislikedProducts();
  if (!values.length && !products.length) return h("p", { class: "soft" }, text.dislikes.none);
  return [
    h("p", { class: "soft" }, text.dislikes.lead),
    values.length > 0 && [
      h("h3", {}, text.dislikes.values),
      h("ul", { class: "disliked", role: "list" }, values.map(valueRow)),
    ],
    products.length > 0 && [
      h("h3", {}, text.dislikes.products),
      h("ul", { class: "disliked", role: "list" }, products.map(productRow)),
    ],
    h(
      "p",
      { class: "actions" },
      h(
        "button",
        { type: "button", class: "button", data: { key: "copy" }, onclick: copy },
        icon("link"),
        text.dislikes.copy,
      ),
      h("button", { type: "button", class: "plain", data: { key: "clear" }, onclick: likeEverything }, text.clear),
    ),
  ].flat();
}

function valueRow([field, value]) {
  return h(
    "li",
    {},
    h("span", { class: "disliked-words" }, h("span", { class: "soft" }, `${label(field)} `), h("strong", {}, value)),
    likeButton(value, () => likeValue(field, value)),
  );
}

function productRow(product) {
  return h(
    "li",
    {},
    picture(product.image, { sizes: "48px" }),
    h("span", { class: "disliked-words" }, h("strong", {}, title(product))),
    likeButton(title(product), () => likeProduct(product.product_id)),
  );
}

function likeButton(name, onclick) {
  return h(
    "button",
    {
      type: "button",
      class: "round",
      "aria-label": text.dislikes.like(name),
      title: text.dislikes.like(name),
      onclick,
    },
    icon("close"),
  );
}

async function copy() {
  const address = here();
  const link = location.origin + write({ ...address, ...(await withDislikes(address)) });
  try {
    await navigator.clipboard.writeText(link);
    toast(text.dislikes.copied);
  } catch {
    prompt(text.dislikes.notCopied, link);
  }
}
