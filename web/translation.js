// Reports, notices and errors in ComfyUI's language. The server writes them in English; messages/<language>.json translates
// each message of the code, in which {0}, {1}, ... stand for what varies. What is not in there stays English.
import { app } from "../../scripts/app.js";

const LANGUAGES = ["ja", "ko", "zh"];
const HOLE = /\{(\d+)\}/g;
const SHORT = 6; // letters; the values of a shorter message are numbers
const SENTENCE = "[.!?)] [A-Z'(]"; // the end of one and the beginning of the next
const SEPARATORS = /(?<=[.!?)]) (?=[A-Z'(])|[;:,] | (?=\()/g; // between messages in one line
const [ANY, NUMBER] = ["(.*?)", "(\\S*\\d\\S*|)"];
const [FIRST, INNER] = [`[;:,] | \\(|${SENTENCE}`, `[;:] |${SENTENCE}`].map((ends) => `((?:(?!${ends}).)*?)`);
const JOINTS = { zh: { "; ": "；", ", ": "，", ": ": "：" } }; // separators in languages that have their own
let messages = []; // {strict, loose, translation} of the language, the longest first
let joints = {}; // those of the language

/** Loads the messages of the language that is set. */
export async function loadMessages() {
  const language = app.extensionManager.setting.get("Comfy.Locale");
  messages = [];
  joints = JOINTS[language] ?? {};
  if (!LANGUAGES.includes(language)) return;
  const answer = await fetch(new URL(`./messages/${language}.json`, import.meta.url));
  messages = Object.entries(await answer.json()).map(([english, translation]) => ({ ...patterns(english), translation }));
  messages.sort((one, other) => other.length - one.length);
}

/**
 * What a message looks like. Strict: its values hold no other message, except the last at the end of the line, so that
 * "2 tokens; 3 % changed" is not "{0} % changed".
 */
function patterns(english) {
  const parts = english.split(/\{\d+\}/).map((part) => part.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"));
  const letters = parts.join("").replace(/\P{L}/gu, "").length;
  const filled = (first, inner, last) => {
    const holes = parts.slice(1).map((part, place) => {
      if (place === 0 && !parts[0]) return first;
      return place === parts.length - 2 && !part ? last : inner;
    });
    return new RegExp(`^${parts.map((part, place) => part + (holes[place] ?? "")).join("")}$`);
  };
  return {
    strict: letters < SHORT ? filled(NUMBER, NUMBER, NUMBER) : filled(FIRST, INNER, ANY),
    loose: letters < SHORT ? filled(NUMBER, NUMBER, NUMBER) : filled(ANY, ANY, ANY),
    length: parts.join("").length,
  };
}

/** A text of the server in the language that is set. */
export function translated(text) {
  return messages.length ? text.split("\n").map(line).join("\n").replace(/。 /g, "。") : text;
}

/** A line, which is a message, or several with separators between them, or one with others inside. */
function line(text) {
  const whole = message(text);
  if (whole !== undefined) return whole;
  const ends = [...text.matchAll(SEPARATORS)];
  for (const end of ends) {
    const last = message(text.slice(end.index + end[0].length));
    if (last !== undefined) return line(text.slice(0, end.index)) + joint(end[0]) + last;
  }
  for (const end of ends.reverse()) {
    const first = message(text.slice(0, end.index));
    if (first !== undefined) return first + joint(end[0]) + line(text.slice(end.index + end[0].length));
  }
  return message(text, "loose") ?? text;
}

/** The translation of a message, with its values, which may be messages themselves; undefined if it is none. */
function message(text, kind = "strict") {
  const [, before, bare, after] = text.match(/^([\s,;:]*)(.*?)([\s,;:]*)$/);
  for (const { [kind]: pattern, translation } of bare ? messages : []) {
    const values = bare.match(pattern)?.slice(1);
    if (values) return joint(before) + translation.replace(HOLE, (_, number) => line(values[number])) + joint(after);
  }
}

/** A separator in the language. */
function joint(separator) {
  return joints[separator] ?? separator;
}

app.registerExtension({ name: "kontext.translation", setup: loadMessages });
