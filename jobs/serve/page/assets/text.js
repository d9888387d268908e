/** Everything that the page says, in English. To translate it, change this file, and `lang` in index.html. */

const LANGUAGE = "en";

const whole = new Intl.NumberFormat(LANGUAGE);
const share = new Intl.NumberFormat(LANGUAGE, { style: "percent", maximumFractionDigits: 0 });
const exact = new Intl.NumberFormat(LANGUAGE, { minimumFractionDigits: 4, maximumFractionDigits: 4 });
const short = new Intl.NumberFormat(LANGUAGE, { minimumFractionDigits: 2, maximumFractionDigits: 2 });

export const count = (number) => whole.format(number);
export const percent = (part) => (part > 0 && part < 0.005 ? `<${share.format(0.01)}` : share.format(part));
export const score = (number) => exact.format(number);
export const part = (number) => short.format(number);

const products = (number) => (number === 1 ? "1 product" : `${count(number)} products`);
const quoted = (words) => `“${words}”`;

/** A field's name as people read it: `baseColour` is `Base colour`. */
export function label(field) {
  const words = field.replace(/([\p{Ll}\d])(\p{Lu})(?!\p{Lu})/gu, (_, end, start) => `${end} ${start.toLowerCase()}`);
  const plain = words.replace(/[_-]+/g, " ").trim() || field;
  return plain[0].toUpperCase() + plain.slice(1);
}

/** A value as people read it; null is none. */
export const named = (value) => value ?? "none given";

/** What to call a product, whatever is known of it. */
export const title = ({ name, kind, product_id }) => name || (kind ? `${kind} ${product_id}` : `Product ${product_id}`);

/** Words of the server as a sentence. */
export const sentence = (words) =>
  words ? `${words[0].toUpperCase()}${words.slice(1)}${/[.!?…]$/.test(words) ? "" : "."}` : "";

