"""The progress of a batch: a bar on a terminal, else an occasional plain line."""

from __future__ import annotations

import sys
import time

EVERY = 10  # s between plain lines


class Progress:
    """Counts the rows finished in this run; `failed` of them have no file."""

    def __init__(self, total: int):
        self.total, self.done, self.failed = total, 0, 0
        self.started = self.shown = time.monotonic()
        self.bar = None
        if sys.stderr.isatty():
            from tqdm import tqdm

            self.bar = tqdm(total=total, unit="row", dynamic_ncols=True)

    def add(self, failed: bool) -> None:
        self.done += 1
        self.failed += failed
        if self.bar is not None:
            self.bar.set_postfix(failed=self.failed, refresh=False)
            self.bar.update()
        elif time.monotonic() - self.shown >= EVERY or self.done == self.total:
            self.shown = time.monotonic()
            self.say(self.line())

    def line(self) -> str:
        seconds = time.monotonic() - self.started
        rate = self.done / seconds if seconds else 0
        left = (self.total - self.done) / rate if rate else 0
        failed = f", {self.failed} failed" if self.failed else ""
        return f"{self.done} of {self.total} rows{failed}, {rate:.2f} rows/s, {duration(left)} left"

    def say(self, text: str) -> None:
        if self.bar is not None:
            self.bar.write(text)
        else:
            print(text, flush=True)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()


def duration(seconds: float) -> str:
    """For example "42 s", "3 min 5 s" or "2 h 10 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
