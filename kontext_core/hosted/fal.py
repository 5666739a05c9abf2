"""fal.ai's queue.

From docs.fal.ai (queue) and the official client fal-client 1.0.3: addresses, "Key" header, {"request_id",
"status_url", "response_url", "cancel_url"}, IN_QUEUE, IN_PROGRESS, COMPLETED, PUT to cancel. From
fal.ai/models/fal-ai/flux-pro/kontext: fields, ratios, prices.

Not verified: the fields of [dev]; how a moderated request is answered (taken: 422 with the type
"content_policy_violation", or a result with `has_nsfw_concepts`) and whether it is charged; the limit on tasks.
"""

from __future__ import annotations

from typing import Any

from .errors import FAILED, HostedError, by_status, detail, moderated
from .provider import NAMED_RATIOS, Model, Provider
from .wire import Answer, Call, Job, Outcome, Result, Task, Waiting


class Fal(Provider):
    title = "fal"
    key_name = "FAL_KEY"
    hosts = ("fal.run",)
    models = {
        "pro": Model("fal-ai/flux-pro/kontext", 0.04, 10),
        "max": Model("fal-ai/flux-pro/kontext/max", 0.08, 10),
        "dev": Model("fal-ai/flux-kontext/dev", None, 10),
    }
    most_pictures = 4
    ratios = NAMED_RATIOS
    options = ("safety_tolerance", "prompt_upsampling")

    def headers(self, key: str) -> dict[str, str]:
        return {"Authorization": f"Key {key}"}

    def submit(self, job: Job) -> Call:
        return Call("POST", f"https://queue.fal.run/{self.endpoint(job)}", self.arguments(job))

    def endpoint(self, job: Job) -> str:
        """The model's id, which has a variant for no picture and one for several."""
        model = self.require(job)
        if job.model == "dev":
            _require_plain(self.title, job)
            return model.id
        return model.id + {0: "/text-to-image", 1: ""}.get(len(job.pictures), "/multi")

    def arguments(self, job: Job) -> dict[str, Any]:
        """The fields; without a ratio the picture's own is kept."""
        pictures = [picture.data_uri for picture in job.pictures]
        body: dict[str, Any] = {"prompt": job.instruction, "seed": job.seed, "output_format": job.output_format}
        if pictures:
            body |= {"image_url": pictures[0]} if len(pictures) == 1 else {"image_urls": pictures}
        if not job.ratio.of_picture:
            body["aspect_ratio"] = str(job.ratio)
        if options := self.own_options(job):
            body["safety_tolerance"] = str(options["safety_tolerance"])  # a string here
            body["enhance_prompt"] = options["prompt_upsampling"]
        return body

    def accepted(self, answer: Answer) -> Outcome:
        body = answer.json()
        task = Task(str(body["request_id"]), str(body["status_url"]), str(body.get("cancel_url", "")))
        return Waiting(task, "queued")

    def polled(self, answer: Answer, task: Task) -> Outcome:
        body = answer.json()
        if "images" in body:
            return self._result(body, task)
        if body.get("error"):
            raise HostedError(FAILED, f"{self.title} could not make the picture: {detail(answer.body)}.")
        if body.get("status") == "COMPLETED":  # the picture is told at the next address
            return Waiting(task._replace(address=self.result_address(body, task)), "running", soon=True)
        return Waiting(task, "queued" if body.get("status") == "IN_QUEUE" else "running")

    def result_address(self, body: dict[str, Any], task: Task) -> str:
        return str(body.get("response_url") or task.address.removesuffix("/status"))

    def cancel(self, task: Task) -> Call | None:
        return Call("PUT", task.cancel) if task.cancel else None

    def failure(self, answer: Answer) -> HostedError:
        if answer.status == 422 and b"content_policy_violation" in answer.body:
            return moderated(self.title, "input", detail(answer.body), "")
        return by_status(self.title, self.key_name, answer)

    def _result(self, body: dict[str, Any], task: Task) -> Outcome:
        if any(body.get("has_nsfw_concepts") or ()):
            raise moderated(self.title, "output", "has_nsfw_concepts", "")
        return Result(task.id, url=str(body["images"][0]["url"]), seed=body.get("seed"))


def _require_plain(title: str, job: Job) -> None:
    """[dev] edits one picture at its own ratio."""
    if len(job.pictures) != 1 or not job.ratio.of_picture:
        raise ValueError(
            f"references: {title}'s [dev] edits exactly one picture at the ratio 'as the first picture'. Connect one "
            "and choose that ratio, or choose [pro]."
        )
