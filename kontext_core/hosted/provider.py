"""The interface that each provider implements: build requests, read answers, name errors."""

from __future__ import annotations

import base64
import binascii
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, ClassVar, NamedTuple

from .errors import EXPIRED, FAILED, HostedError, by_status, unreadable
from .wire import Answer, Call, Job, Outcome, Result, Task

NAMED_RATIOS = ("21:9", "16:9", "4:3", "3:2", "1:1", "2:3", "3:4", "9:16", "9:21")  # the usual list
Range = tuple[float, float]


class Model(NamedTuple):
    """A row of a provider's table: all differences between its models."""

    id: str  # the provider's own name
    price: float | None  # USD per picture of about a megapixel; None if unknown
    active: int  # limit on concurrent tasks
    references: Range = (0, 1)  # smallest and largest number of input pictures
    ratios: tuple[str, ...] | None = None  # None: any from 3:7 to 7:3
    settings: Mapping[str, Range | None] = {}  # supported settings with their range; see SETTINGS
    formats: tuple[str, ...] = ("png", "jpeg")


SETTINGS = ("safety_tolerance", "prompt_upsampling", "steps", "guidance", "lora")  # names in Job.options
OWN = (None, 0, "")  # values that leave steps, guidance and lora to the provider


class Provider(ABC):
    """No I/O and no key. Methods raise HostedError for an answer's errors, ValueError for a bad job.

    Methods that read an answer may raise any other exception if it is not as the provider documents.
    """

    title: ClassVar[str]
    key_name: ClassVar[str]  # the environment variable that holds the key
    hosts: ClassVar[tuple[str, ...]]  # the key is sent only to these and their subdomains
    models: ClassVar[Mapping[str, Model]]
    names: ClassVar[Mapping[str, str]] = {}  # the provider's names of the settings, where they differ
    seeds: ClassVar[Range] = (0, 2**31 - 1)  # smallest and largest; no provider documents larger ones
    answers_at_once: ClassVar[bool] = False  # one long request instead of a task to poll
    untested: ClassVar[str] = ""  # facts that no source of the provider confirms, for the user

    def headers(self, key: str, options: Mapping[str, Any]) -> dict[str, str]:
        return {"Authorization": f"Bearer {key}"}

    def uploads(self, job: Job) -> list[Call]:
        """The requests that upload pictures before `submit`, which gets the resulting addresses."""
        return []

    def uploaded(self, answer: Answer) -> str:
        """The address in the answer to an upload."""
        raise unreadable(self.title)

    @abstractmethod
    def submit(self, job: Job, uploaded: Sequence[str] = ()) -> Call:
        """The request for one picture."""

    def own_task(self, call: Call) -> Task | None:
        """The task of a request whose id we choose: it can be polled even if the answer to `submit` is lost."""
        return None

    @abstractmethod
    def accepted(self, answer: Answer) -> Outcome:
        """The outcome of a successful answer to `submit`."""

    def poll(self, task: Task) -> Call:
        return Call("GET", task.address)

    def polled(self, answer: Answer, task: Task) -> Outcome:
        """The outcome of a successful answer to `poll`; not called for providers that answer at once."""
        raise unreadable(self.title)

    def cancel(self, task: Task) -> Call | None:
        """The request that cancels a task, if the provider supports it."""
        return None

    def failure(self, answer: Answer, submitting: bool) -> HostedError:
        """The error of an answer with a status of 300 or more."""
        return by_status(self.title, self.key_name, answer, submitting)

    def retry_after(self, answer: Answer) -> float | None:
        """Seconds until the next attempt, from the header: a number or a date."""
        text = answer.headers.get("Retry-After", "").strip()
        if text.isascii() and text.isdigit() and len(text) <= 6:
            return float(text)
        try:
            return max(0.0, (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds())
        except (TypeError, ValueError):
            return None

    def require(self, job: Job) -> Model:
        """The model, after validation of the job against it. ValueError names the unsupported input."""
        model, what = self.models[job.model], f"{self.title} [{job.model}]"
        fewest, most = model.references
        if not fewest <= len(job.pictures) <= most:
            number = f"exactly {most:g}" if fewest == most else f"{fewest:g} to {most:g}"
            raise ValueError(
                f"references: {len(job.pictures)} are connected; {what} takes {number}. "
                "Connect so many, or choose Black Forest Labs, which takes 0 to 4."
            )
        if model.ratios is not None and not job.ratio.of_picture and str(job.ratio) not in model.ratios:
            takes = ", ".join(model.ratios) or "none but that of the picture"
            raise ValueError(f"ratio: {job.ratio} is not one of those of {what}: {takes}. Choose one of them.")
        if job.output_format not in model.formats:
            raise ValueError(f"output_format is {job.output_format}; {what} gives {' or '.join(model.formats)}.")
        for name, value in self.settings(job).items():
            allowed = model.settings[name]
            if allowed and not allowed[0] <= value <= allowed[1]:
                raise ValueError(
                    f"{name} is {value:g}; {what} takes {allowed[0]:g} to {allowed[1]:g}, or 0 for its own."
                )
        return model

    def settings(self, job: Job) -> dict[str, Any]:
        """The settings that were set and that the model supports, by our names."""
        chosen = {name: job.options.get(name) for name in self.models[job.model].settings}
        return {name: value for name, value in chosen.items() if not is_own(name, value)}

    def fields(self, job: Job) -> dict[str, Any]:
        """The same by the provider's names."""
        return {self.names.get(name, name): value for name, value in self.settings(job).items()}

    def seed(self, seed: int) -> int:
        """A seed mapped into the provider's range; any seed of up to 64 bits is allowed, and one in range is kept."""
        low, high = map(int, self.seeds)
        return low + (seed - low) % (high - low + 1)

    def gone(self, said: str) -> HostedError:
        return HostedError(EXPIRED, f"{self.title} has no result for this request ({said}).")

    def cancelled(self) -> HostedError:
        return HostedError(FAILED, f"{self.title} says that this request was cancelled.")

    def read_base64(self, identity: str, content: object, seed: int | None = None) -> Result:
        """A picture contained in the answer, as plain base64 or as a data URI."""
        try:
            text = str(content).rpartition("base64,")[2]
            return Result(identity, content=base64.b64decode(text, validate=True), seed=seed)
        except binascii.Error:
            raise unreadable(self.title) from None


def is_own(name: str, value: Any) -> bool:
    """Whether a setting is left to the provider; safety_tolerance 0 and prompt_upsampling False are real choices."""
    return value is None or (name in ("steps", "guidance", "lora") and value in OWN)
