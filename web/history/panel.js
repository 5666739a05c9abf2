// The Kontext History tab: the tree of a session's turns.
import { api } from "../../../scripts/api.js";
import * as actions from "./actions.js";
import { forgetThumbnails, refresh, show, state, tell, thumbnail, watch } from "./client.js";
import { element, iconButton, openMenu } from "./elements.js";
import { savesTurns } from "./graph.js";
import { storageSection } from "./storage.js";
import { rowsOf } from "./tree.js";
import { openViewer } from "./viewer.js";
import { say } from "./words.js";

const ROW = 76; // px, as in style.css
const SVG = "http://www.w3.org/2000/svg";
const CLICK = 250; // ms in which a second click makes a double click
const POLL = 3000; // ms; events arrive at once, but a socket can die silently

/** Builds the panel into an element; returns a function that ends it. */
export function buildPanel(root) {
  const panel = new Panel(root);
  return () => panel.end();
}

class Panel {
  constructor(root) {
    this.rows = new Map(); // turn id -> { item, parts..., drawn }
    this.focused = null; // the id of the turn that has the keyboard's focus
    this.pointer = null;
    this.run = null; // the prompt id of this window's last run
    this.root = root;
    this.ending = new AbortController();
    this.build(root);
    this.seen = new IntersectionObserver((entries) => this.loadSeen(entries), { root: this.tree, rootMargin: "300px" });
    // The host calls no destroy() when it shows another tab: it gives that tab the same element, or removes the element.
    this.others = new MutationObserver(() => this.end());
    this.others.observe(root, { childList: true });
    this.timer = setInterval(() => this.connected() && !document.hidden && refresh(), POLL);
    this.unwatch = watch(() => this.draw());
    this.watchRuns();
    this.acceptPictures(root);
    this.draw();
    refresh();
  }

  end() {
    this.ending.abort();
    this.others.disconnect();
    clearInterval(this.timer);
    this.unwatch();
    this.seen.disconnect();
    this.parts.forEach((part) => part.remove());
    this.root.classList.remove("kontext-history", "kh-dropping");
    forgetThumbnails(new Set());
  }

  /** Whether the panel is still on the page; ends it if not. */
  connected() {
    if (!this.root.isConnected) this.end();
    return this.root.isConnected;
  }

  /** Listens until the panel ends. */
  listen(target, type, handle) {
    target.addEventListener(type, handle, { signal: this.ending.signal });
  }

  build(root) {
    root.classList.add("kontext-history");
    this.sessions = element("select", {});
    this.sessions.setAttribute("aria-label", say("session"));
    this.listen(this.sessions, "change", () => show(this.sessions.value));
    this.file = element("input", { type: "file", accept: "image/*", hidden: true });
    this.listen(this.file, "change", () => {
      [...this.file.files].forEach(actions.begin);
      this.file.value = "";
    });
    const tools = element(
      "div",
      { className: "kh-tools" },
      iconButton("pi-undo", say("undo"), () => actions.step("undo")),
      iconButton("pi-refresh", say("redo"), () => actions.step("redo")),
      iconButton("pi-sitemap", say("nextSibling"), () => actions.step("next sibling")),
      iconButton("pi-image", say("beginWith"), () => this.file.click()),
      iconButton("pi-pencil", say("rename"), actions.renameSession),
      iconButton("pi-trash", say("deleteSession"), actions.removeSession),
    );
    tools.setAttribute("role", "toolbar");
    tools.setAttribute("aria-label", say("title"));
    [...tools.children].slice(-2).forEach((each) => each.classList.add("kh-of-session"));
    this.status = element("p", { className: "kh-status" });
    this.status.setAttribute("role", "status");
    this.tree = element("ul", { className: "kh-tree" });
    this.tree.setAttribute("role", "tree");
    this.tree.setAttribute("aria-label", say("turns"));
    this.listen(this.tree, "keydown", (event) => this.onKey(event));
    this.undoBar = element("div", { className: "kh-undo", hidden: true });
    this.undoBar.setAttribute("role", "alert");
    this.storage = storageSection();
    this.parts = [
      element("header", {}, element("h2", { textContent: say("title") }), this.sessions, tools, this.file),
      this.status,
      this.tree,
      this.undoBar,
      element("footer", {}, this.storage.section),
    ];
    root.replaceChildren(...this.parts);
  }

