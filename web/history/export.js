// Exports a path of turns as files.
import { blob, complain, state } from "./client.js";
import { pathTo } from "./tree.js";
import { say } from "./words.js";

const SIDE = 512; // px, the height of a strip's pictures at most
const GAP = 12;
const WIDEST = 16000; // px; browsers refuse wider canvases

/** The pictures from the first to this turn as numbered PNG files in an archive. */
export async function exportFiles(id) {
  try {
    save(await blob(`/turns/${id}/path.zip`), "zip");
  } catch (error) {
    complain(error.message);
  }
}

/** The same pictures side by side in one PNG, each with its instruction below. */
export async function exportStrip(id) {
  try {
    const turns = new Map(state.turns.map((turn) => [turn.id, turn]));
    const path = pathTo(state.turns, id).reverse();
    const pictures = await Promise.all(path.map(async (each) => createImageBitmap(await blob(`/turns/${each}/picture`))));
    const texts = path.map((each) => turns.get(each).instruction || say("firstPicture"));
    save(await drawStrip(pictures, texts), "png");
  } catch (error) {
    complain(error.message);
  }
}

/** A PNG of pictures in one row, captions below. */
export function drawStrip(pictures, texts) {
  const tallest = Math.max(...pictures.map((each) => each.height));
  const wide = (height) => pictures.reduce((sum, each) => sum + (each.width * height) / each.height + GAP, GAP);
  const height = Math.floor(Math.min(Math.max(tallest, 256), SIDE, (SIDE * WIDEST) / wide(SIDE)));
  const size = Math.max(10, Math.round(height / 18));
  const canvas = document.createElement("canvas");
  const pen = canvas.getContext("2d");
  const font = `${size}px sans-serif`;
  pen.font = font;
  const widths = pictures.map((each) => Math.round((each.width * height) / each.height));
  const captions = texts.map((text, index) => wrapped(pen, text, widths[index]));
  const lines = Math.max(...captions.map((each) => each.length));
  canvas.width = widths.reduce((sum, each) => sum + each + GAP, GAP);
  canvas.height = height + 2 * GAP + Math.ceil((lines + 0.5) * size * 1.3);
  pen.fillStyle = "#202020";
  pen.fillRect(0, 0, canvas.width, canvas.height);
  pen.font = font;
  pen.fillStyle = "#e6e6e6";
  pen.textBaseline = "top";
  let left = GAP;
  pictures.forEach((each, index) => {
    pen.drawImage(each, left, GAP, widths[index], height);
    captions[index].forEach((line, row) => pen.fillText(line, left, height + 2 * GAP + row * size * 1.3, widths[index]));
    left += widths[index] + GAP;
  });
  return new Promise((done, fail) => {
    canvas.toBlob((content) => (content ? done(content) : fail(new Error(say("tooWide")))), "image/png");
  });
}

/** A text wrapped at a width; scripts without spaces are wrapped anywhere. */
function wrapped(pen, text, width) {
  const lines = [""];
  for (const part of text.match(/\s+|[^\s\u3000-\u9fff\uac00-\ud7af]+|./gu) ?? []) {
    if (pen.measureText(lines.at(-1) + part).width > width && lines.at(-1)) lines.push(part.trim());
    else lines[lines.length - 1] += part;
  }
  return lines;
}

function save(content, ending) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(content);
  link.download = `${state.session?.name.replace(/[^\p{L}\p{N}]+/gu, "_") || "session"}.${ending}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}
