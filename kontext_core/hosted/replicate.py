"""Replicate.

Sources. The client replicate 1.0.7: addresses, Bearer header, `urls.get` and `urls.cancel` with POST, statuses, POST
/v1/files with the multipart field `content` and `urls.get` in its answer. replicate.com's schemas of flux-kontext-pro
and -dev (read November 2026): fields, ratios, steps 4 to 50, guidance up to 10. replicate.com/docs, topics: input files
(a data URI "only if the file is less than 1MB"), rate limits (429, "resets in ~30s"), data retention (everything is
removed an hour after the prediction). The message of E005, "The input or output was flagged as sensitive", and
`retry_after` in the body of a 429 are known from public code.

Not verified: the schema and price of -max, assumed to equal those of -pro; the limit on tasks.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from typing import Any

from .errors import EITHER_MODERATED, OUTPUT_MODERATED, detail, failed, moderated
from .provider import Model, Provider
from .wire import Answer, Call, Job, Outcome, Result, Task, Waiting

API = "https://api.replicate.com/v1"
LARGEST_DATA_URI = 1_000_000  # bytes of the file in it
RATIOS = ("1:1", "16:9", "9:16", "4:3", "3:4", "3:2", "2:3", "4:5", "5:4", "21:9", "9:21", "2:1", "1:2")
SETTINGS = {"safety_tolerance": (0, 6), "prompt_upsampling": None}
DEV_SETTINGS = {"steps": (4, 50), "guidance": (0, 10)}


class Replicate(Provider):
    title = "Replicate"
    key_name = "REPLICATE_API_TOKEN"
    hosts = ("api.replicate.com",)
    models = {
        "pro": Model("black-forest-labs/flux-kontext-pro", None, 10, (0, 1), RATIOS, SETTINGS),
        "max": Model("black-forest-labs/flux-kontext-max", None, 10, (0, 1), RATIOS, SETTINGS),
        "dev": Model(
            "black-forest-labs/flux-kontext-dev", None, 10, (1, 1), RATIOS, DEV_SETTINGS, ("png", "jpeg", "webp")
        ),
    }
    names = {"steps": "num_inference_steps"}

    def uploads(self, job: Job) -> list[Call]:
        large = [picture for picture in job.pictures if picture.size >= LARGEST_DATA_URI]
        return [Call("POST", f"{API}/files", file=base64.b64decode(picture.text)) for picture in large]

    def uploaded(self, answer: Answer) -> str:
        address = answer.json()["urls"]["get"]
        if not isinstance(address, str):
            raise ValueError("no address")
        return address

    def submit(self, job: Job, uploaded: Sequence[str] = ()) -> Call:
        model = self.require(job)
        fields = {
            "prompt": job.instruction,
            "aspect_ratio": "match_input_image" if job.ratio.of_picture else str(job.ratio),
            "seed": job.seed,
            "output_format": "jpg" if job.output_format == "jpeg" else job.output_format,
            **self.fields(job),
        }
        if job.pictures:
            fields["input_image"] = uploaded[0] if uploaded else job.pictures[0].data_uri
        return Call("POST", f"{API}/models/{model.id}/predictions", {"input": fields})

    def accepted(self, answer: Answer) -> Outcome:
        body = answer.json()
        urls = body["urls"]
        return Waiting(Task(body["id"], urls["get"], urls.get("cancel", "")), "queued")

    def polled(self, answer: Answer, task: Task) -> Outcome:
        body = answer.json()
        status = body.get("status")
        if status == "succeeded":
            if body.get("output") is None:
                raise self.gone("it was removed; Replicate keeps results for an hour")
            output = body["output"]
            return Result(task.id, url=output[0] if isinstance(output, list) else output)
        if status in ("canceled", "aborted"):
            raise self.cancelled()
        if status == "failed":
            raise self._failed(detail(answer.content))
        return Waiting(task, "queued" if status == "starting" else "running")

    def cancel(self, task: Task) -> Call | None:
        return Call("POST", task.cancel) if task.cancel else None

    def retry_after(self, answer: Answer) -> float | None:
        """From the body: as a number, or in words."""
        body: dict[str, Any] = answer.content if isinstance(answer.content, dict) else {}
        seconds = body.get("retry_after")
        if isinstance(seconds, (int, float)) and 0 <= seconds <= 1e6:
            return float(seconds)
        words = re.search(r"resets in ~(\d{1,6})s", detail(body))
        return float(words[1]) if words else super().retry_after(answer)

    def _failed(self, said: str) -> Exception:
        words = said.lower()
        if "e005" in words or "input or output" in words:
            return moderated(self.title, EITHER_MODERATED, said)
        if "sensitive" in words or "flagged" in words:
            return moderated(self.title, OUTPUT_MODERATED, said)
        return failed(self.title, said)
