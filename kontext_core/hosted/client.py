"""Send one request to a provider, poll for its result and download it.

- The key is sent over https only to the provider's own hosts, even if an answer names the address, and never with a
  download. Redirects of requests with the key are not followed. The key is removed from every answer on arrival.
- A request for a picture is repeated only if it was certainly not accepted: there was no connection, or the provider
  said "too many requests" (429). Status queries and downloads cost nothing and are repeated. Pauses grow
  exponentially, or are as long as the provider asks for.
- A request is in the journal before it is sent, and its task before it is polled. Without a journal nothing is sent.
- Any fault in an answer becomes a HostedError that states the consequence for the request (`progress.py`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from email.utils import parsedate_to_datetime
from typing import NamedTuple, TypeVar
from urllib.parse import quote

import aiohttp
from yarl import URL

from . import errors
from .errors import HostedError
from .journal import Entry, Journal
from .network import Received, Timeouts, exchange, safe_address, unsafe
from .pictures import Read, read_picture
from .progress import Progress
from .provider import Provider
from .wire import Answer, Call, Job, Outcome, Result, Task, Waiting, checked, parse, redacted

MOST_BYTES = 32 << 20  # size limit of a picture; one of a megapixel has at most 6 MB
MOST_WORDS = 1 << 20  # size limit of an answer without a picture, bytes
MOST_REDIRECTS = 3  # of a download
CLOCK_TOLERANCE = 300  # s
T = TypeVar("T")


class Timing(NamedTuple):
    """In seconds, except `attempts`."""

    poll: float = 0.25  # the first pause between status queries
    poll_most: float = 1.5
    backoff: float = 1.0  # the first pause after a transient error; doubled each time
    attempts: int = 4  # of anything that may be repeated
    patience: float = 300.0  # total limit of the pauses that the provider asks for
    connect: float = 10.0
    read_timeout: float = 60.0  # without a byte of an answer
    read_timeout_at_once: float = 300.0  # the same where the answer is the picture
    cancel_timeout: float = 0.5  # for cancelling a task when the run is cancelled


class Edited(NamedTuple):
    content: bytes  # as received
    picture: Read  # the same, decoded
    id: str
    seconds: float
    cost: float | None  # USD, if the provider said so
    seed: int | None  # if the provider said so
    resumed: bool  # found in the journal: nothing was sent
    earlier: str  # the fate of an earlier request with the same settings, if it was lost


class Order(NamedTuple):
    """One picture in progress."""

    job: Job
    entry: Entry  # its journal entry, held exclusively
    progress: Progress


class Delivered(NamedTuple):
    result: Result
    content: bytes
    picture: Read


class Client:
    """A client for one provider and one key. Its only state is a session, so it can handle many requests at once."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        provider: Provider,
        key: str,
        journal: Journal,
        timing: Timing = Timing(),  # noqa: B008 - immutable
    ):
        self._session = session
        self._provider = provider
        self._key = key
        self._journal = journal
        self._timing = timing

    async def edit(self, job: Job, progress: Progress | None = None) -> Edited:
        """One picture; `progress` reports the state, even after cancellation.

        Raises HostedError, whose text never contains the key, for everything except a bad job, which is a ValueError.
        """
        progress = progress or Progress(self._provider.title)
        self._provider.submit(job)  # reports what this provider does not accept
        try:
            return await self._edit(job, progress)
        except HostedError as error:
            case, text, consequence = error.case, error.text, error.consequence
        except Exception as error:  # noqa: BLE001 - another failure must not cost the other pictures of a batch
            case, text, consequence = errors.UNKNOWN, f"this node failed ({type(error).__name__}: {error}).", ""
        consequence = consequence or progress.consequence(case)
        raise HostedError(case, self._redacted(text), self._redacted(consequence))

    async def _edit(self, job: Job, progress: Progress) -> Edited:
        started = time.monotonic()
        async with self._journal.claim(job.request_hash(self._provider.title), self._key) as entry:
            order = Order(job, entry, progress)
            found = await self._resume(entry.task, order) if entry.task else None
            if entry.unanswered:
                raise self._unanswered(entry)
            result, content, picture = found or await self._begin(order)
        seconds = time.monotonic() - started
        resumed = found is not None
        return Edited(content, picture, result.id, seconds, result.cost, result.seed, resumed, progress.earlier)

    async def _resume(self, task: Task, order: Order) -> Delivered | None:
        """The picture of a request that was accepted earlier; None if the provider no longer has it."""
        _, entry, progress = order
        delivered = entry.delivered
        progress.accept(task, journaled=True)
        try:
            return await self._finish(Waiting(task, "queued", soon=True), order)
        except HostedError as error:
            of_another_key = not entry.same_key and error.case == errors.BAD_KEY
            if error.case not in (errors.EXPIRED, errors.FAILED, errors.REFUSED) and not of_another_key:
                raise
            lost = "" if delivered else f"An earlier request, {task.id}, is lost: {error.text}"
        entry.forget()
        progress.restart(lost)
        return None

    def _unanswered(self, entry: Entry) -> HostedError:
        entry.forget()
        return HostedError(
            errors.UNKNOWN,
            "an earlier run with the same settings ended after this request had been sent and before it was answered.",
            f"It may have been accepted and charged: check your account at {self._provider.title}. Run again to send "
            "and pay for a new one.",
        )

    async def _begin(self, order: Order) -> Delivered:
        """A new request, from its journal entry to its picture."""
        _, entry, progress = order
        entry.reserve()
        try:
            outcome = await self._submit(order)
            if isinstance(outcome, Waiting) and outcome.task != progress.task:
                progress.accept(outcome.task, journaled=False)
                self._require_own(outcome.task.address)
                progress.journaled = entry.remember(outcome.task)
        except BaseException:  # the user is informed; only a run that is killed leaves the "sent" entry behind
            if not progress.journaled:
                entry.forget()
            raise
        return await self._finish(outcome, order)

    async def _submit(self, order: Order) -> Outcome:
        """Send the request that costs money. It is repeated only after a definite rejection."""
        job, entry, progress = order
        uploaded = [await self._upload(call, job) for call in self._provider.uploads(job)]
        call = self._provider.submit(job, uploaded)
        own = self._provider.own_task(call)
        if own and not entry.remember(own):
            raise HostedError(errors.JOURNAL, "the journal of paid requests cannot be written.")
        try:
            repeated = (errors.TOO_MANY, errors.NO_NETWORK)
            return await self._repeated(lambda: self._post(call, job, own, progress), repeated)
        except HostedError as error:
            if own and progress.sent:  # the answer was lost, but not the id: query whether it was accepted
                return await self._ask_after(error, own, order)
            raise

    async def _ask_after(self, lost: HostedError, task: Task, order: Order) -> Outcome:
        try:
            return await self._repeated(lambda: self._ask(task, order.job), errors.TRANSIENT)
        except HostedError as error:
            if error.case != errors.EXPIRED:
                raise
        order.progress.refuse()
        said = f"{self._provider.title} does not know the request, which therefore was not accepted."
        raise HostedError(lost.case, lost.text, said)

    async def _post(self, call: Call, job: Job, own: Task | None, progress: Progress) -> Outcome:
        progress.sent = True
        if own:
            progress.accept(own, journaled=True)
        try:
            answer = await self._send(call, job)
            progress.id = progress.id or answer.id
            outcome = self._read(answer, self._provider.accepted, submitting=True)
            return outcome._replace(task=own) if own and isinstance(outcome, Waiting) else outcome
        except HostedError as error:
            if error.case in errors.NOT_ACCEPTED:
                progress.refuse()
            raise

    async def _upload(self, call: Call, job: Job) -> str:
        async def attempt() -> str:
            return self._read(await self._send(call, job), self._provider.uploaded, submitting=True)

        return await self._repeated(attempt, errors.TRANSIENT)

    async def _finish(self, outcome: Outcome, order: Order) -> Delivered:
        """Fetch the picture of an outcome; the journal drops a task that will have none."""
        entry = order.entry
        try:
            result = await self._wait(outcome, order)
            order.progress.picture = result.url
            if result.content:
                entry.forget()  # the picture came with the answer: there is nothing to poll
                return Delivered(result, result.content, await asyncio.to_thread(read_picture, result.content))
            content, picture = await self._repeated(lambda: self._download(result.url), errors.TRANSIENT)
        except HostedError as error:
            if error.case in errors.TERMINAL:
                entry.forget()
            raise
        entry.deliver()
        return Delivered(result, content, picture)

    async def _wait(self, outcome: Outcome, order: Order) -> Result:
        """Poll until there is a result. If cancelled, cancels the task if the provider supports it."""
        job, entry, progress = order
        pause = self._timing.poll
        while isinstance(outcome, Waiting):
            progress.state, progress.fraction = outcome.state, outcome.fraction
            task = outcome.task
            try:
                if not outcome.soon:
                    await asyncio.sleep(pause)
                    pause = min(1.3 * pause, self._timing.poll_most)
                outcome = await self._repeated(lambda task=task: self._ask(task, job), errors.TRANSIENT)
            except asyncio.CancelledError:
                await self._cancel(task, job)
                raise
            if entry.delivered and isinstance(outcome, Waiting) and not outcome.soon:
                raise self._provider.gone("it was delivered once and is not there any more")
        return outcome

    async def _ask(self, task: Task, job: Job) -> Outcome:
        answer = await self._send(self._provider.poll(task), job)
        return self._read(answer, lambda answer: self._provider.polled(answer, task), submitting=False)

    async def _cancel(self, task: Task, job: Job) -> None:
        """Best effort: the next run polls for the result and so sees whether the cancellation was in time."""
        if call := self._provider.cancel(task):
            with suppress(HostedError, TimeoutError):
                await asyncio.wait_for(self._send(call, job), self._timing.cancel_timeout)

    def _read(self, answer: Answer, read: Callable[[Answer], T], submitting: bool) -> T:
        """Parse an answer. Any fault in it becomes a HostedError here."""
        try:
            if answer.status >= 300:
                raise self._provider.failure(answer, submitting)
            found = read(answer)
            return checked(found) if isinstance(found, (Waiting, Result)) else found  # type: ignore[return-value]
        except HostedError as error:
            pause = self._provider.retry_after(answer) if error.case in errors.TRANSIENT else None
            asked = "" if pause is None else f" It asks for a pause of {pause:.0f} s."
            raise HostedError(error.case, error.text + asked, retry_after=pause) from None
        except Exception:  # noqa: BLE001 - a provider can send anything
            raise errors.unreadable(self._provider.title) from None

    async def _repeated(self, attempt: Callable[[], Awaitable[T]], cases: tuple[str, ...]) -> T:
        """Repeat attempts that fail with one of `cases`: a few times, or as often as the provider names a pause."""
        failures, waited = 0, 0.0
        while True:
            try:
                return await attempt()
            except HostedError as error:
                failures += error.retry_after is None
                own_pause = self._timing.backoff * 2 ** max(0, failures - 1)
                pause = own_pause if error.retry_after is None else max(error.retry_after, self._timing.backoff)
                waited += pause if error.retry_after is not None else 0
                if error.case not in cases or failures >= self._timing.attempts or waited > self._timing.patience:
                    raise
            await asyncio.sleep(pause)

    async def _send(self, call: Call, job: Job) -> Answer:
        """Send a request with the key. HostedError for a host that is not the provider's."""
        url = self._require_own(call.url)
        at_once = self._provider.answers_at_once
        most = 2 * MOST_BYTES if at_once else MOST_WORDS  # base64 and the JSON around it
        silence = self._timing.read_timeout_at_once if at_once else self._timing.read_timeout
        headers = self._provider.headers(self._key, job.options)
        body = {"data": _form(call.file)} if call.file else {"json": call.json}
        timeouts = Timeouts(self._timing.connect, silence)
        received = await exchange(self._session, call.method, url, most, timeouts, headers=headers, **body)
        return parse(received.status, received.headers, received.body, self._key)

    async def _download(self, address: str) -> tuple[bytes, Read]:
        """A picture's bytes, downloaded without the key, and the decoded picture."""
        url = self._picture_address(address)
        timeouts = Timeouts(self._timing.connect, self._timing.read_timeout)
        for _ in range(1 + MOST_REDIRECTS):
            received = await exchange(self._session, "GET", url, MOST_BYTES, timeouts)
            target = received.headers.get("Location")
            if not (300 <= received.status < 400 and target):
                content = self._fetched(received)
                return content, await asyncio.to_thread(read_picture, content)
            url = self._picture_address(target, str(url))
        raise HostedError(errors.REDIRECT, f"the picture's address redirects more than {MOST_REDIRECTS} times.")

    def _fetched(self, received: Received) -> bytes:
        if received.status == 200:
            return received.body
        if received.status == 403 and (minutes := _clock_error(received)):
            raise HostedError(
                errors.CLOCK,
                f"the picture's address was refused, and this computer's clock is {minutes:.0f} minutes off. Set it.",
            )
        if received.status in (401, 403, 404, 410):
            text = f"the result has expired ({received.status}); {self._provider.title} keeps it for a limited time."
            raise HostedError(errors.EXPIRED, text)
        raise HostedError(errors.DOWN, f"the picture's server has a problem ({received.status}).")

    def _require_own(self, address: str) -> URL:
        """Guard of the key: an https address at the default port of one of the provider's own hosts."""
        with suppress(ValueError):
            url = safe_address(address)
            host = url.host or ""
            if any(host == name or host.endswith("." + name) for name in self._provider.hosts):
                return url
        raise unsafe(self._provider.title, address, "this request")

    def _picture_address(self, address: str, base: str = "") -> URL:
        try:
            return safe_address(address, base)
        except ValueError:
            raise unsafe(self._provider.title, address, "the picture") from None

    def _redacted(self, text: str) -> str:
        return redacted(text, {self._key, quote(self._key, safe="")})


def _form(file: bytes) -> aiohttp.FormData:
    form = aiohttp.FormData()
    form.add_field("content", file, filename="reference.png", content_type="image/png")
    return form


def _clock_error(received: Received) -> float:
    """The difference between this computer's clock and the server's in minutes; 0 if tolerable or unknown."""
    with suppress(KeyError, TypeError, ValueError):
        seconds = abs(time.time() - parsedate_to_datetime(received.headers["Date"]).timestamp())
        return seconds / 60 if seconds > CLOCK_TOLERANCE else 0
    return 0
