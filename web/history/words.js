// The panel's texts in ComfyUI's language, from locales/<language>/main.json.
import { api } from "../../../scripts/api.js";
import { app } from "../../../scripts/app.js";

let words = {};

/** Loads the texts; English replaces missing ones. */
export async function loadWords() {
  const languages = await (await api.fetchApi("/i18n")).json();
  const language = app.extensionManager.setting.get("Comfy.Locale") ?? "en";
  words = { ...languages.en?.kontextHistory, ...languages[language]?.kontextHistory };
}

/** The text of a key, with each {name} replaced by its value. */
export function say(key, values = {}) {
  return (words[key] ?? key).replace(/\{(\w+)\}/g, (whole, name) => values[name] ?? whole);
}
