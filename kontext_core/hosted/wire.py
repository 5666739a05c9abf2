"""Data types of requests to a provider and of its answers, independent of the transport.

`parse` and `checked` are the boundary at which everything that a provider sends is validated.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from urllib.parse import quote

LONGEST_ID = 200  # characters
LONGEST_ADDRESS = 8000  # characters; signed ones have some hundreds
MOST_DOLLARS = 1000.0  # of one picture
_NAMED = re.compile(r'"(?:id|request_id|taskUUID)"\s*:\s*"?(?!null|true|false)([\w.:-]{1,200})')


class Sent(NamedTuple):
    """An encoded picture to send."""

    width: int
    height: int
    size: int  # bytes of the PNG
    text: str  # the PNG in base64
    note: str  # what was changed to make it fit; "" for nothing

    @property
    def data_uri(self) -> str:
        return "data:image/png;base64," + self.text


class Ratio(NamedTuple):
    """An aspect ratio in whole numbers."""

    width: int
    height: int
    of_picture: bool = False  # taken from the first picture instead of chosen

    def __str__(self) -> str:
        return f"{self.width}:{self.height}"


@dataclass(frozen=True)
class Job:
    """One requested picture."""

    model: str  # a name in the provider's `models`
    instruction: str
    pictures: tuple[Sent, ...]
    ratio: Ratio
    seed: int
    output_format: str  # "png", "jpeg" or "webp"
    options: Mapping[str, Any] = field(default_factory=dict)  # region, bill_to, and names of `Model.settings`

    def request_hash(self, provider: str) -> str:
        """A hash that identifies this request; its content cannot be recovered from it."""
        pictures = [picture.text for picture in self.pictures]
        content = [provider, self.model, self.instruction, pictures, list(self.ratio), self.seed]
        content += [self.output_format, dict(sorted(self.options.items()))]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()


class Call(NamedTuple):
    """An HTTP request; the client adds the key."""

    method: str
    url: str
    json: Any = None
    file: bytes = b""  # a PNG to upload as the multipart field `content`, instead of `json`


class Answer(NamedTuple):
    status: int
    headers: Mapping[str, str]
    content: Any  # the parsed JSON; None if the body was not JSON
    id: str = ""  # the first id in the body, found even in a body that cannot be parsed

    def json(self) -> dict[str, Any]:
        """The content as an object; ValueError if it is none."""
        if not isinstance(self.content, dict):
            raise ValueError(f"the answer is {type(self.content).__name__}, not an object")
        return self.content


class Task(NamedTuple):
    """An accepted request: everything needed to poll for its result, even after a restart."""

    id: str
    address: str  # address to poll
    cancel: str = ""  # address to cancel it; "" if not supported
    cost: float | None = None  # USD, if the provider said so


class Waiting(NamedTuple):
    task: Task
    state: str  # "queued" or "running"
    fraction: float | None = None  # completed, 0..1
    soon: bool = False  # the next query need not wait


class Result(NamedTuple):
    """A finished picture: its address, or its bytes."""

    id: str
    url: str = ""
    content: bytes = b""
    seed: int | None = None
    cost: float | None = None  # USD, if the provider said so


Outcome = Waiting | Result


def parse(status: int, headers: Mapping[str, str], body: bytes, secret: str) -> Answer:
    """An answer as received. The secret is removed before anything is read, shortened or shown.

    A body that is not JSON or too deep gives the content None, as does a value that is not a number (NaN, Infinity).
    """
    forms = {secret, quote(secret, safe="")}
    try:
        content = json.loads(body, parse_constant=lambda name: None)
        text = json.dumps(content, ensure_ascii=False)  # undoes escapes, which could hide the secret
        if any(json.dumps(form)[1:-1] in text for form in forms):
            content = json.loads(redacted(text, {json.dumps(form)[1:-1] for form in forms}))
    except (ValueError, RecursionError):
        content = None
    named = _NAMED.search(redacted(body[:10_000].decode(errors="replace"), forms))
    headers = {name: redacted(value, forms) for name, value in headers.items()}
    return Answer(status, headers, content, named[1] if named else "")


def redacted(text: str, secrets: Collection[str]) -> str:
    """The text with *** for each secret."""
    for secret in secrets:
        text = text.replace(secret, "***")
    return text


def checked(outcome: Outcome) -> Outcome:
    """The outcome that a provider's module read from an answer, with every field validated in type and bounds.

    Optional information (cost, seed, fraction, the address for cancelling) is dropped if it is unusable; ValueError for
    an invalid id or address.
    """
    if isinstance(outcome, Waiting):
        task = outcome.task
        cancel = task.cancel if isinstance(task.cancel, str) and len(task.cancel) <= LONGEST_ADDRESS else ""
        task = Task(_id(task.id), _address(task.address), cancel, _number(task.cost, MOST_DOLLARS))
        return outcome._replace(task=task, fraction=_number(outcome.fraction, 1.0))
    seed = outcome.seed if isinstance(outcome.seed, int) and 0 <= outcome.seed < 1 << 64 else None
    cost = _number(outcome.cost, MOST_DOLLARS)
    url = outcome.url if outcome.content else _address(outcome.url)
    if not (url or outcome.content):
        raise ValueError("no picture in the answer")
    return outcome._replace(id=_id(outcome.id), url=url, seed=seed, cost=cost)


def _id(value: object) -> str:
    """An id as text: some providers use numbers, and those who answer at once may omit it."""
    if isinstance(value, bool) or not isinstance(value, (str, int)) or len(str(value)) > LONGEST_ID:
        raise ValueError("an id that is none")
    return str(value)


def _address(value: object) -> str:
    if not isinstance(value, str) or len(value) > LONGEST_ADDRESS:
        raise ValueError("an address that is none")
    return value


def _number(value: object, most: float) -> float | None:
    """A number from 0 to `most`; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if 0 <= value <= most else None
