"""Black Forest Labs' own API.

Sources. docs.bfl.ai's reference of flux-kontext-pro and -max and its OpenAPI document (read November 2026): paths,
fields, `x-key` header, statuses, {"id", "polling_url", "cost"}, output formats. The client blackforest 0.1.3: `X-Key`,
the same fields, ids and `polling_url`. help.bfl.ai: 24 active tasks, 6 for [max]; bfl.ai/pricing: 4 and 8 credits, 1
credit = $0.01. github.com/black-forest-labs/skills: results live ten minutes.

Not verified: that a malformed key gives 422 (observed by others); whether a picture's ratio or 1:1 is the default,
which is why the ratio is always sent; that a query for an unknown task gives 404; that both models support WebP, which
the newer OpenAPI document lists.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .errors import INPUT_MODERATED, OUTPUT_MODERATED, HostedError, by_status, detail, failed, moderated, unreadable
from .provider import Model, Provider
from .wire import Answer, Call, Job, Outcome, Result, Task, Waiting

ENDPOINTS = {"global": "https://api.bfl.ai", "EU": "https://api.eu.bfl.ai", "US": "https://api.us.bfl.ai"}
CREDIT = 0.01  # USD
FREE = "Black Forest Labs does not charge for it."
SETTINGS = {"safety_tolerance": (0, 6), "prompt_upsampling": None}
FORMATS = ("png", "jpeg", "webp")


class BlackForestLabs(Provider):
    title = "Black Forest Labs"
    key_name = "BFL_API_KEY"
    hosts = ("bfl.ai",)
    models = {
        "pro": Model("flux-kontext-pro", 0.04, 24, (0, 4), settings=SETTINGS, formats=FORMATS),
        "max": Model("flux-kontext-max", 0.08, 6, (0, 4), settings=SETTINGS, formats=FORMATS),
    }

    def headers(self, key: str, options: Mapping[str, Any]) -> dict[str, str]:
        return {"x-key": key}

    def submit(self, job: Job, uploaded: Sequence[str] = ()) -> Call:
        model = self.require(job)
        names = ["input_image", *(f"input_image_{number}" for number in range(2, len(job.pictures) + 1))]
        body = {
            "prompt": job.instruction,
            **{name: picture.text for name, picture in zip(names, job.pictures, strict=False)},
            "seed": job.seed,
            "aspect_ratio": str(job.ratio),
            "output_format": job.output_format,
            **self.fields(job),
        }
        return Call("POST", f"{ENDPOINTS[job.options['region']]}/v1/{model.id}", body)

    def accepted(self, answer: Answer) -> Outcome:
        body = answer.json()
        cost = body.get("cost")
        dollars = cost * CREDIT if isinstance(cost, (int, float)) else None
        return Waiting(Task(body["id"], body["polling_url"], cost=dollars), "queued")

    def polled(self, answer: Answer, task: Task) -> Outcome:
        body = answer.json()
        status = body.get("status")
        if error := self._refusal(status, answer):
            raise error
        if status == "Ready":
            result = body["result"]
            return Result(task.id, url=result["sample"], seed=result.get("seed"), cost=task.cost)
        progress = body.get("progress")
        return Waiting(task, "queued" if status == "Pending" and not progress else "running", progress)

    def failure(self, answer: Answer, submitting: bool) -> HostedError:
        status = answer.content.get("status") if isinstance(answer.content, dict) else None
        refusal = self._refusal(status, answer) if isinstance(status, str) else None
        return refusal or by_status(self.title, self.key_name, answer, submitting)

    def _refusal(self, status: object, answer: Answer) -> HostedError | None:
        said = detail(answer.content)
        said = "" if said == status else said
        if status in ("Request Moderated", "Content Moderated"):
            case = INPUT_MODERATED if status == "Request Moderated" else OUTPUT_MODERATED
            return moderated(self.title, case, said, FREE)
        if status == "Task not found":
            return self.gone("task not found: unknown, or older than its ten minutes")
        if status == "Error":
            return failed(self.title, said)
        return None if isinstance(status, str) or status is None else unreadable(self.title)
