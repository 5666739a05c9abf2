// A text below a node on the canvas, for subgraphs' nodes: ComfyUI gives them no widgets but those of nodes inside.
import { app } from "../../scripts/app.js";

const GAP = 6; // px, to the node
const STYLE = {
  position: "absolute",
  top: 0,
  left: 0,
  transformOrigin: "0 0",
  boxSizing: "border-box",
  padding: "6px",
  color: "var(--input-text)",
  borderRadius: "4px",
  font: "12px/16px sans-serif",
  whiteSpace: "pre-line",
  pointerEvents: "none",
};
const elements = new Map(); // by node
let frame; // the request for the next one

/** Shows `text` below the node, in place of what was there; an empty text removes that. */
export function setTextBelow(node, text, { backgroundColor: tint = "transparent", ...style } = {}) {
  elements.get(node)?.remove();
  elements.delete(node);
  if (!text) return;
  const element = document.createElement("div");
  element.textContent = text;
  element.dataset.kontext = "below";
  const background = `linear-gradient(${tint}, ${tint}) var(--comfy-menu-bg)`; // nodes below must not shine through
  Object.assign(element.style, STYLE, style, { background });
  elements.set(node, element);
  app.canvas.canvas.parentElement.append(element);
  frame ??= requestAnimationFrame(follow);
}

/** Keeps the texts at their nodes, while there are any. */
function follow() {
  for (const [node, element] of elements) {
    if (node.graph?.getNodeById(node.id) === node) place(element, node);
    else setTextBelow(node, "");
  }
  frame = elements.size ? requestAnimationFrame(follow) : undefined;
}

function place(element, node) {
  const { ds, graph } = app.canvas;
  const collapsed = node.flags.collapsed && !LiteGraph.vueNodesMode; // Nodes 2.0 changes the size
  const [x, y] = [node.pos[0], node.pos[1] + (collapsed ? 0 : node.size[1]) + GAP];
  element.hidden = node.graph !== graph;
  element.style.width = `${node.size[0]}px`;
  element.style.transform = `scale(${ds.scale}) translate(${x + ds.offset[0]}px, ${y + ds.offset[1]}px)`;
}
