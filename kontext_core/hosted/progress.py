"""The progress of one picture and its consequence for the user's money, worded the same for every kind of failure."""

from __future__ import annotations

from dataclasses import dataclass

from . import errors
from .wire import Task


@dataclass
class Progress:
    """The state of one request; it stays readable after the run was cancelled."""

    title: str  # the provider's
    state: str = ""  # "queued", "running", or "" before it was accepted
    fraction: float | None = None  # completed, 0..1
    sent: bool = False  # it was sent, and no answer said that it was rejected
    id: str = ""  # the provider's id, once known
    task: Task | None = None  # accepted, or with our own id: it can be polled
    journaled: bool = False  # the next run will find the task
    picture: str = ""  # address of the picture
    earlier: str = ""  # the fate of an earlier request with the same settings

    def accept(self, task: Task, journaled: bool) -> None:
        self.sent, self.id, self.task, self.journaled = True, task.id, task, journaled

    def refuse(self) -> None:
        """It was definitely not accepted."""
        self.sent, self.task, self.journaled = False, None, False

    def restart(self, earlier: str) -> None:
        """An earlier request turned out to have no picture: start a new one."""
        self.refuse()
        self.state, self.fraction, self.id, self.picture, self.earlier = "", None, "", "", earlier

    def consequence(self, case: str) -> str:
        """The consequence of ending with `case` (of errors.py) for the user: money, picture, what to do."""
        return " ".join(part for part in (self._consequence(case), self.earlier) if part)

    def _consequence(self, case: str) -> str:
        if not self.sent:
            return "Nothing was sent." if case in (*errors.NOT_SENT, errors.JOURNAL) else ""
        named = f"Request {self.id}" if self.id else "The request"
        if self.task is None:
            return (
                f"{named} may have been accepted and charged, so it is not sent again by itself. Look at your account "
                f"at {self.title} before you run again, which sends and pays for a new one."
            )
        if case in errors.TERMINAL:
            return f"({named} at {self.title}.)"
        if self.journaled:
            return (
                f"{named} may have been charged: run again with the same settings, and it is asked for again, not "
                "paid for again. To pay for a new one instead, change the seed."
            )
        place = f"the picture lies at {self.picture}" if self.picture else f"its state is at {self.task.address}"
        return (
            f"{named} may have been charged and could not be noted in the journal, so that the next run pays again. "
            f"To fetch it by hand: {place}."
        )
