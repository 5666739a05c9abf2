// Nodes of the open workflow by the ids that the server and the frontend use.
import { app } from "../../scripts/app.js";

const root = () => app.rootGraph ?? app.graph;

/** Whether a node is of this pack, by its definition; the category is translated, the id is not. */
export const isOurs = (nodeData) => Boolean(nodeData?.name?.startsWith("Kontext"));

/** Every node, including those inside subgraphs. */
export function allNodes(graph = root()) {
  return (graph?.nodes ?? []).flatMap((node) => [node, ...(node.subgraph ? allNodes(node.subgraph) : [])]);
}

/**
 * The node of an id: "5" in the root graph, "5:3" node 3 inside the subgraph node 5 (the server's execution ids), or
 * "<uuid of a subgraph>:3" (the frontend's locator ids). Undefined if there is none.
 */
export function nodeById(id) {
  const parts = String(id).split(":");
  let graph = root()?.subgraphs?.get(parts[0]);
  if (graph) parts.shift();
  graph ??= root();
  let node;
  for (const part of parts) {
    node = graph?.getNodeById(Number.isNaN(Number(part)) ? part : Number(part));
    graph = node?.subgraph;
  }
  return node ?? undefined;
}