  /** Shows the progress of a run that will store a turn, and the session of this window's run. */
  watchRuns() {
    const listen = (type, handle) => this.listen(api, type, (event) => this.connected() && handle(event));
    const during = (text) => {
      this.running = text;
      this.drawStatus();
    };
    const ended = () => {
      during(null);
      refresh();
    };
    listen("execution_start", ({ detail }) => {
      this.run = detail.prompt_id; // the host sends this event only to the window that queued the run
      if (savesTurns()) during(say("running"));
    });
    listen("progress", ({ detail: { value, max } }) => {
      if (this.running) during(say("runningPart", { percent: Math.round((100 * value) / max) }));
    });
    for (const type of ["execution_success", "execution_error", "execution_interrupted"]) listen(type, ended);
    listen("kontext.sessions", ({ detail: { session, prompt_id } }) => {
      if (prompt_id && prompt_id === this.run && session !== state.session?.id) show(session);
      else refresh();
    });
    listen("reconnected", ended); // what ended the run may have been missed
  }

  /** A picture dropped on the panel begins a session; the page itself would load it as a workflow. */
  acceptPictures(root) {
    const holds = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
    this.listen(root, "dragover", (event) => {
      if (!holds(event)) return;
      event.preventDefault();
      event.stopPropagation();
      root.classList.add("kh-dropping");
    });
    this.listen(root, "dragleave", () => root.classList.remove("kh-dropping"));
    this.listen(root, "drop", (event) => {
      root.classList.remove("kh-dropping");
      if (!holds(event)) return;
      event.preventDefault();
      event.stopPropagation();
      [...event.dataTransfer.files].forEach(actions.begin);
    });
  }

  draw() {
    this.drawSessions();
    this.drawStatus();
    this.drawTree();
    this.drawUndo();
    this.storage.update();
  }

  drawSessions() {
    const options = state.sessions.map(({ id, name }) => element("option", { value: id, textContent: name }));
    this.sessions.replaceChildren(...options);
    this.sessions.value = state.session?.id ?? "";
    this.sessions.disabled = !options.length;
  }

  drawStatus() {
    const text = state.problem ? say("noAnswer", { problem: state.problem }) : this.running;
    this.status.textContent = text ?? (state.sessions.length ? "" : say("empty"));
    this.status.classList.toggle("kh-over", state.problem != null);
  }

  drawUndo() {
    this.undoBar.hidden = !state.deletion;
    if (!state.deletion) return;
    const { id, text } = state.deletion;
    const undo = element("button", { type: "button", textContent: say("undoDelete") });
    this.listen(undo, "click", () => actions.restore(id));
    const dismiss = iconButton("pi-times", say("close"), () => {
      state.deletion = null;
      tell();
    });
    this.undoBar.replaceChildren(element("span", { textContent: text }), undo, dismiss);
  }

  /** Updates the rows; unchanged rows are not touched. */
  drawTree() {
    const pointer = state.session?.pointer;
    const rows = rowsOf(state.turns, pointer);
    const lanes = Math.max(0, ...rows.map((row) => row.lane)) + 1;
    const shown = new Set(rows.map((row) => row.turn.id));
    const hadFocus = this.removeRows(shown);
    if (!shown.has(this.focused)) this.focused = pointer;
    rows.forEach((place, index) => {
      const row = this.rows.get(place.turn.id) ?? this.newRow(place.turn.id);
      if (this.tree.children[index] !== row.item) this.tree.insertBefore(row.item, this.tree.children[index] ?? null);
      const id = place.turn.id;
      const marks = { here: id === pointer, marked: id === state.marked, focused: id === this.focused };
      const look = JSON.stringify([place, lanes, marks]);
      if (row.look !== look) this.drawRow(row, place, lanes, marks);
      row.look = look;
    });
    forgetThumbnails(shown);
    if (pointer !== this.pointer) this.rows.get(pointer)?.item.scrollIntoView({ block: "nearest" });
    if (hadFocus) this.rows.get(pointer)?.item.focus();
    this.pointer = pointer;
  }

