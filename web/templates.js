// Sorts our templates by name, so that the first one to try comes first; the server lists them in the order of the disk.
import { api } from "../../scripts/api.js";

const pack = decodeURIComponent(new URL(import.meta.url).pathname.split("/").at(-2));
const list = api.getWorkflowTemplates;

api.getWorkflowTemplates = async function () {
  const templates = await list.apply(this, arguments);
  templates[pack]?.sort();
  return templates;
};
