// Order and lanes of a session's turns, as pure functions over plain turns.

/** turn id -> the ids of its children, oldest first. Turns come in the order of their numbers. */
export function childrenOf(turns) {
  const children = new Map(turns.map((turn) => [turn.id, []]));
  for (const turn of turns) children.get(turn.parent)?.push(turn.id);
  return children;
}

/** The ids from a turn to the first picture. */
export function pathTo(turns, id) {
  const parents = new Map(turns.map((turn) => [turn.id, turn.parent]));
  const path = [];
  for (let each = id; each != null && parents.has(each); each = parents.get(each)) path.push(each);
  return path;
}

/**
 * The rows of the tree from top to bottom. A turn's newest child continues its lane; older children come before it,
 * one lane to the right. So the newest turn is at the bottom left.
 *
 * A row has the turn, its lane and depth, its index among its siblings, whether it leaves its parent's lane
 * (`branches`) and has children, and `passing`: the lanes of the lines that pass the row. `on` says whether
 * the row or line is part of the path to the pointer, `leads` whether the line to the children is.
 */
export function rowsOf(turns, pointer) {
  const byId = new Map(turns.map((turn) => [turn.id, turn]));
  const children = childrenOf(turns);
  const path = new Set(pathTo(turns, pointer));
  const root = turns.find((turn) => turn.parent == null);
  const rows = [];
  const waiting = root ? [{ id: root.id, lane: 0, depth: 0, passing: [], branches: false, position: 1, siblings: 1 }] : [];
  while (waiting.length) {
    const { id, ...place } = waiting.pop();
    const below = children.get(id);
    const next = below.findIndex((child) => path.has(child));
    rows.push({ turn: byId.get(id), on: path.has(id), leads: next >= 0, hasChildren: below.length > 0, ...place });
    below
      .map((child, index) => ({
        id: child,
        depth: place.depth + 1,
        position: index + 1,
        siblings: below.length,
        ...laneOf(place, index === below.length - 1, index < next),
      }))
      .reverse()
      .forEach((child) => waiting.push(child));
  }
  return rows;
}

/** The lane of a child: its parent's if it is the last one. `on`: the path leads to a sibling that comes after it. */
function laneOf({ lane, passing }, last, on) {
  if (last) return { lane, passing, branches: false };
  return { lane: lane + 1, passing: [...passing, { lane, on }], branches: true };
}