  /** Removes the rows of turns that are no longer shown; returns whether one of them had the keyboard's focus. */
  removeRows(shown) {
    const gone = [...this.rows].filter(([id]) => !shown.has(id));
    const hadFocus = gone.some(([, { item }]) => item.contains(document.activeElement));
    for (const [id, { item }] of gone) {
      this.seen.unobserve(item);
      item.remove();
      this.rows.delete(id);
    }
    return hadFocus;
  }

  newRow(id) {
    const row = {
      item: element("li", { className: "kh-row" }),
      lanes: document.createElementNS(SVG, "svg"),
      image: element("img", { alt: "", draggable: false }),
      text: element("span", { className: "kh-text" }),
      facts: element("span", { className: "kh-facts" }),
      star: iconButton("pi-star", say("star"), (event) => {
        event.stopPropagation();
        actions.star(this.turn(id));
      }),
      menu: iconButton("pi-ellipsis-v", say("more"), (event) => {
        event.stopPropagation();
        openMenu(row.menu, actions.entriesFor(this.turn(id)));
      }),
    };
    row.lanes.setAttribute("aria-hidden", "true");
    row.star.tabIndex = row.menu.tabIndex = -1; // their keys are S and the menu key
    row.item.dataset.turn = id;
    row.item.setAttribute("role", "treeitem");
    row.item.append(row.lanes, row.image, element("div", {}, row.text, row.facts), element("span", {}, row.star, row.menu));
    this.listen(row.item, "click", (event) => this.onClick(event, id));
    this.listen(row.item, "contextmenu", (event) => {
      event.preventDefault();
      event.stopPropagation();
      openMenu(row.menu, actions.entriesFor(this.turn(id)));
    });
    this.listen(row.item, "focus", () => this.focus(id));
    this.rows.set(id, row);
    this.seen.observe(row.item);
    return row;
  }

  turn(id) {
    return state.turns.find((turn) => turn.id === id);
  }

