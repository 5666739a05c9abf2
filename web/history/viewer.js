// A turn at full size, with a slider to compare it with another one.
import { complain, picture, state } from "./client.js";
import { element } from "./elements.js";
import { pathTo } from "./tree.js";
import { say } from "./words.js";

/** Opens a turn at full size; `against` is the id of the other turn, by default the parent. */
export async function openViewer(id, against) {
  const turn = state.turns.find((each) => each.id === id);
  if (!turn) return;
  const others = comparable(turn, against);
  const urls = [];
  const load = async (image, other) => {
    image.dataset.turn = other;
    try {
      const url = await picture(other);
      if (dialog.isConnected && image.dataset.turn === other) {
        urls.push(url);
        image.src = url;
      } else URL.revokeObjectURL(url); // the dialog was closed or another turn chosen meanwhile
    } catch (error) {
      complain(error.message);
    }
  };
  const before = element("img", { alt: "", className: "kh-before", draggable: false });
  const after = element("img", { alt: turn.instruction, className: "kh-after", draggable: false });
  const slider = element("input", { type: "range", min: 0, max: 100, value: 50, step: 0.5 });
  slider.setAttribute("aria-label", say("slider"));
  const stage = element("div", { className: "kh-stage" }, after, before, element("div", { className: "kh-bar" }), slider);
  const cut = () => stage.style.setProperty("--cut", `${slider.value}%`);
  slider.addEventListener("input", cut);
  cut();
  const choice = element(
    "select",
    {},
    ...others.map(([other, label]) => element("option", { value: other, textContent: label })),
  );
  choice.setAttribute("aria-label", say("against"));
  choice.addEventListener("change", () => load(before, choice.value));
  const close = element("button", { type: "button", textContent: "✕", title: say("close") });
  close.setAttribute("aria-label", say("close"));
  const head = element(
    "header",
    {},
    element("h2", { textContent: `${turn.number}. ${turn.instruction || say("firstPicture")}` }),
    ...(others.length ? [element("label", {}, `${say("against")} `, choice)] : []),
    close,
  );
  const dialog = element("dialog", { className: "kh-viewer" }, head, stage);
  dialog.setAttribute("aria-label", say("turn", { number: turn.number }));
  close.addEventListener("click", () => dialog.close());
  dialog.addEventListener("keydown", (event) => event.stopPropagation()); // the canvas has its own keys
  dialog.addEventListener("close", () => {
    urls.forEach(URL.revokeObjectURL);
    dialog.remove();
  });
  stage.classList.toggle("kh-single", !others.length);
  document.body.append(dialog);
  dialog.showModal();
  slider.focus();
  await Promise.all([load(after, id), ...(others.length ? [load(before, choice.value)] : [])]);
}

/** [id, label] of the turns to compare with: the requested one, the parent, the first picture, the marked one. */
function comparable(turn, against) {
  const path = pathTo(state.turns, turn.id);
  const named = [
    [against, "marked"],
    [path[1], "parent"],
    [path.at(-1), "first"],
    [state.marked, "marked"],
  ];
  const numbers = new Map(state.turns.map((each) => [each.id, each.number]));
  const found = new Map();
  for (const [id, kind] of named) {
    if (id == null || id === turn.id || found.has(id) || !numbers.has(id)) continue;
    found.set(id, say(kind, { number: numbers.get(id) }));
  }
  return [...found];
}
