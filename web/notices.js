// Shows notices about a run on any node: words that a model cannot read, an input without effect, an error of ours.
// A notice belongs to a result. It is removed when the node runs again, is disabled, or changes, and is shown again if
// the server takes that result from its cache. A subgraph's node also shows the notices of the nodes inside it.
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";
import { isOurs, nodeById, pathOf, switchedOff } from "./graph.js";
import { origin, promptOf } from "./runs.js";
import { setTextBelow } from "./text_below.js";
import { removeText, setPassingText } from "./text_field.js";
import { translated } from "./translation.js";

const NAME = "notice";
const STYLES = {
  progress: {},
  notice: { color: "#ffd27f", backgroundColor: "rgba(120, 80, 0, 0.25)" },
  error: { color: "#ffb3b3", backgroundColor: "rgba(140, 0, 0, 0.25)" },
};
const KINDS = Object.keys(STYLES); // the most serious last
const MOST_RESULTS = 50; // of a node, whose notices are kept
const FOLDER = decodeURIComponent(import.meta.url.split("/").at(-2)); // the pack's name in custom_nodes
const PYTHON = ["host", "kontext_core", "nodes"].map((folder) => `/${FOLDER}/${folder}/`);

const kept = new Map(); // id: its notices in this and earlier runs, by the origin of the result

/** The notices on a node, by the ids that they are for: its own, or those of nodes inside it. */
const noticesOn = (node) => (node.kontextNotices ??= new Map());

/** The node of an id, and the subgraphs' nodes around it; none if it is not in the open workflow. */
function nodesOf(id) {
  const path = pathOf(id);
  return path.every(Boolean) ? path : [];
}

function show(id, notice) {
  for (const node of nodesOf(id)) {
    noticesOn(node).set(id, notice);
    draw(node);
    watch(node);
  }
}

function clear(id) {
  for (const node of nodesOf(id)) if (noticesOn(node).delete(id)) draw(node);
}

/** Clears what a node shows, everywhere. */
function clearNode(node) {
  for (const id of [...noticesOn(node).keys()]) clear(id);
}

function draw(node) {
  const notices = [...noticesOn(node).values()];
  const text = [...new Set(notices.map((notice) => translated(notice.text)))].join("\n");
  const style = STYLES[KINDS.findLast((kind) => notices.some((notice) => notice.kind === kind))];
  if (node.subgraph) return setTextBelow(node, text, style);
  removeText(node, NAME);
  if (text) setPassingText(node, NAME, text, style);
}

/** Whether the frontend itself changes a widget after each run; no notice depends on such a seed. */
function isControlled(node, widget) {
  const inside = node.subgraph?.inputs.find(({ name }) => name === widget?.name)?.getConnectedWidgets() ?? [];
  const linked = [widget, ...inside].flatMap((each) => each?.linkedWidgets ?? []);
  return linked.some(({ name }) => name === "control_after_generate");
}

/** Clears the node's notices when an input of the node changes. */
function watch(node) {
  if (node.kontextWatched) return;
  node.kontextWatched = true;
  for (const event of ["onWidgetChanged", "onConnectionsChange"]) {
    const before = node[event];
    node[event] = function () {
      if (!isControlled(this, arguments[3])) clearNode(this); // onWidgetChanged(name, value, old, widget)
      return before?.apply(this, arguments);
    };
  }
  for (const widget of node.widgets ?? []) {
    if (widget.options?.serialize === false || isControlled(node, widget)) continue; // not sent, as our reports
    const before = widget.callback;
    widget.callback = function () {
      clearNode(node);
      return before?.apply(this, arguments);
    };
  }
}

function keep(id, from, notice) {
  if (!kept.has(id)) kept.set(id, new Map());
  const notices = kept.get(id);
  notices.delete(from);
  notices.set(from, notice);
  if (notices.size > MOST_RESULTS) notices.delete(notices.keys().next().value);
}

/** Whether our code raised an error, on whichever node: its file is the last of the traceback. */
function isOurError({ traceback }) {
  const [file] = (traceback?.at(-1) ?? "").replaceAll("\\", "/").split("\n");
  return PYTHON.some((folder) => file.includes(folder));
}

let run; // the id of the run that began last

// Every event waits for the run's prompt, also where it is not needed: so they stay in order.
api.addEventListener("execution_start", async ({ detail }) => {
  run = detail.prompt_id;
  const prompt = await promptOf(run);
  switchedOff().forEach(clearNode);
  for (const id of Object.keys(prompt ?? {})) {
    const notice = kept.has(id) && kept.get(id).get(origin(prompt, id));
    if (notice) show(id, notice);
    else clear(id);
  }
});
api.addEventListener("executing", async ({ detail: id }) => {
  if (id === null) return;
  const prompt = await promptOf(run);
  kept.get(id)?.delete(origin(prompt, id));
  clear(id);
});
api.addEventListener("kontext.notice", async ({ detail: { node: id, prompt_id, kind, text } }) => {
  const prompt = await promptOf(prompt_id);
  const from = origin(prompt, id);
  if (from) keep(id, from, { kind, text });
  show(id, { kind, text });
});
api.addEventListener("execution_error", async ({ detail }) => {
  await promptOf(detail.prompt_id);
  const { node_id: id, exception_message } = detail;
  if (isOurs(nodeById(id)?.constructor.nodeData) || isOurError(detail))
    show(id, { kind: "error", text: exception_message.trim() });
});

app.registerExtension({ name: "kontext.notices" });
