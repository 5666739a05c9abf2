// A read-only text field on a node, as high as its text up to a limit; longer texts scroll.

const FONT_SIZE = 12; // px
const LINE = 16; // px
const PADDING = 6; // px, on each side
const MOST_LINES = 10;
const GAP = 4; // px, between widgets
const STYLE = {
  font: `${FONT_SIZE}px/${LINE}px sans-serif`,
  padding: `${PADDING}px`,
  boxSizing: "border-box",
  width: "100%",
  resize: "none",
  overflowY: "auto",
};

const pen = document.createElement("canvas").getContext("2d");
pen.font = `${FONT_SIZE}px sans-serif`;

/** The number of lines of a text at a width in px, wrapped between words. */
export function lineCount(text, width) {
  let lines = 0;
  for (const paragraph of text.split("\n")) {
    lines += 1;
    let used = 0;
    for (const word of paragraph.split(/(?<=\s)/)) {
      const length = pen.measureText(word.trimEnd()).width;
      if (used && used + length > width) {
        lines += 1;
        used = 0;
      }
      lines += Math.max(0, Math.ceil(length / width) - 1);
      used += pen.measureText(word).width;
    }
  }
  return lines;
}

function height(node, text) {
  const width = node.size[0] - 2 * PADDING - 40; // the node's margins, and a scroll bar
  return Math.min(lineCount(text, Math.max(width, LINE)), MOST_LINES) * LINE + 2 * PADDING + 2;
}

function make(node, name, style) {
  const element = document.createElement("textarea");
  element.className = "comfy-multiline-input";
  element.readOnly = true;
  element.dataset.kontext = name;
  Object.assign(element.style, STYLE, style);
  const widget = node.addDOMWidget(name, `kontext_${name}`, element, {
    serialize: false,
    getValue: () => element.value,
    setValue: (value) => {
      element.value = value;
      element.style.minHeight = `${height(node, value)}px`;
    },
  });
  widget.serialize = false;
  widget.computeSize = () => [node.size[0], height(node, element.value)];
  widget.computeLayoutSize = undefined; // with it, Nodes 2.0 divides free height between this field and a text box
  widget.setNodeId?.(node.id); // frontend 1.58 asks only here whether there is one
  return widget;
}

const find = (node, name) => node.widgets?.find((widget) => widget.name === name);

/** Shows `text` in the node's field `name`. A node that is too low for its widgets grows. */
export function setText(node, name, text, style = {}) {
  const widget = find(node, name) ?? make(node, name, style);
  widget.value = text;
  grow(node, 0);
}

/** The same for a temporary text: a text box above it keeps its height. */
export function setPassingText(node, name, text, style = {}) {
  const [tall, before] = [node.size[1], taken(node, name)];
  setText(node, name, text, style);
  const missing = hasTextBox(node) ? tall + taken(node, name) - before - node.size[1] : 0;
  grow(node, Math.max(missing, 0));
  const widget = find(node, name);
  widget.grown = (widget.grown ?? 0) + node.size[1] - tall;
}

/** Removes a text, and the height that a temporary one gave the node. */
export function removeText(node, name) {
  const widget = find(node, name);
  if (!widget) return;
  node.removeWidget(widget);
  grow(node, -(widget.grown ?? 0));
}

/** Whether a widget of the node takes all the height that is left. */
const hasTextBox = (node) => node.widgets.some((widget) => widget.type === "customtext");

function taken(node, name) {
  const widget = find(node, name);
  return widget ? height(node, widget.value) + GAP : 0;
}

function grow(node, by) {
  node.setSize([node.size[0], Math.max(node.size[1] + by, node.computeSize()[1])]);
  node.graph?.setDirtyCanvas(true, true);
}
