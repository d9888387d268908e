/** A product in a list. */

import { blank, write } from "./address.js";
import { dislikeProduct, likeProduct } from "./dislikes.js";
import { h, icon, picture, toast } from "./dom.js";
import { text, title } from "./text.js";

/** A link to a product's page; its own ten are filtered as `address` says. */
export function productLink(product, address, properties, ...children) {
  const { filters, exclude, explain } = address ?? blank("product");
  const target = blank("product", { id: product.product_id, filters, exclude, explain });
  return h("a", { href: write(target), ...properties }, ...children);
}

/** A product's picture and name, which lead to its page, and a button that hides it from every list. */
export function card(product, { sizes, eager = false, address = null, below = [] } = {}) {
  const name = title(product);
  return h(
    "article",
    { class: "card", data: { id: product.product_id } },
    productLink(
      product,
      address,
      { class: "card-link" },
      picture(product.image, { sizes, eager }),
      h("span", { class: "card-name" }, name),
      product.kind && product.name && h("span", { class: "card-kind" }, product.kind),
    ),
    hideButton(product),
    below,
  );
}

export function hideButton(product) {
  const name = title(product);
  const hide = () => {
    dislikeProduct(product);
    toast(text.home.hidden(name), () => likeProduct(product.product_id));
  };
  const words = text.home.hide(name);
  return h("button", { type: "button", class: "hide", "aria-label": words, title: words, onclick: hide }, icon("hide"));
}
