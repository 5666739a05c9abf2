// Our templates in the order of their names, the first one to try first; the server lists them as the disk does.
import { api } from "../../scripts/api.js";

const pack = decodeURIComponent(new URL(import.meta.url).pathname.split("/").at(-2));
const list = api.getWorkflowTemplates;

api.getWorkflowTemplates = async function () {
  const templates = await list.apply(this, arguments);
  templates[pack]?.sort();
  return templates;
};
