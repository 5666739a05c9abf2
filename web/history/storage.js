// The panel's footer: disk usage of the sessions, deleted turns, and the clean-up.
import { app } from "../../../scripts/app.js";
import { restore } from "./actions.js";
import { change, complain, request } from "./client.js";
import { element } from "./elements.js";
import { say } from "./words.js";

const GB = 1e9;

function size(bytes) {
  const [unit, name] = [[GB, "GB"], [1e6, "MB"], [1e3, "kB"]].find(([least]) => bytes >= least) ?? [1e3, "kB"];
  return `${(bytes / unit).toFixed(1)} ${name}`;
}

/** A section that shows the store's clean-up plan when it is opened, and after `update()`. */
export function storageSection() {
  const content = element("div", { className: "kh-storage" });
  const section = element("details", {}, element("summary", { textContent: say("storage") }), content);
  let asked = 0;
  const update = async () => {
    if (!section.open) return;
    const mine = ++asked;
    try {
      const plan = await request("GET", "/plan");
      if (mine === asked) content.replaceChildren(...parts(plan, update));
    } catch (error) {
      complain(error.message);
    }
  };
  section.addEventListener("toggle", update);
  return { section, update };
}

function parts(plan, update) {
  const limit = element("input", { type: "number", min: 0, step: 0.5, value: plan.limit / GB });
  limit.addEventListener("change", async () => {
    await change("POST", "/limit", { bytes: Math.round(Math.max(0, limit.valueAsNumber || 0) * GB) });
    update();
  });
  const over = plan.limit && plan.used > plan.limit;
  const used = element("p", { textContent: say("usage", { used: size(plan.used) }), className: over ? "kh-over" : "" });
  const limitLine = element("label", {}, `${say("limit")} `, limit, " GB");
  return [used, limitLine, ...deletions(plan), ...freed(plan, update)];
}

function deletions(plan) {
  if (!plan.deleted.length) return [];
  const rows = plan.deleted.map((each) => {
    const kind = each.whole ? "deletedWhole" : "deletedPart";
    const when = new Date(each.time * 1000).toLocaleString();
    const text = say(kind, { name: each.session, count: each.turns, size: size(each.size), when });
    const back = element("button", { type: "button", textContent: say("restore") });
    back.addEventListener("click", () => restore(each.id));
    return element("li", {}, element("span", { textContent: text }), back);
  });
  return [element("ul", {}, ...rows)];
}

/** What a clean-up would free; shown before it runs. */
function freed(plan, update) {
  if (!plan.freed) return [element("p", { textContent: say("nothingToFree") })];
  const lines = [
    plan.deleted.length && say("freesDeleted", { size: size(plan.deleted.reduce((sum, each) => sum + each.size, 0)) }),
    plan.unnamed && say("freesUnnamed", { count: plan.unnamed, size: size(plan.unnamed_size) }),
    plan.latents.length && say("freesLatents", { count: plan.latents.length, size: size(plan.latents_size) }),
  ].filter(Boolean);
  const button = element("button", { type: "button", textContent: say("cleanUp", { size: size(plan.freed) }) });
  button.addEventListener("click", async () => {
    const options = { title: say("cleanUpTitle"), message: say("cleanUpAsk"), itemList: lines, type: "delete" };
    if (!(await app.extensionManager.dialog.confirm(options))) return;
    await change("POST", "/clean", {
      deleted: plan.deleted.map((each) => each.id),
      unnamed: plan.unnamed > 0,
      latents: plan.latents,
    });
    update();
  });
  return [element("ul", {}, ...lines.map((line) => element("li", { textContent: line }))), button];
}
