"""Spending: what hosted nodes in a graph will cost, what they have cost, and the limit at which a batch stops."""

from __future__ import annotations

import re
from collections.abc import Sequence

from kontext_core.hosted import PROVIDERS

from . import Failure
from .graphs import Prompt
from .plan import Task

NODE = "KontextHosted"
PAID = re.compile(r"total \$(\d+(?:\.\d+)?)")


class Budget:
    """The spending limit in US dollars by the providers' price lists. `limit` None: nothing may be spent."""

    def __init__(self, limit: float | None):
        self.limit, self.spent = limit, 0.0

    def check(self, tasks: Sequence[Task]) -> float:
        """The cost of all tasks by the price lists. Raises Failure for tasks that cost more than is allowed."""
        costs = [cost(task.prompt) for task in tasks]
        total = sum(costs)
        if total and self.limit is None:
            raise Failure(
                f"the graph asks a provider for pictures: {len(tasks)} rows cost about ${total:.2f}. Nothing was sent; "
                "--spend LIMIT allows so much, in US dollars",
                code=2,
            )
        return total

    def reserve(self, task: Task) -> str | None:
        """Reserve the price of a task before it is sent; returns a message if the limit does not allow it."""
        price = cost(task.prompt)
        if price and self.spent + price > (self.limit or 0) + 1e-9:
            return f"The next row costs ${price:.2f} and ${self.spent:.2f} of --spend {self.limit:g} are spent."
        self.spent += price
        return None

    def settle(self, task: Task, report: str) -> None:
        """For a row that has its file: replace the list price by the amount that its nodes report."""
        self.spent += sum(map(float, PAID.findall(report))) - cost(task.prompt)


def cost(prompt: Prompt) -> float:
    """The list price of a row in USD. Raises Failure if no price is known, because a limit could not be enforced."""
    total = 0.0
    for content in prompt.values():
        inputs = content["inputs"]
        if content["class_type"] == NODE and not inputs.get("dry_run"):
            title, model = inputs["provider"], inputs["provider.model"]
            price = PROVIDERS[title].models[model].price
            if price is None:
                raise Failure(f"no price of {title} [{model}] is known, so that no limit can be kept", code=2)
            total += price * int(inputs.get("pictures", 1))
    return total
