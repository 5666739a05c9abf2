"""Errors of hosted models: cases that the client acts on, and messages for the user."""

from __future__ import annotations

from typing import Any

from .wire import Answer

BAD_KEY = "bad key"
NO_CREDITS = "no credits"
REFUSED = "refused"  # the provider rejects this request
TOO_MANY = "too many"
INPUT_MODERATED = "input moderated"
OUTPUT_MODERATED = "output moderated"
EITHER_MODERATED = "input or output moderated"
EXPIRED = "expired"
FAILED = "failed"  # the provider accepted the task and gave up on it
NO_PICTURE = "no picture"
DOWN = "provider down"
BROKEN = "broken connection"  # after the request was sent
UNREADABLE = "unreadable answer"
NO_NETWORK = "no network"  # before anything was sent
CLOCK = "clock"
REDIRECT = "redirect"
FOREIGN = "foreign address"
UNKNOWN = "unknown outcome"  # a request was sent and may have been accepted
JOURNAL = "journal"
TIME = "time limit"

MODERATED = (INPUT_MODERATED, OUTPUT_MODERATED, EITHER_MODERATED)
TERMINAL = (*MODERATED, EXPIRED, FAILED, REFUSED)  # of an accepted request: there will be no picture
FATAL = (BAD_KEY, NO_CREDITS, REFUSED, INPUT_MODERATED, NO_NETWORK, CLOCK, REDIRECT, FOREIGN, JOURNAL)
"""The next picture of a batch would fail in the same way."""
TRANSIENT = (TOO_MANY, DOWN, BROKEN, UNREADABLE, NO_NETWORK, NO_PICTURE)  # retrying a read costs nothing
NOT_SENT = (NO_NETWORK, CLOCK)
NOT_ACCEPTED = (*NOT_SENT, *MODERATED, BAD_KEY, NO_CREDITS, REFUSED, TOO_MANY, REDIRECT)  # answers to a submission

LONGEST_DETAIL = 300  # characters of the provider's message; some echo our pictures
DEEPEST_DETAIL = 8  # levels of JSON that are searched for a message


class HostedError(ValueError):
    """A failed request.

    case          one of the names above
    text          what happened
    consequence   its effect on the user's money and picture, and what to do
    retry_after   seconds until the next attempt, if the provider said so
    """

    def __init__(self, case: str, text: str, consequence: str = "", retry_after: float | None = None):
        super().__init__(f"{text} {consequence}".strip())
        self.case = case
        self.text = text
        self.consequence = consequence
        self.retry_after = retry_after


def by_status(title: str, key_name: str, answer: Answer, submitting: bool) -> HostedError:
    """The error for an HTTP status, with the message that fits most providers.

    submitting   whether it answers a new request, and not a query about an accepted one
    """
    said = detail(answer.content)
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
    if status in (404, 410) and not submitting:
        return HostedError(
            EXPIRED, f"{title} does not know this request (any more) ({status}). Results are kept for a limited time."
        )
    if status == 429:
        return HostedError(
            TOO_MANY, f"{title} has too many requests of this account ({status}{said and ': ' + said}). Wait a while."
        )
    if status >= 500 or status in (408, 425):
        return HostedError(DOWN, f"{title} has a problem of its own ({status}{said and ': ' + said}).")
    return HostedError(REFUSED, f"{title} refused the request ({status}): {said or 'it gave no reason'}.")


def moderated(title: str, case: str, said: str, charged: str = "") -> HostedError:
    """case: one of MODERATED; charged: information about the price, or ""."""
    thing = {
        INPUT_MODERATED: "instruction or a picture",
        OUTPUT_MODERATED: "result",
        EITHER_MODERATED: "instruction, a picture or the result",
    }[case]
    text = f"{title} moderated the {thing}{said and ' (' + said + ')'}."
    advice = "Change the instruction or the pictures, or have 'moderated' give the source picture back."
    return HostedError(case, " ".join(f"{text} {charged} {advice}".split()))


def failed(title: str, said: str) -> HostedError:
    """The provider accepted the task and gave up on it; said: its message, or ""."""
    return HostedError(FAILED, f"{title} could not make the picture: {said or 'it gave no reason'}.")


def unreadable(title: str) -> HostedError:
    """An answer that is not what the provider documents."""
    return HostedError(UNREADABLE, f"{title} answered something that this node does not understand.")


def detail(content: Any) -> str:
    """The provider's message in the parsed body of an error, shortened; "" if there is none."""
    said = _words(content, DEEPEST_DETAIL)
    return said if len(said) <= LONGEST_DETAIL else said[: LONGEST_DETAIL - 4] + " ..."


def _words(said: Any, depth: int) -> str:
    """FastAPI's {"detail": [{"loc", "msg"}]}, {"error": {"message"}}, {"errors": [...]}, {"title", "detail"}."""
    if isinstance(said, str):
        return said
    if depth == 0:
        return ""
    if isinstance(said, list):
        return "; ".join(words for item in said if (words := _words(item, depth - 1)))
    if not isinstance(said, dict):
        return ""
    if "msg" in said:
        place = said.get("loc")
        field = ".".join(map(str, place)) if isinstance(place, list) else ""
        return f"{field}: {said['msg']}" if field else str(said["msg"])
    for key in ("detail", "errors", "error", "details", "message", "Moderation Reasons", "title", "status"):
        if words := _words(said.get(key), depth - 1):
            field = said.get("parameter")
            return f"{field}: {words}" if isinstance(field, str) else words
    return ""
