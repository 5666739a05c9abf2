// Shows on our nodes what they found out (sizes, token counts, settings used), in a text field of its own.
import { app } from "../../scripts/app.js";

const NAME = "report";

/** The node's text field, made when there is something to show. It is neither saved nor sent to the server. */
function reportWidget(node) {
  const existing = node.widgets?.find((widget) => widget.name === NAME);
  if (existing) return existing;

  const element = document.createElement("textarea");
  element.className = "comfy-multiline-input";
  element.readOnly = true;
  const widget = node.addDOMWidget(NAME, "kontext_report", element, {
    serialize: false,
    getMinHeight: () => 64,
    getValue: () => element.value,
    setValue: (value) => {
      element.value = value;
    },
  });
  widget.serialize = false;
  node.setSize([node.size[0], Math.max(node.size[1], node.computeSize()[1])]);
  return widget;
}

function show(node, output) {
  if (!output?.text?.length) return;
  reportWidget(node).value = output.text.join("\n");
  node.graph?.setDirtyCanvas(true);
}

const isOurs = (nodeData) => nodeData?.category?.startsWith("kontext/");

app.registerExtension({
  name: "kontext.report",

  beforeRegisterNodeDef(nodeType, nodeData) {
    if (!isOurs(nodeData)) return;
    const onExecuted = nodeType.prototype.onExecuted;
    nodeType.prototype.onExecuted = function (output) {
      onExecuted?.apply(this, arguments);
      show(this, output);
    };
  },

  // After a change of workflow tabs the browser still has the outputs, but no node ran.
  onNodeOutputsUpdated(outputs) {
    for (const [id, output] of Object.entries(outputs)) {
      const node = app.graph.getNodeById(id);
      if (isOurs(node?.constructor.nodeData)) show(node, output);
    }
  },
});
