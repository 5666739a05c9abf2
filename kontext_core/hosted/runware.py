"""Runware's REST interface: tasks as a JSON list, asked for again by the id that we give them.

From runware.ai/docs and the official client runware-sdk 1.8.0: address, Bearer header, `deliveryMethod` "async" with
`getResponse`, error codes; model names, sizes and prices from runware.ai/docs.

Not verified: which of the codes stand for moderated input and which for output; the limit on tasks.
"""

from __future__ import annotations

import uuid
from typing import Any

from .errors import (
    BAD_KEY,
    FAILED,
    NO_CREDITS,
    REFUSED,
    TOO_MANY,
    HostedError,
    by_status,
    detail,
    moderated,
    unreadable,
)
from .provider import Model, Provider
from .wire import Answer, Call, Job, Outcome, Ratio, Result, Task, Waiting

API = "https://api.runware.ai/v1"
SIZES = {  # the only ones it takes for Kontext
    "1:1": (1024, 1024),
    "21:9": (1568, 672),
    "9:21": (672, 1568),
    "16:9": (1392, 752),
    "9:16": (752, 1392),
    "4:3": (1184, 880),
    "3:4": (880, 1184),
    "3:2": (1248, 832),
    "2:3": (832, 1248),
}
CODES = (  # part of a code in lower case, case
    (
        (
            "contentpolicy",
            "sensitive",
            "unsafe",
            "nsfw",
            "promptblocked",
            "imageblocked",
            "moderation",
            "providercontent",
        ),
        "moderated",
    ),
    (("credit", "balance", "quota", "paymentrequired"), NO_CREDITS),
    (("apikey", "unauthorized", "forbidden", "authentication", "token"), BAD_KEY),
    (("ratelimit",), TOO_MANY),
    (("invalid", "missing", "unsupported", "unknownparameter", "conflict"), REFUSED),
)


class Runware(Provider):
    title = "Runware"
    key_name = "RUNWARE_API_KEY"
    hosts = ("api.runware.ai",)
    models = {
        "pro": Model("bfl:3@1", 0.04, 10),
        "max": Model("bfl:4@1", 0.08, 10),
        "dev": Model("runware:106@1", 0.0105, 10),
    }
    most_pictures = 4
    ratios = tuple(SIZES)
    options = ("safety_tolerance", "prompt_upsampling")

    def submit(self, job: Job) -> Call:
        model = self.require(job)
        if job.seed < 1:
            raise ValueError("seed is 0; Runware needs 1 or more. Choose another.")
        width, height = nearest_size(job.ratio)
        task: dict[str, Any] = {
            "taskType": "imageInference",
            "taskUUID": str(uuid.uuid4()),
            "deliveryMethod": "async",
            "positivePrompt": job.instruction,
            "model": model.id,
            "width": width,
            "height": height,
            "seed": job.seed,
            "numberResults": 1,
            "outputType": "URL",
            "outputFormat": {"png": "PNG", "jpeg": "JPG"}[job.output_format],
            "includeCost": True,
        }
        if job.pictures:
            task["referenceImages"] = [picture.data_uri for picture in job.pictures]
        if options := self.own_options(job):
            names = {"promptUpsampling": "prompt_upsampling", "safetyTolerance": "safety_tolerance"}
            task["providerSettings"] = {"bfl": {name: options[ours] for name, ours in names.items()}}
        return Call("POST", API, [task])

    def accepted(self, answer: Answer) -> Outcome:
        body = self._without_errors(answer)
        return self._read(body["data"][0], Task(str(body["data"][0]["taskUUID"]), API))

    def poll(self, task: Task) -> Call:
        return Call("POST", task.address, [{"taskType": "getResponse", "taskUUID": task.id}])

    def polled(self, answer: Answer, task: Task) -> Outcome:
        body = self._without_errors(answer)
        mine = [item for item in body.get("data") or () if item.get("taskUUID") == task.id]
        return self._read(mine[0], task) if mine else Waiting(task, "running")

    def failure(self, answer: Answer) -> HostedError:
        try:
            self._without_errors(answer)
        except ValueError as said:  # or there is no JSON
            if isinstance(said, HostedError):
                return said
        return by_status(self.title, self.key_name, answer)

    def _read(self, item: dict[str, Any], task: Task) -> Outcome:
        if item.get("NSFWContent"):
            raise moderated(self.title, "output", "NSFWContent", "")
        if "imageURL" in item:
            return Result(task.id, url=str(item["imageURL"]), seed=item.get("seed"), cost=item.get("cost"))
        return Waiting(task, "running")

    def _without_errors(self, answer: Answer) -> dict[str, Any]:
        """The answer, which may hold errors with status 200 too; the first of them is raised."""
        body = answer.json()
        errors = body.get("errors")
        if not errors:
            return body
        if not isinstance(errors, list) or not isinstance(errors[0], dict):
            raise unreadable(self.title)
        code, said = str(errors[0].get("code", "")).lower(), detail(answer.body)
        case = next((case for parts, case in CODES if any(part in code for part in parts)), FAILED)
        if case == "moderated":
            raise moderated(self.title, "input" if "blocked" in code or "invalid" in code else "output", said, "")
        status = {BAD_KEY: 401, NO_CREDITS: 402, TOO_MANY: 429, REFUSED: 400}.get(case)
        if status:
            raise by_status(self.title, self.key_name, answer._replace(status=status))
        raise HostedError(FAILED, f"{self.title} could not make the picture: {said or 'it gave no reason'}.")


def nearest_size(ratio: Ratio) -> tuple[int, int]:
    """The size of the nearest ratio, by |log ratio|; of a chosen one it is that ratio's own."""

    def distance(size: tuple[int, int]) -> float:
        ours, theirs = size[0] * ratio.height, size[1] * ratio.width
        return max(ours, theirs) / min(ours, theirs)

    return SIZES[str(ratio)] if str(ratio) in SIZES else min(SIZES.values(), key=distance)
