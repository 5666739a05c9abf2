// The open graph: the session that its nodes name, and the transfer of a turn's settings to it.
import { app } from "../../../scripts/app.js";
import { allNodes, nodeById } from "../graph.js";

const SESSION = "KontextSession";
const SAVE = "KontextSaveTurn";
const POINTER = "the pointer";

const ofType = (type) => allNodes().filter((node) => node.type === type);
const widget = (node, name) => node.widgets?.find((each) => each.name === name);

/** The session that the graph names, if it has one session node. */
export function sessionInGraph() {
  const found = ofType(SESSION);
  return found.length === 1 ? widget(found[0], "session")?.value : undefined;
}

export const savesTurns = () => ofType(SAVE).length > 0;

/** Makes the graph's only session node continue from the pointer of a session. */
export function follow(name) {
  const found = ofType(SESSION);
  if (found.length !== 1) return;
  put(found[0], "session", name);
  put(found[0], "continue_from", POINTER);
}

/** Renames a session in the nodes that name it. */
export function rename(before, after) {
  for (const node of ofType(SESSION)) if (widget(node, "session")?.value === before) put(node, "session", after);
}

/**
 * Puts a turn's settings into the open graph: into the node of the same id and type, or else the only one of that
 * type. Returns the number of values, and the node types that the graph lacks.
 */
export function useSettings(settings) {
  const lost = new Set();
  let count = 0;
  for (const [id, { type, inputs }] of Object.entries(settings)) {
    const same = ofType(type);
    const node = same.find((each) => each === nodeById(id)) ?? (same.length === 1 ? same[0] : undefined);
    if (!node) lost.add(type);
    else for (const [name, value] of Object.entries(inputs)) count += put(node, name, value);
  }
  app.graph.setDirtyCanvas(true, true);
  return { count, lost: [...lost] };
}

/** Sets a widget; returns whether the node has it. */
function put(node, name, value) {
  const found = widget(node, name);
  if (!found) return false;
  if (found.value !== value) {
    found.value = value;
    found.callback?.(value, app.canvas, node);
    node.graph?.setDirtyCanvas(true, true);
  }
  return true;
}
