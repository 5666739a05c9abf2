// Shows notices about a run on any node: words that a model cannot read, an input without effect, an error of ours.
// A notice belongs to the run that made it and is removed when the node runs again, is disabled, or changes.
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";
import { allNodes, isOurs, nodeById } from "./graph.js";
import { removePassingText, setPassingText, textOf } from "./text_field.js";
import { translated } from "./translation.js";

const NAME = "notice";
const STYLES = {
  notice: { color: "#ffd27f", backgroundColor: "rgba(120, 80, 0, 0.25)" },
  progress: {},
  error: { color: "#ffb3b3", backgroundColor: "rgba(140, 0, 0, 0.25)" },
};
const SWITCHED_OFF = [2, 4]; // LiteGraph's modes: muted, bypassed

function show(id, text, style) {
  const node = nodeById(id);
  if (!node) return;
  clear(node);
  setPassingText(node, NAME, translated(text), style);
  watch(node);
}

function clear(node) {
  if (node && textOf(node, NAME) !== undefined) removePassingText(node, NAME);
}

/** Whether the frontend itself changes a widget after each run; no notice depends on such a seed. */
const isControlled = (widget) => widget?.linkedWidgets?.some(({ name }) => name === "control_after_generate");

/** Clears the node's notice when an input of the node changes. */
function watch(node) {
  if (node.kontextWatched) return;
  node.kontextWatched = true;
  for (const event of ["onWidgetChanged", "onConnectionsChange"]) {
    const before = node[event];
    node[event] = function () {
      if (!isControlled(arguments[3])) clear(this); // onWidgetChanged(name, value, old, widget)
      return before?.apply(this, arguments);
    };
  }
  for (const widget of node.widgets ?? []) {
    if (isControlled(widget)) continue;
    const before = widget.callback;
    widget.callback = function () {
      clear(node);
      return before?.apply(this, arguments);
    };
  }
}

function clearSwitchedOff() {
  for (const node of allNodes()) if (SWITCHED_OFF.includes(node.mode)) clear(node);
}

api.addEventListener("kontext.notice", ({ detail }) => show(detail.node, detail.text, STYLES[detail.kind]));
api.addEventListener("executing", ({ detail }) => detail !== null && clear(nodeById(detail)));
api.addEventListener("execution_start", clearSwitchedOff);
api.addEventListener("execution_error", ({ detail }) => {
  const node = nodeById(detail.node_id);
  if (isOurs(node?.constructor.nodeData))
    show(detail.node_id, detail.exception_message.trim(), STYLES.error);
});

app.registerExtension({ name: "kontext.notices" });
