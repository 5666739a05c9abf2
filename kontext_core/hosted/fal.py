"""fal.ai's queue.

Sources. The client fal-client 1.0.3 (`client.py`): queue.fal.run, `Authorization: Key`, {"request_id", "status_url",
"response_url", "cancel_url"}, IN_QUEUE, IN_PROGRESS, COMPLETED with `error`, PUT to cancel. fal.ai/docs, model API
reference of flux-pro/kontext, /max, /multi (read November 2026): fields, ratios, `guidance_scale` 1 to 20, prices. Its
page of flux-kontext/dev: `num_inference_steps`, `guidance_scale`, `resolution_mode` ("auto" is "what the model was
trained on"). fal.ai/docs, errors: {"detail": [{"loc", "msg", "type"}]} and the type "content_policy_violation"; request
errors: {"detail", "error_type"}.

Not verified: whether a moderated request is charged; the limit on tasks; how long a result is kept. The message
"Exhausted balance" of a 403 is known from public code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .errors import (
    EITHER_MODERATED,
    INPUT_MODERATED,
    NO_CREDITS,
    OUTPUT_MODERATED,
    HostedError,
    by_status,
    detail,
    failed,
    moderated,
)
from .provider import NAMED_RATIOS, Model, Provider
from .wire import Answer, Call, Job, Outcome, Result, Task, Waiting

DEV_RATIOS = (*NAMED_RATIOS, "4:5", "5:4")
SETTINGS = {"safety_tolerance": (1, 6), "prompt_upsampling": None, "guidance": (1, 20)}
DEV_SETTINGS = {"steps": (10, 50), "guidance": (1, 20)}


class Fal(Provider):
    title = "fal"
    key_name = "FAL_KEY"
    hosts = ("fal.run",)
    models = {
        "pro": Model("fal-ai/flux-pro/kontext", 0.04, 10, (0, 4), NAMED_RATIOS, SETTINGS),
        "max": Model("fal-ai/flux-pro/kontext/max", 0.08, 10, (0, 4), NAMED_RATIOS, SETTINGS),
        "dev": Model("fal-ai/flux-kontext/dev", None, 10, (1, 1), DEV_RATIOS, DEV_SETTINGS),
    }
    names = {"prompt_upsampling": "enhance_prompt", "guidance": "guidance_scale", "steps": "num_inference_steps"}

    def headers(self, key: str, options: Mapping[str, Any]) -> dict[str, str]:
        return {"Authorization": f"Key {key}"}

    def submit(self, job: Job, uploaded: Sequence[str] = ()) -> Call:
        return Call("POST", f"https://queue.fal.run/{self.endpoint(job)}", self.arguments(job))

    def endpoint(self, job: Job) -> str:
        """The model's id; [pro] and [max] have a variant for no picture and one for several."""
        model = self.require(job)
        return model.id if model.references == (1, 1) else model.id + _variant(len(job.pictures))

    def arguments(self, job: Job) -> dict[str, Any]:
        pictures = [picture.data_uri for picture in job.pictures]
        body: dict[str, Any] = {"prompt": job.instruction, "seed": job.seed, "output_format": job.output_format}
        if pictures:
            body |= {"image_url": pictures[0]} if len(pictures) == 1 else {"image_urls": pictures}
        if job.model == "dev":
            body["resolution_mode"] = "auto" if job.ratio.of_picture else str(job.ratio)
        elif not job.ratio.of_picture:  # without this field the picture's own ratio is kept
            body["aspect_ratio"] = str(job.ratio)
        fields = self.fields(job)
        if "safety_tolerance" in fields:
            fields["safety_tolerance"] = str(fields["safety_tolerance"])  # this API expects a string
        return body | fields

    def accepted(self, answer: Answer) -> Outcome:
        body = answer.json()
        return Waiting(Task(body["request_id"], body["status_url"], body.get("cancel_url", "")), "queued")

    def polled(self, answer: Answer, task: Task) -> Outcome:
        body = answer.json()
        if "images" in body:
            return self._result(body, task)
        if body.get("error"):
            raise failed(self.title, detail(answer.content))
        if body.get("status") == "COMPLETED":  # the picture is at another address
            return Waiting(task._replace(address=self.result_address(body, task)), "running", soon=True)
        return Waiting(task, "queued" if body.get("status") == "IN_QUEUE" else "running")

    def result_address(self, body: dict[str, Any], task: Task) -> str:
        return body.get("response_url") or task.address.removesuffix("/status")

    def cancel(self, task: Task) -> Call | None:
        return Call("PUT", task.cancel) if task.cancel else None

    def failure(self, answer: Answer, submitting: bool) -> HostedError:
        said = detail(answer.content)
        places = _moderated_places(answer.content) if answer.status == 422 else []
        if places:
            case = INPUT_MODERATED if all(len(place) > 1 for place in places) else EITHER_MODERATED
            return moderated(self.title, case, said)
        if answer.status == 403 and "balance" in said.lower():
            return HostedError(NO_CREDITS, f"{self.title} says that the balance is used up ({said}). Add some there.")
        return by_status(self.title, self.key_name, answer, submitting)

    def _result(self, body: dict[str, Any], task: Task) -> Outcome:
        if any(body.get("has_nsfw_concepts") or ()):
            raise moderated(self.title, OUTPUT_MODERATED, "has_nsfw_concepts")
        return Result(task.id, url=body["images"][0]["url"], seed=body.get("seed"))


def _variant(pictures: int) -> str:
    return {0: "/text-to-image", 1: ""}.get(pictures, "/multi")


def _moderated_places(content: Any) -> list[list[Any]]:
    """The `loc` of each error of the type for moderation: ["body", field] names an input, ["body"] does not."""
    errors = content.get("detail") if isinstance(content, dict) else None
    found = [each for each in errors if isinstance(each, dict)] if isinstance(errors, list) else []
    places = [each.get("loc") for each in found if each.get("type") == "content_policy_violation"]
    return [place if isinstance(place, list) else [] for place in places]
