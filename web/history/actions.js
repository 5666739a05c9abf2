// Actions on turns and sessions, for the panel, its menus and the commands.
import { app } from "../../../scripts/app.js";
import { change, complain, mention, request, show, state, tell } from "./client.js";
import { exportFiles, exportStrip } from "./export.js";
import { follow, rename as renameInGraph, useSettings } from "./graph.js";
import { openViewer } from "./viewer.js";
import { say } from "./words.js";

const ask = (key, defaultValue) =>
  app.extensionManager.dialog.prompt({ title: say("title"), message: say(key), defaultValue });

/** Makes the next run continue from this turn. */
export async function goTo(turn) {
  follow(state.session.name);
  await change("POST", `/turns/${turn.id}/pointer`);
}

/** Moves the pointer: "undo", "redo", "next sibling" or "previous sibling". */
export async function step(how) {
  if (!state.session) return;
  follow(state.session.name);
  await change("POST", `/${state.session.id}/step`, { how });
}

export const star = (turn) => change("PATCH", `/turns/${turn.id}`, { star: !turn.star });

export async function note(turn) {
  const text = await ask("noteOf", turn.note);
  if (text != null) await change("PATCH", `/turns/${turn.id}`, { note: text });
}

/** Marks a turn for comparison, or removes the mark. */
export function mark(turn) {
  state.marked = state.marked === turn.id ? null : turn.id;
  tell();
}

export async function useTurn(turn) {
  try {
    const { settings } = await request("GET", `/turns/${turn.id}`);
    const { count, lost } = useSettings(settings);
    mention(say(lost.length ? "usedInPart" : "used", { count, number: turn.number, lost: lost.join(", ") }));
  } catch (error) {
    complain(error.message);
  }
}

export const removeTurn = (turn) => remove(`/turns/${turn.id}`, say("deletedTurn", { number: turn.number }));

export const removeSession = () => remove(`/${state.session.id}`, say("deletedSession", { name: state.session.name }));

async function remove(path, text) {
  const answer = await change("DELETE", path);
  if (!answer) return;
  state.deletion = { id: answer.deletion, text };
  tell();
}

/** Undoes a deletion. */
export async function restore(deletion) {
  const answer = await change("POST", `/restore/${deletion}`);
  if (state.deletion?.id === deletion) state.deletion = null;
  if (answer) await show(answer.session);
}

export async function renameSession() {
  const before = state.session.name;
  const name = await ask("renameTo", before);
  if (!name || name === before) return;
  const answer = await change("PATCH", `/${state.session.id}`, { name });
  if (answer) renameInGraph(before, answer.name);
}

/** Begins a session with a picture file, and makes the open graph continue from it. */
export async function begin(file) {
  if (!file.type.startsWith("image/")) {
    complain(say("noPicture", { name: file.name }));
    return;
  }
  const name = file.name.replace(/\.[^.]*$/, "").trim() || say("newSession");
  const answer = await change("POST", `?${new URLSearchParams({ name })}`, file);
  if (!answer) return;
  follow(answer.name);
  await show(answer.session);
  mention(say("begun", { name: answer.name }));
}

/** The [name, action] pairs of a turn's menu. */
export function entriesFor(turn) {
  const marked = state.turns.find((each) => each.id === state.marked);
  return [
    [say("continueHere"), () => goTo(turn)],
    [say("openLarge"), () => openViewer(turn.id)],
    ...(marked && marked.id !== turn.id
      ? [[say("compareWith", { number: marked.number }), () => openViewer(turn.id, marked.id)]]
      : []),
    [say(state.marked === turn.id ? "unmark" : "mark"), () => mark(turn)],
    ...(turn.parent ? [[say("useSettings"), () => useTurn(turn)]] : []),
    [say(turn.star ? "unstar" : "star"), () => star(turn)],
    [say("editNote"), () => note(turn)],
    [say("exportFiles"), () => exportFiles(turn.id)],
    [say("exportStrip"), () => exportStrip(turn.id)],
    ...(turn.parent ? [[say("delete"), () => removeTurn(turn)]] : []),
  ];
}
