"""Carries one request to a provider, asks for its result and fetches it. Money and the key decide the rules.

- The key goes over https to the provider's own hosts only, also when the address comes from an answer, and never
  with a download. Redirects of requests with the key are not followed.
- A request for a picture is sent again only where it was certainly not accepted: the connection never stood, or the
  provider said "too many" (429). Questions and downloads cost nothing and are repeated, with growing pauses.
- The task is in the journal before it is asked for.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable
from contextlib import suppress
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple
from urllib.parse import urljoin

import aiohttp
from aiohttp.abc import AbstractResolver
from yarl import URL

from . import errors
from .errors import HostedError
from .journal import Journal
from .pictures import read_picture
from .provider import Provider
from .wire import Answer, Call, Job, Outcome, Result, Task, Waiting

MOST_BYTES = 32 << 20  # of a picture; one of a megapixel has at most 6 MB
MOST_WORDS = 1 << 20  # of an answer without one
MOST_REDIRECTS = 3  # of a download
CLOCK_TOLERANCE = 300  # s
CERTIFICATE_DATES = (9, 10)  # X509_V_ERR_CERT_NOT_YET_VALID, X509_V_ERR_CERT_HAS_EXPIRED
Report = Callable[[str, "float | None"], None]  # state, fraction done


class Timing(NamedTuple):
    """Seconds, but for `attempts`."""

    poll: float = 0.25  # the first pause between questions
    poll_most: float = 1.5
    backoff: float = 1.0  # the first pause after a passing error; doubled each time
    attempts: int = 4  # of anything that may be repeated
    connect: float = 10.0
    silence: float = 60.0  # without a byte of an answer
    silence_at_once: float = 300.0  # the same where the answer is the picture
    farewell: float = 0.5  # for taking a task back when the run is cancelled


class Edited(NamedTuple):
    content: bytes  # as received
    id: str
    seconds: float
    cost: float | None  # USD, if the provider said so
    seed: int | None  # if the provider said so
    resumed: bool  # found in the journal: nothing was sent


class NotSent(Exception):
    """The connection never stood; `error` says why."""

    def __init__(self, error: HostedError):
        self.error = error


class Broken(Exception):
    """The connection broke, or was silent for too long, after the request was sent."""


def open_session(
    resolver: AbstractResolver | None = None, trust: ssl.SSLContext | None = None
) -> aiohttp.ClientSession:
    """A session with this machine's names and certificates, unless others are given. Its caller closes it."""
    connector = aiohttp.TCPConnector(
        resolver=resolver or aiohttp.ThreadedResolver(), ssl=trust or ssl.create_default_context()
    )
    return aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())


