// Sorts our templates by name, so that the first one to try comes first; the server lists them in the order of the disk.
// Their pictures come from a route of ours, because later servers serve only the graphs.
import { api } from "../../scripts/api.js";

const pack = decodeURIComponent(new URL(import.meta.url).pathname.split("/").at(-2));
const folder = `/workflow_templates/${pack}/`;
const { apiURL, getWorkflowTemplates } = api;

api.getWorkflowTemplates = async function () {
  const templates = await getWorkflowTemplates.apply(this, arguments);
  templates[pack]?.sort();
  return templates;
};

api.apiURL = function (route) {
  const isPicture = route.startsWith(folder) && !route.endsWith(".json");
  return isPicture ? this.fileURL(route.replace(folder, "/kontext/templates/")) : apiURL.call(this, route);
};
