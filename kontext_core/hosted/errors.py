"""What can go wrong with a hosted model, each case with a name and a sentence for the user."""

from __future__ import annotations

import json
from typing import Any

from .wire import Answer

BAD_KEY = "bad key"
NO_CREDITS = "no credits"
REFUSED = "refused"  # fields that the provider does not take
TOO_MANY = "too many"
INPUT_MODERATED = "input moderated"
OUTPUT_MODERATED = "output moderated"
EXPIRED = "expired"
FAILED = "failed"  # the provider took the task and gave up on it
NO_PICTURE = "no picture"
DOWN = "provider down"
NO_NETWORK = "no network"
CLOCK = "clock"
REDIRECT = "redirect"
FOREIGN = "foreign address"
UNKNOWN = "unknown outcome"  # a request was sent and may have been accepted
TIME = "time limit"

MODERATED = (INPUT_MODERATED, OUTPUT_MODERATED)
OVER = (*MODERATED, EXPIRED, FAILED)  # nothing is left to be fetched
HOPELESS = (BAD_KEY, NO_CREDITS, REFUSED, NO_NETWORK, CLOCK)  # the next picture would fare the same
PASSING = (TOO_MANY, DOWN, NO_NETWORK, NO_PICTURE)  # worth another look: reading costs nothing

LONGEST_DETAIL = 300  # characters of the provider's own words; some send our pictures back


class HostedError(ValueError):
    """A failed request; `case` is one of the names above."""

    def __init__(self, case: str, text: str):
        super().__init__(text)
        self.case = case


def by_status(title: str, key_name: str, answer: Answer) -> HostedError:
    """The error that an HTTP status stands for, in the words that most providers share."""
    said = detail(answer.body)
    status = answer.status
    if 300 <= status < 400:
        return HostedError(
            REDIRECT, f"{title} sent the request on to another address ({status}), which is not followed."
        )
    if status in (401, 403) or (status == 422 and "key" in said.lower() and "header" in said.lower()):
        return HostedError(
            BAD_KEY,
            f"{title} does not accept the key ({status}{said and ': ' + said}). Check {key_name}, and that the "
            "key is for this service.",
        )
    if status == 402:
        return HostedError(NO_CREDITS, f"{title} says that the account has no credits (402). Add some there.")
    if status in (404, 410):
        return HostedError(
            EXPIRED, f"{title} does not know this request (any more) ({status}). Results are kept for minutes only."
        )
    if status == 429:
        return HostedError(
            TOO_MANY,
            f"{title} has too many tasks of this account at once (429). Wait for the others, or lower 'pictures'.",
        )
    if status >= 500:
        return HostedError(DOWN, f"{title} has a problem of its own ({status}{said and ': ' + said}). Try later.")
    return HostedError(REFUSED, f"{title} refused the request ({status}): {said or 'it gave no reason'}.")


def moderated(title: str, what: str, said: str, charged: str) -> HostedError:
    """what: "input" or "output"; charged: what is known of the price, or ""."""
    case = INPUT_MODERATED if what == "input" else OUTPUT_MODERATED
    thing = "instruction or a picture" if what == "input" else "result"
    text = f"{title} moderated the {thing}{said and ' (' + said + ')'}. {charged} Change the instruction or the "
    return HostedError(case, f"{' '.join(text.split())} pictures, or have 'moderated' give the source picture back.")


def unreadable(title: str) -> HostedError:
    """An answer that is not what the provider documents."""
    return HostedError(DOWN, f"{title} answered something that this node does not understand. Try later.")


def detail(body: bytes) -> str:
    """The provider's own words from an error's body, shortened; "" where there are none to read."""
    try:
        said = _words(json.loads(body))
    except ValueError:
        said = ""
    return said if len(said) <= LONGEST_DETAIL else said[: LONGEST_DETAIL - 4] + " ..."


def _words(said: Any) -> str:
    """FastAPI's {"detail": [{"loc", "msg"}]}, {"error": {"message"}}, {"errors": [...]}, {"title", "detail"}."""
    if isinstance(said, str):
        return said
    if isinstance(said, list):
        return "; ".join(words for item in said if (words := _words(item)))
    if not isinstance(said, dict):
        return ""
    if "msg" in said:
        return ": ".join((".".join(map(str, said.get("loc", ()))), str(said["msg"])))
    for key in ("detail", "errors", "error", "details", "message", "Moderation Reasons", "title", "status"):
        if words := _words(said.get(key)):
            field = said.get("parameter")
            return f"{field}: {words}" if isinstance(field, str) else words
    return ""
