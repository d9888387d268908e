/**
 * Addresses of the page, and filters as people write them: `field=a,b` one of these, `field!=c` none of these,
 * `field=` no value; `\,` and `\\` are a comma and a backslash inside a value (jobs/filters.py reads the same).
 *
 * Filters are a Map: field → {had: values, not: values}; null is no value.
 */

const OURS = new Set(["k", "exclude", "explain", "text", "cursor", "limit", "width", "product", "a", "b", "look"]);
const PREFIX = "field.";
const PRODUCT = "/p/";

/** What a location shows: its view, and everything of the view that a link is to reproduce. */
export function read({ pathname, search }) {
  const pairs = [...new URLSearchParams(search)];
  const own = (name) => pairs.filter(([key]) => key === name).map(([, value]) => value);
  const [view, id] = viewOf(pathname);
  return {
    view,
    id,
    filters: readFilters(pairs),
    exclude: [...new Set(own("exclude").flatMap(split).filter(Boolean))],
    text: own("text")[0] ?? "",
    explain: own("explain")[0] === "true",
    look: own("look")[0] === "true",
    k: own("k")[0] ?? "",
    a: own("a")[0] ?? "",
    b: own("b")[0] ?? "",
    product: own("product")[0] ?? "",
  };
}

/** The path and query that `read` makes this of. */
export function write(address) {
  const paths = { home: "/", product: PRODUCT + encodeURIComponent(address.id), photo: "/photo", compare: "/compare" };
  const own = ["text", "a", "b", "product", "k"].filter((name) => address[name]).map((name) => [name, address[name]]);
  const pairs = [...own, ...writeFilters(address.filters), ...excluding(address.exclude)];
  for (const name of ["explain", "look"]) if (address[name]) pairs.push([name, "true"]);
  return (paths[address.view] ?? "/") + query(pairs);
}

/** An address of another view, without anything that is set. */
export function blank(view, changes = {}) {
  const nothing = { id: "", filters: new Map(), exclude: [], text: "", k: "", a: "", b: "", product: "" };
  return { view, ...nothing, explain: false, look: false, ...changes };
}

function viewOf(pathname) {
  if (pathname.startsWith(PRODUCT) && pathname.length > PRODUCT.length) {
    try {
      return ["product", decodeURIComponent(pathname.slice(PRODUCT.length))];
    } catch {
      return ["missing", ""];
    }
  }
  return [{ "/": "home", "/photo": "photo", "/compare": "compare" }[pathname] ?? "missing", ""];
}

/** The pairs of a query that leaves these products out. */
export function excluding(ids) {
  return ids.length ? [["exclude", join(ids)]] : [];
}

/** A query of pairs, percent-encoded as far as it must be, with its question mark. */
export function query(pairs) {
  const encode = (part) => encodeURIComponent(part).replaceAll("%2C", ",");
  return pairs.length ? `?${pairs.map((pair) => pair.map(encode).join("=")).join("&")}` : "";
}

/** The values of a list as it is written. */
function split(written) {
  const values = [""];
  for (const [sign] of written.matchAll(/\\[,\\]|[^]/gu)) {
    if (sign === ",") values.push("");
    else values[values.length - 1] += /^\\./u.test(sign) ? sign.slice(1) : sign;
  }
  return values.map((value) => value || null);
}

function join(values) {
  return values.map((value) => (value ?? "").replace(/[,\\]/g, "\\$&")).join(",");
}

function readFilters(pairs) {
  const filters = new Map();
  for (const [key, written] of pairs) {
    if (OURS.has(key)) continue;
    const name = key.startsWith(PREFIX) ? key.slice(PREFIX.length) : key;
    const field = name.endsWith("!") ? name.slice(0, -1) : name;
    const condition = filters.get(field) ?? { had: [], not: [] };
    condition[name.endsWith("!") ? "not" : "had"].push(...split(written));
    filters.set(field, condition);
  }
  return filters;
}

/** The pairs that these filters are written as. */
export function writeFilters(filters) {
  const pairs = [];
  for (const [field, { had, not }] of filters) {
    const name = OURS.has(field) || field.startsWith(PREFIX) ? PREFIX + field : field;
    if (had.length) pairs.push([name, join(had)]);
    if (not.length) pairs.push([`${name}!`, join(not)]);
  }
  return pairs;
}

/** What filters say of a value: "had", "not", or "" where they say nothing. */
export function stateOf(filters, field, value) {
  const { had = [], not = [] } = filters.get(field) ?? {};
  return not.includes(value) ? "not" : had.includes(value) ? "had" : "";
}

/** The filters with a value to have ("had"), not to have ("not") or neither (""). */
export function withState(filters, field, value, state) {
  const { had = [], not = [] } = filters.get(field) ?? {};
  const condition = { had: had.filter((each) => each !== value), not: not.filter((each) => each !== value) };
  if (state) condition[state].push(value);
  const changed = new Map(filters).set(field, condition);
  if (!condition.had.length && !condition.not.length) changed.delete(field);
  return changed;
}

/** The filters with more [field, value] pairs that are not to be had. */
export function without(filters, pairs) {
  const all = new Map(filters);
  for (const [field, value] of pairs) {
    const { had, not } = all.get(field) ?? { had: [], not: [] };
    all.set(field, { had, not: [...new Set([...not, value])] });
  }
  return all;
}

/** The first field of which every value to have is one not to have: such filters are nothing that one can ask for. */
export function contradiction(filters) {
  for (const [field, { had, not }] of filters) {
    if (had.length && had.every((value) => not.includes(value))) return field;
  }
  return null;
}

/** Every condition as [field, value, "had" or "not"]. */
export function conditions(filters) {
  return [...filters].flatMap(([field, of]) =>
    ["had", "not"].flatMap((state) => of[state].map((value) => [field, value, state])),
  );
}
