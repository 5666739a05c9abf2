"""Several pictures at once, never more than a provider lets an account have, and what became of each."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from . import errors
from .client import Client, Edited
from .errors import HostedError
from .wire import Job


class Batch:
    """`done[i]` is what became of job i, or None; it can be read while `run` is under way and after it stopped."""

    def __init__(self, client: Client, jobs: Sequence[Job], places: asyncio.Semaphore):
        self.jobs = jobs
        self.done: list[Edited | HostedError | None] = [None] * len(jobs)
        self._client = client
        self._places = places  # as many as tasks may be active; shared by all batches of the account
        self._states: dict[int, tuple[str, float | None]] = {}
        self._hopeless: HostedError | None = None

    async def run(self) -> None:
        """Until every job has an outcome. Cancelled, it leaves no task behind."""
        tasks = [asyncio.create_task(self._one(number)) for number in range(len(self.jobs))]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _one(self, number: int) -> None:
        async with self._places:
            if self._hopeless:  # what stopped another would stop this one too: it is not sent
                self.done[number] = self._hopeless
                return
            try:
                self.done[number] = await self._client.edit(
                    self.jobs[number],
                    lambda state, fraction: self._states.__setitem__(number, (state, fraction)),
                )
            except HostedError as error:
                self.done[number] = error
                if error.case in errors.HOPELESS:
                    self._hopeless = error
            finally:
                self._states.pop(number, None)

    def progress(self) -> tuple[float, str]:
        """The part done, 0..1, and a line for the user."""
        finished = sum(outcome is not None for outcome in self.done)
        states = list(self._states.values())
        part = (finished + sum(fraction or 0 for _, fraction in states)) / len(self.jobs)
        queued = sum(state == "queued" for state, _ in states)
        words = [f"{finished} of {len(self.jobs)} done"] if len(self.jobs) > 1 else []
        words += [f"{queued} queued"] if queued else []
        words += [f"{len(states) - queued} running"] if len(states) > queued else []
        return part, ", ".join(words) + (f" ({part:.0%})" if part else "")