  drawRow(row, place, lanes, { here, marked, focused }) {
    const { turn } = place;
    const { item } = row;
    row.text.textContent = turn.instruction || say(turn.parent ? "noInstruction" : "firstPicture");
    const facts = [
      `${turn.number}`,
      new Date(turn.created * 1000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" }),
      turn.parent && (turn.is_global ? say("global") : say("kept", { percent: (100 * turn.kept).toFixed(0) })),
      turn.missing && say("missing"),
      turn.note,
    ].filter(Boolean);
    row.facts.textContent = facts.join(" · ");
    const seed = turn.seed != null && say("seed", { seed: turn.seed });
    item.title = [turn.instruction, turn.model, seed, turn.note].filter(Boolean).join("\n");
    item.classList.toggle("kh-on-path", place.on);
    item.classList.toggle("kh-here", here);
    item.classList.toggle("kh-marked", marked);
    item.classList.toggle("kh-missing", turn.missing);
    item.setAttribute("aria-level", place.depth + 1);
    item.setAttribute("aria-posinset", place.position);
    item.setAttribute("aria-setsize", place.siblings);
    item.setAttribute("aria-selected", String(here));
    item.setAttribute("aria-label", this.label(turn, here));
    item.tabIndex = focused ? 0 : -1;
    row.star.title = say(turn.star ? "unstar" : "star");
    row.star.setAttribute("aria-label", row.star.title);
    row.star.setAttribute("aria-pressed", String(turn.star));
    row.star.firstChild.className = turn.star ? "pi pi-star-fill" : "pi pi-star";
    drawLanes(row.lanes, place, lanes);
  }

  label(turn, here) {
    const words = turn.instruction || say("firstPicture");
    const marks = [here && say("here"), turn.star && say("starred"), turn.missing && say("missing"), turn.note];
    return [say("turn", { number: turn.number }), words, ...marks].filter(Boolean).join(", ");
  }

  async loadSeen(entries) {
    for (const { target, isIntersecting } of entries) {
      if (!isIntersecting) continue;
      this.seen.unobserve(target);
      const row = this.rows.get(target.dataset.turn);
      thumbnail(target.dataset.turn).then(
        (url) => {
          if (row) row.image.src = url;
        },
        () => row?.item.classList.add("kh-missing"),
      );
    }
  }

  /** A click continues from the turn, a double click opens it, Ctrl or Cmd with a click marks it. */
  onClick(event, id) {
    const turn = this.turn(id);
    clearTimeout(this.click);
    if (event.ctrlKey || event.metaKey) actions.mark(turn);
    else if (event.detail === 2) openViewer(id, state.marked);
    else if (event.detail < 2) this.click = setTimeout(() => actions.goTo(turn), event.detail ? CLICK : 0);
  }

  focus(id) {
    const before = this.rows.get(this.focused);
    this.focused = id;
    if (before) before.item.tabIndex = -1;
    this.rows.get(id).item.tabIndex = 0;
  }

  /** Arrow keys move through the tree; letters act on the focused turn. */
  onKey(event) {
    const id = event.target.closest?.("[data-turn]")?.dataset.turn;
    const turn = id && this.turn(id);
    if (!turn || event.ctrlKey || event.metaKey || event.altKey) return;
    const order = [...this.tree.children].map((item) => item.dataset.turn);
    const at = order.indexOf(id);
    const child = state.turns.find((each) => each.parent === id)?.id;
    const goals = {
      ArrowUp: order[at - 1],
      ArrowDown: order[at + 1],
      ArrowLeft: turn.parent,
      ArrowRight: child,
      Home: order[0],
      End: order.at(-1),
    };
    const deeds = {
      Enter: () => openViewer(id, state.marked),
      " ": () => actions.goTo(turn),
      s: () => actions.star(turn),
      n: () => actions.note(turn),
      c: () => actions.mark(turn),
      u: () => turn.parent && actions.useTurn(turn),
      Delete: () => turn.parent && actions.removeTurn(turn),
      ContextMenu: () => openMenu(this.rows.get(id).menu, actions.entriesFor(turn)),
      F10: () => event.shiftKey && openMenu(this.rows.get(id).menu, actions.entriesFor(turn)),
    };
    if (!(event.key in goals) && !(event.key in deeds)) return;
    event.preventDefault();
    event.stopPropagation(); // the canvas has its own keys
    deeds[event.key]?.();
    if (goals[event.key]) this.rows.get(goals[event.key]).item.focus();
  }
}

/** The lines left of a row: passing ones, the one to its parent, and the one to its children. */
function drawLanes(svg, { turn, lane, on, leads, hasChildren, branches, passing }, lanes) {
  const gap = Math.min(14, 90 / lanes);
  const x = (each) => gap * (each + 0.5);
  const middle = ROW / 2;
  const line = (d, onPath) => {
    const drawn = document.createElementNS(SVG, "path");
    drawn.setAttribute("d", d);
    if (onPath) drawn.classList.add("kh-on-path");
    return drawn;
  };
  const lines = passing.map((each) => line(`M${x(each.lane)} 0V${ROW}`, each.on));
  if (branches) lines.push(line(`M${x(lane - 1)} 0Q${x(lane - 1)} ${middle} ${x(lane)} ${middle}`, on));
  else if (turn.parent) lines.push(line(`M${x(lane)} 0V${middle}`, on));
  if (hasChildren) lines.push(line(`M${x(lane)} ${middle}V${ROW}`, leads));
  const dot = document.createElementNS(SVG, "circle");
  for (const [name, value] of Object.entries({ cx: x(lane), cy: middle, r: 4 })) dot.setAttribute(name, value);
  if (on) dot.classList.add("kh-on-path");
  lines.sort((a, b) => a.classList.length - b.classList.length); // the path lies on top
  svg.setAttribute("width", gap * lanes);
  svg.setAttribute("height", ROW);
  svg.replaceChildren(...lines, dot);
}
