// The panel's copy of the store on the server, and requests that change the store.
import { api } from "../../../scripts/api.js";
import { app } from "../../../scripts/app.js";
import { translated } from "../translation.js";
import { sessionInGraph } from "./graph.js";
import { say } from "./words.js";

const ROUTE = "/kontext/sessions";

/**
 * The user's sessions, and the turns of the one that is shown. `marked` is a turn to compare with, `deletion` the last
 * deletion, which can be undone, `problem` the server's last error.
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
let asking = null;
let askingAgain = null;

/** Calls `listener` after every change; returns a function that ends it. */
export function watch(listener) {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

export const tell = () => listeners.forEach((listener) => listener());

/** Fetches the changes. A call during a fetch causes one more fetch after it. */
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
  const wanted = state.session;
  try {
    let answer = await stateOf(wanted?.id, state.revision);
    if (answer.sessions && !answer.session && answer.sessions.length) {
      const named = answer.sessions.find((each) => each.name === sessionInGraph());
      answer = await stateOf((named ?? answer.sessions[0]).id);
    }
    if (state.session !== wanted) return; // show() was called meanwhile; its own fetch follows
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
  state.session = { id, name: state.sessions.find((each) => each.id === id)?.name };
  state.revision = null;
  return refresh();
}

/** Sends a request and returns the answer's JSON. Throws an Error with the server's message. */
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

/** Sends a change and updates the panel. Shows an error on the page and returns undefined. */
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
    return translated(JSON.parse(text).error ?? text);
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

/** A turn's thumbnail as a blob URL: an <img> would not send the user's header. */
export function thumbnail(id) {
  if (!thumbnails.has(id)) thumbnails.set(id, blobUrl(`/turns/${id}/thumbnail`));
  thumbnails.get(id).catch(() => thumbnails.delete(id));
  return thumbnails.get(id);
}

/** Frees the thumbnails of turns that are no longer shown. */
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
