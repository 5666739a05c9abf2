// The Kontext History tab in the sidebar, its commands and keys.
import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { refresh, state } from "./history/client.js";
import { step } from "./history/actions.js";
import { exportFiles, exportStrip } from "./history/export.js";
import { buildPanel } from "./history/panel.js";
import { loadWords, say } from "./history/words.js";

const TAB = "kontext-history";

function addStyle() {
  const link = document.createElement("link");
  link.rel = "stylesheet";
  link.href = new URL("./history/style.css", import.meta.url);
  document.head.append(link);
}

/** A command that needs the list of sessions, even if the tab was never opened. */
const command = (name, label, icon, act) => ({
  id: `KontextHistory.${name}`,
  label,
  icon: `pi ${icon}`,
  function: async () => {
    await refresh();
    await act();
  },
});

const COMMANDS = [
  command("Undo", "Kontext: undo the last turn", "pi-undo", () => step("undo")),
  command("Redo", "Kontext: redo the turn", "pi-refresh", () => step("redo")),
  command("NextSibling", "Kontext: next sibling", "pi-sitemap", () => step("next sibling")),
  command("PreviousSibling", "Kontext: previous sibling", "pi-sitemap", () => step("previous sibling")),
  command("ExportFiles", "Kontext: export the path as files", "pi-download", () => atPointer(exportFiles)),
  command("ExportStrip", "Kontext: export the path as a strip", "pi-images", () => atPointer(exportStrip)),
];

const atPointer = (act) => state.session && act(state.session.pointer);

let end = () => {};

app.registerExtension({
  name: "kontext.history",
  commands: COMMANDS,
  menuCommands: [{ path: ["Edit", "Kontext"], commands: COMMANDS.map(({ id }) => id) }],
  keybindings: [
    { combo: { key: "PageUp", alt: true }, commandId: "KontextHistory.Undo" },
    { combo: { key: "PageDown", alt: true }, commandId: "KontextHistory.Redo" },
    { combo: { key: "PageDown", alt: true, shift: true }, commandId: "KontextHistory.NextSibling" },
    { combo: { key: "PageUp", alt: true, shift: true }, commandId: "KontextHistory.PreviousSibling" },
    { combo: { key: "k" }, commandId: `Workspace.ToggleSidebarTab.${TAB}` },
  ],

  async setup() {
    addStyle();
    api.addEventListener("kontext.sessions", () => {}); // else it is an unknown message while the tab is closed
    await loadWords();
    app.extensionManager.registerSidebarTab({
      id: TAB,
      icon: "pi pi-history",
      title: say("title"),
      tooltip: say("title"),
      label: say("label"),
      type: "custom",
      render(root) {
        end(); // this frontend calls render again without calling destroy first
        end = buildPanel(root);
      },
      destroy() {
        end();
        end = () => {};
      },
    });
  },
});
