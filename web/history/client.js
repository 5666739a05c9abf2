// What the panel knows of the store on the server, and how it changes it.
import { api } from "../../../scripts/api.js";
import { app } from "../../../scripts/app.js";
import { sessionInGraph } from "./graph.js";
import { say } from "./words.js";

const ROUTE = "/kontext/sessions";
const POLL = 3000; // ms; events come at once, but a socket can go silent without closing

/**
 * The sessions of this user, and the turns of the one that is shown. `marked` is a turn to compare with, `deletion`
 * what can be undone at once, `problem` what the server said when it last did not answer.
 */
export const state = {
  revision: null,
  sessions: [],
  session: null,
  turns: [],
  marked: null,
  deletion: null,
  problem: null,
};

const listeners = new Set();
let watching = 0;
let timer = null;
let asking = null;
let askingAgain = null;

/** Calls `listener` after every change; gives a function that ends it. The server is asked while anyone listens. */
export function watch(listener) {
  listeners.add(listener);
  if (watching++ === 0) timer = setInterval(() => document.hidden || refresh(), POLL);
  return () => {
    listeners.delete(listener);
    if (--watching === 0) clearInterval(timer);
  };
}

export const tell = () => listeners.forEach((listener) => listener());

/** Asks for what changed. A call that comes while the server is being asked leads to one more question after it. */
export function refresh() {
  if (!asking) {
    asking = ask().finally(() => {
      asking = null;
    });
    return asking;
  }
  askingAgain ??= asking.then(() => {
    askingAgain = null;
    return refresh();
  });
  return askingAgain;
}

async function ask() {
  const before = state.problem;
  try {
    let answer = await stateOf(state.session?.id, state.revision);
    if (answer.sessions && !answer.session && answer.sessions.length) {
      const named = answer.sessions.find((each) => each.name === sessionInGraph());
      answer = await stateOf((named ?? answer.sessions[0]).id);
    }
    state.problem = null;
    if (!answer.sessions && before == null) return;
    Object.assign(state, answer);
    if (!state.turns.some((turn) => turn.id === state.marked)) state.marked = null;
  } catch (error) {
    state.problem = error.message;
    if (state.problem === before) return;
  }
  tell();
}

function stateOf(session, since) {
  const query = new URLSearchParams({ session: session ?? "" });
  if (since != null) query.set("since", since);
  return request("GET", `?${query}`);
}

/** Shows another session. */
export function show(id) {
  state.session = { id };
  state.revision = null;
  return refresh();
}

/** Sends one request; the JSON of the answer. Throws an Error with the server's words. */
export async function request(method, path, body) {
  const options = { method };
  if (body instanceof Blob) {
    options.body = body;
    options.headers = { "Content-Type": body.type };
  } else if (body !== undefined) {
    options.body = JSON.stringify(body);
    options.headers = { "Content-Type": "application/json" };
  }
  const answer = await api.fetchApi(ROUTE + path, options);
  if (!answer.ok) throw new Error(await problemOf(answer));
  return answer.json();
}

/** Sends a change and shows what came of it. Says on the page what went wrong; gives undefined then. */
export async function change(method, path, body) {
  try {
    const answer = await request(method, path, body);
    await refresh();
    return answer;
  } catch (error) {
    complain(error.message);
    return undefined;
  }
}

async function problemOf(answer) {
  const text = await answer.text();
  try {
    return JSON.parse(text).error ?? text;
  } catch {
    return text || answer.statusText;
  }
}

export function complain(text) {
  app.extensionManager.toast.add({ severity: "error", summary: say("title"), detail: text, life: 10000 });
}

export function mention(text) {
  app.extensionManager.toast.add({ severity: "info", summary: say("title"), detail: text, life: 5000 });
}

const thumbnails = new Map(); // turn id -> promise of a blob URL

/** A turn's small picture as a blob URL: an <img> alone would not say whose it is. */
export function thumbnail(id) {
  if (!thumbnails.has(id)) thumbnails.set(id, blobUrl(`/turns/${id}/thumbnail`));
  thumbnails.get(id).catch(() => thumbnails.delete(id));
  return thumbnails.get(id);
}

/** Frees the small pictures of turns that are no longer shown. */
export function forgetThumbnails(shown) {
  for (const [id, url] of thumbnails) {
    if (shown.has(id)) continue;
    thumbnails.delete(id);
    url.then(URL.revokeObjectURL, () => {});
  }
}

export async function blob(path) {
  const answer = await api.fetchApi(ROUTE + path);
  if (!answer.ok) throw new Error(await problemOf(answer));
  return answer.blob();
}

const blobUrl = async (path) => URL.createObjectURL(await blob(path));

/** A turn's whole picture as a blob URL, which the caller revokes. */
export const picture = (id) => blobUrl(`/turns/${id}/picture`);
