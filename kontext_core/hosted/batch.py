"""Several pictures at once, within a provider's limit on an account's active tasks, and their outcomes."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from . import errors
from .client import Client, Edited
from .errors import HostedError
from .progress import Progress
from .wire import Job


class Batch:
    """`done[i]` is the outcome of job i, or None, and `under_way[i]` its progress; both can be read while `run` is
    running and after it stopped."""

    def __init__(self, client: Client, jobs: Sequence[Job], title: str, places: asyncio.Semaphore):
        self.jobs = jobs
        self.done: list[Edited | HostedError | None] = [None] * len(jobs)
        self.under_way = [Progress(title) for _ in jobs]
        self._client = client
        self._places = places  # slots for active tasks, shared by all batches of the account
        self._fatal: HostedError | None = None

    async def run(self) -> None:
        """Run until every job has an outcome. If cancelled, leaves no task behind."""
        tasks = [asyncio.create_task(self._one(number)) for number in range(len(self.jobs))]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _one(self, number: int) -> None:
        async with self._places:
            if self._fatal:  # the same error would stop this picture too
                self.done[number] = HostedError(
                    self._fatal.case, f"not sent, because another picture failed: {self._fatal.text}"
                )
                return
            try:
                self.done[number] = await self._client.edit(self.jobs[number], self.under_way[number])
            except HostedError as error:
                self.done[number] = error
                if error.case in errors.FATAL:
                    self._fatal = error

    def progress(self) -> tuple[float, str]:
        """The completed fraction, 0..1, and a line for the user."""
        finished = sum(outcome is not None for outcome in self.done)
        waiting = [each for each, done in zip(self.under_way, self.done, strict=True) if done is None and each.state]
        part = (finished + sum(each.fraction or 0 for each in waiting)) / len(self.jobs)
        queued = sum(each.state == "queued" for each in waiting)
        words = [f"{finished} of {len(self.jobs)} done"] if len(self.jobs) > 1 else []
        words += [f"{queued} queued"] if queued else []
        words += [f"{len(waiting) - queued} running"] if len(waiting) > queued else []
        return part, ", ".join(words) + (f" ({part:.0%})" if part else "")
