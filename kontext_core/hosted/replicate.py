"""Replicate.

From replicate.com's schemas of flux-kontext-pro and -dev (read November 2026) and the official client replicate
1.0.7: addresses, fields, ratios, statuses, urls.get and urls.cancel.

Not verified: the schema and price of -max, taken to be those of -pro; that data URIs of several MB are taken
(small ones are documented); the words of a moderated result (taken: "sensitive", "flagged", "E005"); the limits.
"""

from __future__ import annotations

from .errors import FAILED, HostedError, detail, moderated
from .provider import Model, Provider
from .wire import Answer, Call, Job, Outcome, Result, Task, Waiting

API = "https://api.replicate.com/v1"
FLAGGED = ("sensitive", "flagged", "e005")


class Replicate(Provider):
    title = "Replicate"
    key_name = "REPLICATE_API_TOKEN"
    hosts = ("api.replicate.com",)
    models = {
        "pro": Model("black-forest-labs/flux-kontext-pro", None, 10),
        "max": Model("black-forest-labs/flux-kontext-max", None, 10),
        "dev": Model("black-forest-labs/flux-kontext-dev", None, 10),
    }
    ratios = ("1:1", "16:9", "9:16", "4:3", "3:4", "3:2", "2:3", "4:5", "5:4", "21:9", "9:21", "2:1", "1:2")
    options = ("safety_tolerance", "prompt_upsampling")

    def submit(self, job: Job) -> Call:
        model = self.require(job)
        fields = {
            "prompt": job.instruction,
            "aspect_ratio": "match_input_image" if job.ratio.of_picture else str(job.ratio),
            "seed": job.seed,
            "output_format": "jpg" if job.output_format == "jpeg" else job.output_format,
            **self.own_options(job),
        }
        if job.pictures:
            fields["input_image"] = job.pictures[0].data_uri
        return Call("POST", f"{API}/models/{model.id}/predictions", {"input": fields})

    def accepted(self, answer: Answer) -> Outcome:
        body = answer.json()
        urls = body["urls"]
        return self.polled(answer, Task(str(body["id"]), str(urls["get"]), str(urls.get("cancel", ""))))

    def polled(self, answer: Answer, task: Task) -> Outcome:
        body = answer.json()
        status = body.get("status")
        if status == "succeeded":
            output = body["output"]
            return Result(task.id, url=str(output[0] if isinstance(output, list) else output))
        if status in ("canceled", "aborted"):
            raise self.gone("it was cancelled")
        if status == "failed":
            said = detail(answer.body)
            if any(word in said.lower() for word in FLAGGED):
                raise moderated(self.title, "output", said, "")
            raise HostedError(FAILED, f"{self.title} could not make the picture: {said or 'it gave no reason'}.")
        return Waiting(task, "queued" if status == "starting" else "running")

    def cancel(self, task: Task) -> Call | None:
        return Call("POST", task.cancel) if task.cancel else None