export const text = {
  undo: "Undo",
  close: "Close",
  clear: "Clear all",
  again: "Try again",
  noPicture: "No picture",
  pageOf: (name) => (name ? `${name} · Lookalike` : "Lookalike"),
  run: (run) => `Run ${run}`,

  frame: {
    skip: "Skip to the products",
    name: "Lookalike",
    search: "Find by name or number",
    places: "Places",
    browse: "Browse",
    photo: "Photo",
    compare: "Compare",
    dislikes: "Dislikes",
    docs: "HTTP API",
    drop: "Let go to search with it",
  },

  home: {
    title: "Browse",
    count: (number) => products(number),
    none: "Nothing passes all of this",
    noneWhy: "Every product is left out by something that is set here. Take one away:",
    empty: "This catalogue has no products",
    emptyWhy: "The live run holds none. Refresh a catalogue, and it appears here.",
    more: "Loading more products",
    end: (number) => (number === 1 ? "That is the only one" : `That is all ${count(number)}`),
    newRun: "A new run went live. The list begins anew.",
    hide: (name) => `Never show ${name}`,
    hidden: (name) => `${name} will not be shown again`,
  },

  filters: {
    title: "Filters",
    titleOf: (number) => (number ? `Filters (${number})` : "Filters"),
    products: (number) => (number === 1 ? " product" : " products"),
    except: (value) => `Not ${value}`,
    notPicked: (value) => `${value}: left out in this view. Press to let it in`,
    disliked: (value) => `${value}: one of your dislikes. Press to show it again`,
    likedAgain: (value) => `${value} is no longer one of your dislikes`,
    all: (number) => `All ${count(number)}`,
    fewer: "Fewer",
    find: (field) => `Find in ${field}`,
    rest: (number) => `and ${count(number)} more`,
    nothing: "No value left",
    show: (number) => (number === undefined ? "Show" : `Show ${products(number)}`),
    had: (field, value) => [`${field}: `, value],
    not: (field, value) => [`${field}: not `, value],
    never: (field, value) => [`${field}: never `, value],
    without: (id) => ["without ", id],
    withoutMany: (number) => ["without ", products(number)],
    hidden: (number) => ["hidden: ", products(number)],
    text: (words) => ["named ", quoted(words)],
    always: "Always",
    alwaysTitle: (value) => `Never show ${value}, in any list`,
    takeOff: (words) => `Remove ${words}`,
  },

  product: {
    id: (id) => `No. ${id}`,
    similar: "Looks most like it",
    only: (value) => `Only ${value}`,
    onlyShort: "Only",
    neverShort: "Never",
    never: (value) => `Never show ${value}`,
    dislikedValue: (value) => `${value} will not be shown again`,
    hide: "Never show this product",
    hiddenNow: "Hidden from every list. Show again",
    compare: "Compare runs",
    pictureOf: (name, at, of) => (of > 1 ? `${name}, picture ${at} of ${of}` : name),
    showPicture: (at) => `Show picture ${at}`,
  },

  items: {
    explain: "Scores and reasons",
    score: "Score",
    shared: "Shares",
    differing: "Differs",
    change: (from, to) => `${named(from)} → ${named(to)}`,
    sharesNothing: "nothing that is written of them",
    place: (rank, before) =>
      before === null
        ? "Far down without filters"
        : before === rank
          ? "The same place without filters"
          : `No. ${count(before)} without filters`,
    model: ({ backbone, embedder }) => `${backbone}, ${embedder}`,
    short: (number, asked) => `Only ${number} of the ${asked} asked for: no more products pass what is set here.`,
    none: "Nothing passes all of this",
    noneWhy: "Every other product is left out by something that is set here. Take one away:",
    emptyWhy: "There is no other product to compare with.",
    found: (number) => `${products(number)} that look like it`,
    parts: (parts) => `Score by parts: ${parts}`,
  },

  contradiction: {
    title: (field) => `${field} can have no value`,
    why: (field) => `Every value of ${field} that is asked for is left out at the same time. Take one away:`,
  },

  photo: {
    title: "Search with a photo",
    lead: "What in the catalogue looks like it?",
    drop: "Drop a photo here",
    paste: "or paste one",
    choose: "Choose a photo",
    camera: "Take a photo",
    another: "Another photo",
    private: "The photo is sent to this server to be answered, and is stored nowhere.",
    looking: "Looking at the photo",
    shrinking: "Making the photo smaller",
    shrunkFrom: (from, to) => `Made smaller to send it: ${megabytes(from)} to ${megabytes(to)}`,
    unreadable: "This photo is over 10 MB, and this browser cannot read it to make it smaller",
    unreadableRemedy: "Choose a smaller one, or save it as JPEG first.",
    notImage: "That is no picture",
    notImageRemedy: "Choose a photo: JPEG, PNG, WebP, HEIC or AVIF.",
    failed: "No answer yet",
    yours: "Your photo",
    takenFor: "Taken for",
    unknown: "Something this catalogue has no word for",
    sure: (confidence) =>
      confidence >= 0.9
        ? "certain"
        : confidence >= 0.7
          ? "quite sure"
          : confidence >= 0.4
            ? "not quite sure"
            : "a guess",
    confidence: (confidence) => `${percent(confidence)} sure`,
    chosen: (value) => `You said it is ${value}`,
    else: "Take it for something else instead",
    elseNone: "Any kind: set it under Filters",
    back: "Let the photo decide again",
    why: (words) => `How it was searched: ${words}.`,
    results: "Looks most like it",
    ways: "Search with",
    whole: "The whole photo",
    look: "The look",
    gone: "A photo is kept nowhere, so a link has none. Choose it again to see this view.",
  },

  look: {
    kicker: "The look",
    results: "What is worn",
    lead: "Press a box to see what looks like it.",
    persons: (number) => (number === 1 ? "One person" : `${count(number)} people`),
    person: (number, of) => (of > 1 ? `Person ${number} of ${of}` : "The person"),
    pose: ({ orientation, confidence, full_shot: full, full_shot_confidence: sure }) =>
      `${text.look.stands[orientation] ?? orientation}, ${percent(confidence)} sure · ` +
      `${full ? "from head to foot" : "not from head to foot"}, ${percent(sure)} sure`,
    wears: { Women: " · clothes for women", Men: " · clothes for men" },
    stands: {
      front: "Faces the camera",
      back: "Seen from behind",
      left: "Turned to the left",
      right: "Turned to the right",
      detailed: "A close-up",
    },
    classes: {
      topwear: "Topwear",
      outerwear: "Outerwear",
      dress: "Dress",
      bottomwear: "Bottomwear",
      footwear: "Footwear",
      bag: "Bag",
      eyewear: "Eyewear",
      headwear: "Headwear",
    },
    box: (number, name, confidence) => `${number} ${name}, ${percent(confidence)} sure. Show what looks like it`,
    taken: ({ value, confidence }) => `Taken for ${value}, ${percent(confidence)} sure.`,
    nothingWorn: "No article was found on this person.",
    boxesBy: (words) => sentence(`found by ${words}`),
    found: (articles, number) => `${count(articles)} ${articles === 1 ? "article" : "articles"}, ${products(number)}`,
  },

  dislikes: {
    title: "Dislikes",
    lead: "Left out of every list. They are kept in this browser only, and in no link unless you copy one with them.",
    none: "Nothing yet. Press Never beside a value, or the crossed eye on a product, and it is left out of every list.",
    values: "Values",
    products: "Products",
    like: (name) => `Show ${name} again`,
    copy: "Copy a link to this view with them",
    copied: "The link is copied",
    notCopied: "The browser does not let the page copy. The link:",
  },

  compare: {
    title: "Compare runs",
    lead: "What did a night change?",
    from: "Run",
    with: "with run",
    live: "live",
    both: "in both",
    onlyA: (run) => `only in ${run}`,
    onlyB: (run) => `only in ${run}`,
    changed: "Lists that changed most",
    kept: (number) => `${number} of 10 kept`,
    same: "No list changed",
    sameWhy: "Every product that is in both runs has the same ten in both.",
    one: "There is one run only",
    oneWhy: "After the next refresh its lists can be compared with those of this one.",
    none: "There is no run yet",
    noneWhy: "Refresh a catalogue first: make refresh",
    itself: "These are the same run. Choose another to compare with.",
    back: "All lists that changed",
    lists: (name) => `The ten of ${name}`,
    fresh: "new",
    gone: "gone",
    up: (places) => `up ${places}`,
    down: (places) => `down ${places}`,
    absent: "This run has no such product, or nothing passes the filters.",
    summary: (kept, of) => `${kept} of ${of} are in both lists.`,
    findProduct: "Product id",
    show: "Compare its lists",
  },

  problem: {
    title: "That did not work",
    titles: {
      404: "It is not here",
      413: "That is too large",
      415: "That is no picture the server reads",
      422: "That is no picture the server reads",
      429: "Too many questions at once",
      500: "The server failed",
      503: "Not ready just now",
    },
    unknown: "The server gave no reason.",
    away: "The server cannot be reached",
    awayDetail: "It may be starting, or the network is away.",
    where: (value, place) => [value && `Asked: ${value}`, place && `Where: ${place}`].filter(Boolean).join(" · "),
    soon: (seconds) => `Asked again in ${seconds} s.`,
    missing: "There is no such page",
    missingWhy: "The address leads nowhere here.",
    home: "Browse the catalogue",
    key: "This server asks for a key",
    keyWhy: "Whoever runs it makes one with: lookalike key add",
    keyLabel: "Key",
    keyUse: "Use it",
    keyKept: "It is kept until this tab is closed.",
  },
};

function megabytes(bytes) {
  return `${new Intl.NumberFormat(LANGUAGE, { maximumFractionDigits: 1 }).format(bytes / 1e6)} MB`;
}
