"""What goes to a provider and what comes back, without saying how it travels."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple


class Sent(NamedTuple):
    """A picture as it is sent."""

    width: int
    height: int
    size: int  # bytes of the PNG
    text: str  # the PNG in base64
    note: str  # what was done to make it fit; "" for nothing

    @property
    def data_uri(self) -> str:
        return "data:image/png;base64," + self.text


class Ratio(NamedTuple):
    """A shape in whole numbers."""

    width: int
    height: int
    of_picture: bool = False  # taken from the first picture, not chosen

    def __str__(self) -> str:
        return f"{self.width}:{self.height}"


@dataclass(frozen=True)
class Job:
    """One picture to be made."""

    model: str  # a name in the provider's `models`
    instruction: str
    pictures: tuple[Sent, ...]
    ratio: Ratio
    seed: int
    output_format: str  # "png" or "jpeg"
    options: Mapping[str, Any] = field(default_factory=dict)  # region, safety_tolerance, prompt_upsampling

    def mark(self, provider: str) -> str:
        """A name for this very request, from which nothing of it can be read."""
        pictures = [picture.text for picture in self.pictures]
        content = [provider, self.model, self.instruction, pictures, list(self.ratio), self.seed]
        content += [self.output_format, dict(sorted(self.options.items()))]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()


class Call(NamedTuple):
    """An HTTP request; the client adds the key."""

    method: str
    url: str
    json: Any = None


class Answer(NamedTuple):
    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> dict[str, Any]:
        """The body as an object; ValueError when it is none."""
        content = json.loads(self.body)
        if not isinstance(content, dict):
            raise ValueError(f"the answer is {type(content).__name__}, not an object")
        return content


class Task(NamedTuple):
    """An accepted request: what is needed to ask for its result, also after a restart."""

    id: str
    address: str  # where to ask
    cancel: str = ""  # where to take it back; "" where that is impossible
    cost: float | None = None  # USD, if the provider said so


class Waiting(NamedTuple):
    task: Task
    state: str  # "queued" or "running"
    fraction: float | None = None  # done, 0..1
    soon: bool = False  # the next question need not wait


class Result(NamedTuple):
    """A finished picture: where it lies, or its bytes."""

    id: str
    url: str = ""
    content: bytes = b""
    seed: int | None = None
    cost: float | None = None  # USD, if the provider said so


Outcome = Waiting | Result
