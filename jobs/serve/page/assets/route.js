/** Where the page is, and going elsewhere. */

import { read, write } from "./address.js";

/** The address that is shown. */
export function here() {
  return read(location);
}

/** Show another address; `replace` where the one before is not worth going back to. */
export function go(address, { replace = false } = {}) {
  const target = write(address);
  if (target === location.pathname + location.search) return;
  history[replace ? "replaceState" : "pushState"]({}, "", target);
  dispatchEvent(new Event("go"));
}

/** Show what is here again: what it shows has changed. */
export function again() {
  dispatchEvent(new Event("go"));
}
