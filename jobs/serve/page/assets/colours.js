/** The colours that values name, for a swatch beside them. */

const MORE = {
  bronze: "#8c6a3f",
  burgundy: "#6d1a2d",
  charcoal: "#3f4246",
  copper: "#b06a3b",
  cream: "#f4ead0",
  denim: "#3d5a80",
  mauve: "#b08aa5",
  mustard: "#d2a432",
  nude: "#e3bc9a",
  peach: "#fac2a4",
  rose: "#d9728a",
  rust: "#a8482a",
  skin: "#e3bc9a",
  taupe: "#8b7d70",
  wine: "#702438",
};
const LEAST = 0.5;
/** Words that CSS takes for colours and that name none. */
const UNCOLOURED = new Set(
  `inherit initial unset revert canvas canvastext linktext visitedtext activetext buttonface buttontext
   buttonborder field fieldtext highlight highlighttext selecteditem selecteditemtext mark marktext
   graytext accentcolor accentcolortext currentcolor`.split(/\s+/),
);

/** A colour as CSS has it that a value names, in one of its words or all of them; null where it names none. */
export function colourOf(value) {
  const words =
    String(value ?? "")
      .toLowerCase()
      .match(/[a-z]+/g) ?? [];
  for (const name of [words.join(""), ...words]) {
    if (MORE[name]) return MORE[name];
    if (name !== "transparent" && /^[a-z]{3,}$/.test(name) && CSS.supports("color", name) && !UNCOLOURED.has(name))
      return name;
  }
  return null;
}

/** Whether a field holds colours: so many of its values name one. */
export function isColours(values) {
  const given = values.filter((value) => value !== null);
  return given.length > 1 && given.filter((value) => colourOf(value)).length >= LEAST * given.length;
}
