// Shows our nodes' reports on them: sizes, token counts, settings used. They are neither saved nor sent to the server.
import { app } from "../../scripts/app.js";
import { isOurs, nodeById } from "./graph.js";
import { setText } from "./text_field.js";
import { translated } from "./translation.js";

const NAME = "report";

function show(node, output) {
  if (output?.text?.length) setText(node, NAME, translated(output.text.join("\n")));
}

app.registerExtension({
  name: "kontext.reports",

  beforeRegisterNodeDef(nodeType, nodeData) {
    if (!isOurs(nodeData)) return;
    const onExecuted = nodeType.prototype.onExecuted;
    nodeType.prototype.onExecuted = function (output) {
      onExecuted?.apply(this, arguments);
      show(this, output);
    };
  },

  // After switching workflow tabs the browser still has the outputs, although no node ran.
  onNodeOutputsUpdated(outputs) {
    for (const [id, output] of Object.entries(outputs)) {
      const node = nodeById(id);
      if (isOurs(node?.constructor.nodeData)) show(node, output);
    }
  },
});
