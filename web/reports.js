// Shows our nodes' reports on them: sizes, token counts, settings used. They are neither saved nor sent to the server.
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";
import { isOurs, isSwitchedOff, nodeById, switchedOff } from "./graph.js";
import { removeText, setText } from "./text_field.js";
import { translated } from "./translation.js";

const NAME = "report";

const isReporting = (node) => isOurs(node?.constructor.nodeData);

function show(node, output) {
  if (output?.text?.length) setText(node, NAME, translated(output.text.join("\n")));
}

// What the browser shows of a node that no longer runs would be of an earlier run.
api.addEventListener("execution_start", () => {
  for (const node of switchedOff().filter(isReporting)) removeText(node, NAME);
});

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
      if (isReporting(node) && !isSwitchedOff(node)) show(node, output);
    }
  },
});
