"""Money: what hosted nodes in a graph will cost, what they have cost, and where a batch stops for it."""

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
    """What may be spent, in US dollars as the providers' lists have it. `limit` None: nothing."""

    def __init__(self, limit: float | None):
        self.limit, self.spent = limit, 0.0

    def check(self, tasks: Sequence[Task]) -> float:
        """The cost of all tasks by the providers' lists. Raises Failure for what would cost and may not."""
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
        """Counts the price of a task before it is sent. What to say if the limit does not allow it."""
        price = cost(task.prompt)
        if price and self.spent + price > (self.limit or 0) + 1e-9:
            return f"The next row costs ${price:.2f} and ${self.spent:.2f} of --spend {self.limit:g} are spent."
        self.spent += price
        return None

    def settle(self, task: Task, report: str) -> None:
        """Of a row that has its file: puts what its nodes say they paid in place of the list price."""
        self.spent += sum(map(float, PAID.findall(report))) - cost(task.prompt)


def cost(prompt: Prompt) -> float:
    """What a row costs by the list, in USD. Raises Failure where no price is known: a limit could not be kept."""
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
