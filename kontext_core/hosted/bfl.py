"""Black Forest Labs' own API.

From docs.bfl.ai's reference of flux-kontext-pro and -max (read November 2026): paths, fields, x-key header,
statuses, {"id", "polling_url", "cost"}. From help.bfl.ai: 24 active tasks, 6 for [max]; from bfl.ai/pricing: 4 and
8 credits, 1 credit = $0.01.

Not verified: that a malformed key gives 422 (seen by others); whether a picture's ratio or 1:1 is the default,
which is why the ratio is always sent; that a task is answered with 404 when it is unknown.
"""

from __future__ import annotations

from .errors import FAILED, HostedError, by_status, detail, moderated, unreadable
from .provider import Model, Provider
from .wire import Answer, Call, Job, Outcome, Result, Task, Waiting

REGIONS = {"global": "https://api.bfl.ai", "EU": "https://api.eu.bfl.ai", "US": "https://api.us.bfl.ai"}
CREDIT = 0.01  # USD
FREE = "Black Forest Labs does not charge for it."


class BlackForestLabs(Provider):
    title = "Black Forest Labs"
    key_name = "BFL_API_KEY"
    hosts = ("bfl.ai",)
    models = {"pro": Model("flux-kontext-pro", 0.04, 24), "max": Model("flux-kontext-max", 0.08, 6)}
    most_pictures = 4
    options = ("safety_tolerance", "prompt_upsampling")

    def headers(self, key: str) -> dict[str, str]:
        return {"x-key": key}

    def submit(self, job: Job) -> Call:
        model = self.require(job)
        names = ("input_image", "input_image_2", "input_image_3", "input_image_4")
        body = {
            "prompt": job.instruction,
            **{name: picture.text for name, picture in zip(names, job.pictures, strict=False)},
            "seed": job.seed,
            "aspect_ratio": str(job.ratio),
            "output_format": job.output_format,
            **self.own_options(job),
        }
        return Call("POST", f"{REGIONS[job.options['region']]}/v1/{model.id}", body)

    def accepted(self, answer: Answer) -> Outcome:
        body = answer.json()
        cost = body.get("cost")
        dollars = cost * CREDIT if isinstance(cost, (int, float)) else None
        return Waiting(Task(str(body["id"]), str(body["polling_url"]), cost=dollars), "queued")

    def polled(self, answer: Answer, task: Task) -> Outcome:
        body = answer.json()
        status = body.get("status")
        if error := self._refusal(status, answer):
            raise error
        if status == "Ready":
            result = body["result"]
            return Result(task.id, url=str(result["sample"]), seed=result.get("seed"), cost=task.cost)
        progress = body.get("progress")
        fraction = float(progress) if isinstance(progress, (int, float)) else None
        return Waiting(task, "queued" if status == "Pending" and not fraction else "running", fraction)

    def failure(self, answer: Answer) -> HostedError:
        try:
            refusal = self._refusal(answer.json().get("status"), answer)
        except ValueError:
            refusal = None
        return refusal or by_status(self.title, self.key_name, answer)

    def _refusal(self, status: object, answer: Answer) -> HostedError | None:
        said = detail(answer.body)
        said = "" if said == status else said
        if status in ("Request Moderated", "Content Moderated"):
            return moderated(self.title, "input" if status == "Request Moderated" else "output", said, FREE)
        if status == "Task not found":
            return self.gone("task not found: unknown, or older than its ten minutes")
        if status == "Error":
            return HostedError(FAILED, f"{self.title} could not make the picture: {said or 'it gave no reason'}.")
        return None if isinstance(status, str) or status is None else unreadable(self.title)
