"""The interface that each provider's file fills: build the request, read the answer, name the errors."""

from __future__ import annotations

import base64
import binascii
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, NamedTuple

from .errors import EXPIRED, HostedError, by_status, unreadable
from .wire import Answer, Call, Job, Outcome, Result, Task

NAMED_RATIOS = ("21:9", "16:9", "4:3", "3:2", "1:1", "2:3", "3:4", "9:16", "9:21")  # what most providers list


class Model(NamedTuple):
    id: str  # the provider's own name
    price: float | None  # USD a picture of about a megapixel; None where we know none
    active: int  # tasks at once


class Provider(ABC):
    """Pure: no network, no key. Methods raise HostedError for what an answer says, ValueError for a bad job."""

    title: ClassVar[str]
    key_name: ClassVar[str]  # the environment variable that holds the key
    hosts: ClassVar[tuple[str, ...]]  # the key goes to these and to names below them, and nowhere else
    models: ClassVar[Mapping[str, Model]]
    most_pictures: ClassVar[int] = 1
    ratios: ClassVar[tuple[str, ...] | None] = None  # None: any within the model's range
    options: ClassVar[tuple[str, ...]] = ()  # of Job.options, for the models that are not [dev]
    answers_at_once: ClassVar[bool] = False  # one long request instead of a task to ask for

    def headers(self, key: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {key}"}

    @abstractmethod
    def submit(self, job: Job) -> Call:
        """The request for one picture."""

    @abstractmethod
    def accepted(self, answer: Answer) -> Outcome:
        """What a successful answer to `submit` says."""

    def poll(self, task: Task) -> Call:
        return Call("GET", task.address)

    def polled(self, answer: Answer, task: Task) -> Outcome:
        """What a successful answer to `poll` says; those who answer at once are not asked."""
        raise unreadable(self.title)

    def cancel(self, task: Task) -> Call | None:
        """The request that takes a task back, where the provider has one."""
        return None

    def failure(self, answer: Answer) -> HostedError:
        """What an answer with a status of 300 or more says."""
        return by_status(self.title, self.key_name, answer)

    def require(self, job: Job) -> Model:
        """The model, after a look at what this provider takes. ValueError says what it does not."""
        model = self.models[job.model]
        most = 1 if job.model == "dev" else self.most_pictures
        if len(job.pictures) > most:
            raise ValueError(
                f"references: {len(job.pictures)} are connected; {self.title} takes {most} for [{job.model}]. "
                "Disconnect some, or choose Black Forest Labs, which takes 4."
            )
        if self.ratios is not None and not job.ratio.of_picture and str(job.ratio) not in self.ratios:
            takes = ", ".join(self.ratios) or "none but that of the picture"
            raise ValueError(f"ratio: {job.ratio} is not one of {self.title}'s: {takes}. Choose one of them.")
        return model

    def own_options(self, job: Job) -> dict[str, object]:
        """The options that go along; [dev] has none of them."""
        return {} if job.model == "dev" else {name: job.options[name] for name in self.options}

    def gone(self, said: str) -> HostedError:
        return HostedError(EXPIRED, f"{self.title} has no result for this request ({said}).")

    def read_base64(self, identity: str, content: object, seed: int | None = None) -> Result:
        """A picture that came in the answer itself, bare or as a data URI."""
        try:
            text = str(content).rpartition("base64,")[2]
            return Result(identity, content=base64.b64decode(text, validate=True), seed=seed)
        except binascii.Error:
            raise unreadable(self.title) from None
