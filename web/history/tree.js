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
 * A row has the turn, its lane and depth, its index among its siblings, whether it leaves its parent's lane, the ids
 * of its children below it, and `passing`: the lines that pass the row, with the ids of the turns that they lead to.
 */
export function rowsOf(turns) {
  const byId = new Map(turns.map((turn) => [turn.id, turn]));
  const children = childrenOf(turns);
  const root = turns.find((turn) => turn.parent == null);
  const rows = [];
  const waiting = root ? [{ id: root.id, lane: 0, depth: 0, passing: [], branches: false, position: 1, siblings: 1 }] : [];
  while (waiting.length) {
    const { id, ...place } = waiting.pop();
    const below = children.get(id);
    rows.push({ turn: byId.get(id), below, ...place });
    below
      .map((child, index) => ({
        id: child,
        depth: place.depth + 1,
        position: index + 1,
        siblings: below.length,
        ...laneOf(place, below.slice(index + 1)),
      }))
      .reverse()
      .forEach((child) => waiting.push(child));
  }
  return rows;
}

/** The lane of a child; `later` are its siblings that come after it. */
function laneOf({ lane, passing }, later) {
  if (!later.length) return { lane, passing, branches: false };
  return { lane: lane + 1, passing: [...passing, { lane, to: later }], branches: true };
}
