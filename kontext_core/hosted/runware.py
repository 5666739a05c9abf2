"""Runware's REST interface: tasks as a JSON list, polled by ids that we choose.

Sources. The client runware-sdk 1.8.0: address, Bearer header, `deliveryMethod` "async" with `getResponse` and the
statuses processing, success and error (`client.py`); the fields of the three models with the references under
`inputs`, `lora` and the output formats (`types/task_map.py`); the codes and their meaning (`errors.py`, `derive_code`).
The client runware 0.5.24: {"model", "weight"} of a LoRA. runware.ai/docs, pages of the models (read November 2026): the
nine sizes, two references, prices.

Not verified: the range of `steps` and `CFGScale` of [dev] (1 to 50 and up to 20 by public code); the limit on tasks;
how long a result is kept.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Sequence
from typing import Any

from .errors import (
    BAD_KEY,
    DOWN,
    EITHER_MODERATED,
    EXPIRED,
    FAILED,
    INPUT_MODERATED,
    MODERATED,
    NO_CREDITS,
    OUTPUT_MODERATED,
    REFUSED,
    TOO_MANY,
    HostedError,
    by_status,
    detail,
    failed,
    moderated,
)
from .provider import Model, Provider
from .wire import Answer, Call, Job, Outcome, Ratio, Result, Task, Waiting

API = "https://api.runware.ai/v1"
SIZES = {  # the only sizes that it accepts for Kontext
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
SETTINGS = {"safety_tolerance": (0, 6), "prompt_upsampling": None}
DEV_SETTINGS = {"steps": (1, 50), "guidance": (0, 20), "lora": None}
FORMATS = {"png": "PNG", "jpeg": "JPG", "webp": "WEBP"}
_AIR = re.compile(r"[\w-]{1,40}:[\w.-]{1,80}@[\w.-]{1,80}", re.ASCII)  # Runware's names of models: source:id@version

# The codes of `errors.py` in runware-sdk 1.8.0
UNSAFE = ("contentPolicyViolation", "sensitiveContentDetected", "unsafeContentDetected", "nsfwContentDetected")
UNSAFE += ("providerContentPolicyViolation", "moderationFailed", "invalidProviderContent")
UNSAFE_INPUT = ("promptBlocked", "imageBlocked")
KEY = ("unauthorized", "forbidden", "permissionDenied", "insufficientPermissions", "authenticationFailed", "authFailed")
KEY += ("invalidAuthentication", "invalidCredentials", "missingAuthentication", "tokenExpired", "tokenInvalid")
KEY += ("tokenMissing", "tokenRevoked", "accountSuspended", "accountDisabled", "organizationSuspended")
KEY += ("organizationDisabled", "workspaceSuspended", "workspaceDisabled")
CREDITS = ("paymentRequired", "environmentPaused")
GONE = ("taskCancelled", "taskFailedOrNotFound")
SERVER = ("internalServerError", "serviceUnavailable", "serverUnavailable", "standardError", "unknownError")
BAD_FIELD = ("invalid", "missing", "conflict", "duplicate", "unsupported", "value", "array", "max", "unknown")
BAD_FIELD += ("incompatible", "mismatch")


class Runware(Provider):
    title = "Runware"
    key_name = "RUNWARE_API_KEY"
    hosts = ("api.runware.ai",)
    models = {
        "pro": Model("bfl:3@1", 0.04, 10, (0, 2), tuple(SIZES), SETTINGS, tuple(FORMATS)),
        "max": Model("bfl:4@1", 0.08, 10, (0, 2), tuple(SIZES), SETTINGS, tuple(FORMATS)),
        "dev": Model("runware:106@1", 0.0105, 10, (0, 2), tuple(SIZES), DEV_SETTINGS, tuple(FORMATS)),
    }
    names = {"safety_tolerance": "safetyTolerance", "prompt_upsampling": "promptUpsampling", "guidance": "CFGScale"}
    seeds = (1, 2**31 - 1)

    def submit(self, job: Job, uploaded: Sequence[str] = ()) -> Call:
        model = self.require(job)
        width, height = nearest_size(job.ratio)
        fields = self.fields(job)
        own = {name: fields.pop(name) for name in ("safetyTolerance", "promptUpsampling") if name in fields}
        if lora := fields.pop("lora", ""):
            fields["lora"] = [_lora(lora, job.options["lora_weight"])]
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
            "outputFormat": FORMATS[job.output_format],
            "includeCost": True,
            **fields,
        }
        if job.pictures:
            task["inputs"] = {"referenceImages": [picture.data_uri for picture in job.pictures]}
        if own:
            task["providerSettings"] = {"bfl": own}
        return Call("POST", API, [task])

    def own_task(self, call: Call) -> Task:
        return Task(call.json[0]["taskUUID"], API)

    def accepted(self, answer: Answer) -> Outcome:
        self._raise_errors(answer, asked=False)
        item = answer.json()["data"][0]
        return self._read(item, Task(item["taskUUID"], API))

    def poll(self, task: Task) -> Call:
        return Call("POST", task.address, [{"taskType": "getResponse", "taskUUID": task.id}])

    def polled(self, answer: Answer, task: Task) -> Outcome:
        self._raise_errors(answer, asked=True)
        mine = [item for item in answer.json().get("data") or () if item.get("taskUUID") == task.id]
        return self._read(mine[0], task) if mine else Waiting(task, "running")

    def failure(self, answer: Answer, submitting: bool) -> HostedError:
        errors = answer.content.get("errors") if isinstance(answer.content, dict) else None
        if isinstance(errors, list) and errors and isinstance(errors[0], dict):
            return self._error(errors[0], answer, asked=not submitting)
        return by_status(self.title, self.key_name, answer, submitting)

    def _read(self, item: dict[str, Any], task: Task) -> Outcome:
        if item.get("status") == "error":
            error = item.get("error")
            raise self._error(error if isinstance(error, dict) else item, None, asked=True)
        if item.get("NSFWContent"):
            raise moderated(self.title, OUTPUT_MODERATED, "NSFWContent")
        if "imageURL" in item:
            return Result(task.id, url=item["imageURL"], seed=item.get("seed"), cost=item.get("cost"))
        return Waiting(task, "running")

    def _raise_errors(self, answer: Answer, asked: bool) -> None:
        """Raise the first error in an answer; one with status 200 may contain errors too."""
        if errors := answer.json().get("errors"):
            raise self._error(errors[0], answer, asked)

    def _error(self, error: dict[str, Any], answer: Answer | None, asked: bool) -> HostedError:
        """asked: the error is about an accepted task. A rejection then ends that task, except for rate limits on
        polling and server faults, which come with an HTTP status of their own.
        """
        code, said = str(error.get("code", "")), detail([error])
        case = case_of(code)
        if case in MODERATED:
            return moderated(self.title, case, said)
        if answer is None or (asked and code.startswith("provider")):
            case = FAILED if case in (DOWN, TOO_MANY) else case
        if case == EXPIRED:
            return self.gone(said or code) if asked else HostedError(REFUSED, f"{self.title} refused: {said or code}.")
        if case == FAILED:
            return failed(self.title, said or code)
        status = {BAD_KEY: 401, NO_CREDITS: 402, TOO_MANY: 429, REFUSED: 400, DOWN: 500}[case]
        return by_status(self.title, self.key_name, Answer(status, {}, [error]), not asked)


def case_of(code: str) -> str:
    """The case of an error code, in the order of runware-sdk's `derive_code`; but `provider...` always means upstream:
    its keys are not the user's, and its "too many" does not say whether Runware accepted the request."""
    if code in UNSAFE:
        return EITHER_MODERATED
    if code.startswith("provider"):
        return DOWN
    if any(part in code for part in ("Credits", "Quota", "quota", "Balance")) or code in CREDITS:
        return NO_CREDITS
    if "RateLimit" in code or code == "rateLimitExceeded":
        return TOO_MANY
    if code in UNSAFE_INPUT:
        return INPUT_MODERATED
    if code in KEY or "ApiKey" in code:
        return BAD_KEY
    if "imeout" in code or code in SERVER:
        return DOWN
    if code in GONE or code.endswith(("NotFound", "Expired")):
        return EXPIRED
    return REFUSED if code.startswith(BAD_FIELD) else FAILED


def nearest_size(ratio: Ratio) -> tuple[int, int]:
    """The size with the nearest ratio, by |log ratio|; for a chosen ratio, exactly that ratio's size."""

    def distance(size: tuple[int, int]) -> float:
        ours, theirs = size[0] * ratio.height, size[1] * ratio.width
        return max(ours, theirs) / min(ours, theirs)

    return SIZES[str(ratio)] if str(ratio) in SIZES else min(SIZES.values(), key=distance)


def _lora(air: str, weight: float) -> dict[str, Any]:
    if not _AIR.fullmatch(air.strip()):
        raise ValueError(f"lora is {air[:60]!r}; Runware's name of one is needed, as in civitai:618692@691639.")
    return {"model": air.strip(), "weight": weight}
