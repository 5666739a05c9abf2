// Nodes of the open workflow by the ids that the server and the frontend use.
import { app } from "../../scripts/app.js";

const SWITCHED_OFF = [2, 4]; // LiteGraph's modes: muted, bypassed

const root = () => app.rootGraph ?? app.graph;

/** Whether a node is of this pack, by its definition; the category is translated, the id is not. */
export const isOurs = (nodeData) => Boolean(nodeData?.name?.startsWith("Kontext"));

/** Every node, including those inside subgraphs. */
export function allNodes(graph = root()) {
  return (graph?.nodes ?? []).flatMap((node) => [node, ...(node.subgraph ? allNodes(node.subgraph) : [])]);
}

export const isSwitchedOff = (node) => SWITCHED_OFF.includes(node.mode);

/** Every node that is muted or bypassed, and those inside such a subgraph. */
export function switchedOff(graph = root()) {
  return (graph?.nodes ?? []).flatMap((node) => {
    const inside = isSwitchedOff(node) ? allNodes : switchedOff;
    return [...(isSwitchedOff(node) ? [node] : []), ...(node.subgraph ? inside(node.subgraph) : [])];
  });
}

/**
 * The nodes that an id leads through: for "5" node 5 of the root graph; for "5:3" the subgraph node 5 and node 3 inside
 * it (the server's execution ids); for "<uuid of a subgraph>:3" node 3 inside it (the frontend's locator ids). Nodes
 * that do not exist are undefined.
 */
export function pathOf(id) {
  const parts = String(id).split(":");
  let graph = root()?.subgraphs?.get(parts[0]);
  if (graph) parts.shift();
  graph ??= root();
  return parts.map((part) => {
    const node = graph?.getNodeById(Number.isNaN(Number(part)) ? part : Number(part)) ?? undefined;
    graph = node?.subgraph;
    return node;
  });
}

/** The node of such an id, undefined if there is none. */
export const nodeById = (id) => pathOf(id).at(-1);