class Client:
    """For one provider and one key. Its state is what a session has: it can carry many requests at once."""

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

    async def edit(self, job: Job, report: Report) -> Edited:
        """One picture. Raises HostedError, in whose text there is no key, and ValueError for a bad job."""
        started = time.monotonic()
        try:
            result, content, resumed = await self._edit(job, report)
        except HostedError as error:
            raise HostedError(error.case, str(error).replace(self._key, "***")) from None
        return Edited(content, result.id, time.monotonic() - started, result.cost, result.seed, resumed)

    async def _edit(self, job: Job, report: Report) -> tuple[Result, bytes, bool]:
        call, mark = self._provider.submit(job), job.mark(self._provider.title)
        if task := self._journal.find(mark):
            try:
                return *await self._finish(Waiting(task, "queued", soon=True), mark, report), True
            except HostedError as error:
                if error.case not in (errors.EXPIRED, errors.FAILED):
                    raise
        outcome = await self._submit(call)
        if isinstance(outcome, Waiting):
            self._require_own(outcome.task.address)
            self._journal.remember(mark, outcome.task)
        return *await self._finish(outcome, mark, report), False

    async def _finish(self, outcome: Outcome, mark: str, report: Report) -> tuple[Result, bytes]:
        """The journal forgets a task when its picture is here, and when there will be none."""
        try:
            result = await self._wait(outcome, report)
            content = result.content or await self._download(result.url)
            read_picture(content)
        except HostedError as error:
            if error.case in errors.OVER:
                self._journal.forget(mark)
            raise
        self._journal.forget(mark)
        return result, content

    async def _submit(self, call: Call) -> Outcome:
        """Sends the request that costs money. Only a certain "no" is answered by sending it again."""
        for attempt in range(1, self._timing.attempts + 1):
            try:
                return self._accepted(await self._send(call))
            except (NotSent, HostedError) as problem:
                error = problem.error if isinstance(problem, NotSent) else problem
                certain_no = isinstance(problem, NotSent) or error.case == errors.TOO_MANY
                if not certain_no or attempt == self._timing.attempts:
                    raise error from None
            except Broken:
                raise self._unknown("gave no whole answer") from None
            await self._pause(attempt)
        raise AssertionError("the last attempt returns or raises")

    def _accepted(self, answer: Answer) -> Outcome:
        if answer.status >= 300:
            error = self._provider.failure(answer)
            if error.case == errors.DOWN:
                raise HostedError(error.case, f"{error} It is not sent again: it may have been accepted.")
            raise error
        try:
            return self._provider.accepted(answer)
        except HostedError:
            raise
        except (KeyError, IndexError, TypeError, ValueError, AttributeError):
            raise self._unknown("gave an answer that this node does not understand") from None

    def _unknown(self, what: str) -> HostedError:
        return HostedError(
            errors.UNKNOWN,
            f"{self._provider.title} {what}. The request may have been accepted and charged, so it is not sent again "
            "by itself. Look at your account there before you run it again.",
        )

    async def _wait(self, outcome: Outcome, report: Report) -> Result:
        """Asks until there is a result. Cancelled, it takes the task back where the provider can do that."""
        pause = self._timing.poll
        while isinstance(outcome, Waiting):
            report(outcome.state, outcome.fraction)
            try:
                if not outcome.soon:
                    await asyncio.sleep(pause)
                    pause = min(1.3 * pause, self._timing.poll_most)
                outcome = await self._ask_patiently(outcome.task)
            except asyncio.CancelledError:
                await self._take_back(outcome.task)
                raise
        return outcome

    async def _ask_patiently(self, task: Task) -> Outcome:
        for attempt in range(1, self._timing.attempts + 1):
            try:
                return await self._ask(task)
            except HostedError as error:
                if error.case not in errors.PASSING or attempt == self._timing.attempts:
                    raise
            await self._pause(attempt)
        raise AssertionError("the last attempt returns or raises")

    async def _ask(self, task: Task) -> Outcome:
        provider = self._provider
        try:
            answer = await self._send(provider.poll(task))
            if answer.status >= 300:
                raise provider.failure(answer)
            return provider.polled(answer, task)
        except NotSent as problem:
            raise problem.error from None
        except Broken as problem:
            raise HostedError(errors.DOWN, f"{provider.title} did not answer ({problem}). Try again.") from None
        except HostedError:
            raise
        except (KeyError, IndexError, TypeError, ValueError, AttributeError):
            raise errors.unreadable(provider.title) from None

    async def _take_back(self, task: Task) -> None:
        """Best effort: whether it was in time shows at the next run, which asks for the result."""
        if call := self._provider.cancel(task):
            with suppress(HostedError, NotSent, Broken, asyncio.TimeoutError):
                await asyncio.wait_for(self._send(call), self._timing.farewell)

    async def _send(self, call: Call) -> Answer:
        """A request with the key. Raises NotSent, Broken, and HostedError for a host that is not the provider's."""
        url = self._require_own(call.url)
        headers = self._provider.headers(self._key)
        most = 2 * MOST_BYTES if self._provider.answers_at_once else MOST_WORDS  # base64 and the words around it
        return await self._exchange(call.method, url, most, headers=headers, json=call.json)

    async def _download(self, url: str) -> bytes:
        """A picture's bytes, without the key; repeated until they are a whole picture."""
        for attempt in range(1, self._timing.attempts + 1):
            try:
                content = await self._fetch(url)
                read_picture(content)
                return content
            except HostedError as error:
                if error.case not in errors.PASSING or attempt == self._timing.attempts:
                    raise
            await self._pause(attempt)
        raise AssertionError("the last attempt returns or raises")

    async def _fetch(self, address: str) -> bytes:
        url = self._address(address, "the picture")
        for _ in range(1 + MOST_REDIRECTS):
            try:
                answer = await self._exchange("GET", url, MOST_BYTES)
            except NotSent as problem:
                raise problem.error from None
            except Broken as problem:
                raise HostedError(errors.DOWN, f"the picture could not be fetched ({problem}).") from None
            target = answer.headers.get("Location")
            if not (300 <= answer.status < 400 and target):
                return self._fetched(answer)
            url = self._address(urljoin(str(url), target), "the picture")
        raise HostedError(errors.REDIRECT, f"the picture's address leads on more than {MOST_REDIRECTS} times.")

    def _fetched(self, answer: Answer) -> bytes:
        if answer.status == 200:
            return answer.body
        if answer.status == 403 and (minutes := _clock_error(answer)):
            raise HostedError(
                errors.CLOCK,
                f"the picture's address was refused, and this computer's clock is {minutes:.0f} minutes off. Set it.",
            )
        if answer.status in (401, 403, 404, 410):
            text = f"the result has expired ({answer.status}); {self._provider.title} keeps results for minutes."
            raise HostedError(errors.EXPIRED, text)
        raise HostedError(errors.DOWN, f"the picture's server has a problem ({answer.status}). Try again.")

    async def _exchange(self, method: str, url: URL, most: int, **options: Any) -> Answer:
        """One HTTP exchange; whether it failed before or after the request went out decides what is raised."""
        silence = self._timing.silence_at_once if self._provider.answers_at_once else self._timing.silence
        connect = self._timing.connect
        timeout = aiohttp.ClientTimeout(total=None, connect=None, sock_connect=connect, sock_read=silence)
        try:
            async with self._session.request(method, url, allow_redirects=False, timeout=timeout, **options) as answer:
                return Answer(answer.status, answer.headers, await _read(answer, most))
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise NotSent(self._no_connection(url, error)) from None
        except (aiohttp.ClientError, asyncio.TimeoutError) as error:
            raise Broken(type(error).__name__) from None

    def _no_connection(self, url: URL, error: Exception) -> HostedError:
        host = url.host
        cause = getattr(error, "certificate_error", None)
        if getattr(cause, "verify_code", None) in CERTIFICATE_DATES:
            return HostedError(
                errors.CLOCK, f"the certificate of {host} is not valid at this computer's time. Is the clock right?"
            )
        if isinstance(error, aiohttp.ClientSSLError):
            return HostedError(errors.NO_NETWORK, f"no safe connection to {host} ({type(error).__name__}).")
        text = f"no connection to {host} ({type(error).__name__}). Is this computer online? Nothing was sent."
        return HostedError(errors.NO_NETWORK, text)

    async def _pause(self, attempt: int) -> None:
        await asyncio.sleep(self._timing.backoff * 2 ** (attempt - 1))

    def _require_own(self, address: str) -> URL:
        """The key's guard: an https address at the usual port of one of the provider's own hosts."""
        url = self._address(address, "this request")
        host = url.host or ""
        if not any(host == name or host.endswith("." + name) for name in self._provider.hosts):
            raise self._foreign(address, "this request")
        return url

    def _address(self, address: str, what: str) -> URL:
        """https, port 443, no user name, visible ASCII only; as it was signed, not quoted anew."""
        try:
            url = URL(address, encoded=True)
            plain = url.scheme == "https" and url.port == 443 and url.user is None and bool(url.host)
        except ValueError:
            raise self._foreign(address, what) from None
        if not plain or not all("!" <= letter <= "~" and letter != "\\" for letter in address):
            raise self._foreign(address, what)
        return url

    def _foreign(self, address: str, what: str) -> HostedError:
        shown = address if len(address) < 60 else address[:60] + "..."
        return HostedError(
            errors.FOREIGN,
            f"{self._provider.title} named an address for {what} that is not safe to use: {shown!r}. Nothing was "
            "sent there. The request may have been charged; look at your account.",
        )


async def _read(answer: aiohttp.ClientResponse, most: int) -> bytes:
    content = bytearray()
    async for chunk in answer.content.iter_chunked(1 << 16):
        content += chunk
        if len(content) > most:
            answer.close()
            raise Broken(f"more than {most >> 20} MiB")
    return bytes(content)


def _clock_error(answer: Answer) -> float:
    """By how many minutes this computer's clock differs from the server's; 0 within tolerance or unknown."""
    with suppress(KeyError, TypeError, ValueError):
        seconds = abs(time.time() - parsedate_to_datetime(answer.headers["Date"]).timestamp())
        return seconds / 60 if seconds > CLOCK_TOLERANCE else 0
    return 0
