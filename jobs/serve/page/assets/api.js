/** The server, asked over HTTP. */

import { query } from "./address.js";
import { text } from "./text.js";

const KEY = "lookalike.key";

/** An answer that is none, as RFC 9457 tells it; `retryAfter`: seconds, where it may be asked again. */
export class Problem extends Error {
  constructor(status, body, retryAfter) {
    super(body.detail || body.title || text.problem.unknown);
    const { heading, value, place, remedy } = body;
    Object.assign(this, { status, heading, value, place, remedy, retryAfter });
  }
}

/**
 * The JSON that a path answers; a `body` that is a Blob is posted.
 *
 * Throws a Problem where the server refuses or cannot be reached, and an AbortError where `signal` says so.
 */
export async function ask(path, pairs = [], { signal, body } = {}) {
  const headers = { Accept: "application/json" };
  if (body) headers["Content-Type"] = body.type || "application/octet-stream";
  const key = sessionStorage.getItem(KEY);
  if (key) headers.Authorization = `Bearer ${key}`;
  let answer;
  try {
    answer = await fetch(path + query(pairs), { method: body ? "POST" : "GET", body, headers, signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, { heading: text.problem.away, detail: text.problem.awayDetail }, 2);
  }
  if (!answer.ok) throw await problemOf(answer);
  const content = await answer.json();
  if (content.run) document.dispatchEvent(new CustomEvent("run", { detail: content.run }));
  return content;
}

async function problemOf(answer) {
  let body = {};
  try {
    body = await answer.json();
  } catch {
    // a proxy in between answers in HTML
  }
  const wait = Number.parseInt(answer.headers.get("Retry-After") ?? "", 10);
  return new Problem(answer.status, body, Number.isNaN(wait) ? undefined : Math.max(1, wait));
}

/** Keep a key for as long as the tab is open. */
export function useKey(key) {
  sessionStorage.setItem(KEY, key);
  givePictures(key);
}

/** Let pictures bring the key: to what the browser asks for by itself nothing else can be added. */
function givePictures(key) {
  const secure = location.protocol === "https:" ? "; secure" : "";
  document.cookie = `lookalike_key=${encodeURIComponent(key)}; path=/images/; samesite=strict${secure}`;
}

if (sessionStorage.getItem(KEY)) givePictures(sessionStorage.getItem(KEY));

let known;

/** The fields that filters may name, asked for once. */
export function knownFields() {
  known ??= ask("/filters").then(
    (content) => new Set(content.fields.map(({ field }) => field)),
    (error) => {
      known = undefined;
      throw error;
    },
  );
  return known;
}

/** A function that runs another and gives it a signal, which aborts as soon as it is run again. */
export function latest() {
  let controller = new AbortController();
  return async (work) => {
    controller.abort();
    controller = new AbortController();
    const { signal } = controller;
    try {
      await work(signal);
    } catch (error) {
      if (!signal.aborted) throw error;
    }
  };
}
