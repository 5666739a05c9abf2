// The panel's texts in the language that ComfyUI is set to, from locales/<language>/main.json.
import { api } from "../../../scripts/api.js";
import { app } from "../../../scripts/app.js";

let words = {};

/** Loads the texts. English ones stand in where a language lacks one. */
export async function loadWords() {
  const languages = await (await api.fetchApi("/i18n")).json();
  const language = app.extensionManager.setting.get("Comfy.Locale") ?? "en";
  words = { ...languages.en?.kontextHistory, ...languages[language]?.kontextHistory };
}

/** A text by its key, with {name} replaced by the values. */
export function say(key, values = {}) {
  return (words[key] ?? key).replace(/\{(\w+)\}/g, (whole, name) => values[name] ?? whole);
}
