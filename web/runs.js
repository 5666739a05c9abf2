// The prompts that this page has queued: what the results of a run are made from.
import { api } from "../../scripts/api.js";

const prompts = new Map(); // id of a run that has not ended: its prompt, as in ComfyUI's API format
let answered = Promise.resolve(); // when the server has named every queued prompt; a run may begin before that

/** The prompt of a run: each node's class and inputs. Undefined if another page queued it. */
export async function promptOf(run) {
  await answered;
  return prompts.get(run);
}

/** A node with all that its result is made from, as a text that is equal for equal results. */
export function origin(prompt, id) {
  return prompt?.[id] && JSON.stringify(ancestry(prompt, id));
}

function ancestry(prompt, id, known = {}) {
  if (known[id] || !prompt[id]) return known;
  const inputs = Object.entries(prompt[id].inputs).sort();
  known[id] = [prompt[id].class_type, inputs];
  for (const [, value] of inputs) if (Array.isArray(value)) ancestry(prompt, value[0], known);
  return known;
}

const { queuePrompt } = api;
api.queuePrompt = function (number, { output }) {
  const answer = queuePrompt.apply(this, arguments);
  const named = answer.then(({ prompt_id }) => prompts.set(prompt_id, output)).catch(() => {});
  answered = Promise.all([answered, named]);
  return answer;
};

for (const ending of ["execution_success", "execution_error", "execution_interrupted"])
  api.addEventListener(ending, ({ detail }) => prompts.delete(detail.prompt_id));
