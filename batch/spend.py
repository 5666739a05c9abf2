"""Spending: what hosted nodes in a graph will cost, what they have cost, and the limit at which a batch stops."""

from __future__ import annotations

import re
from collections.abc import Sequence

from kontext_core.hosted import PROVIDERS

from . import Failure
from .binding import title_of
from .graphs import Prompt, is_link
from .plan import Task

NODE = "KontextHosted"
PRICED = ("provider", "provider.model", "pictures")  # inputs of the node that its price depends on
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
    hosted = [node for node, content in prompt.items() if content["class_type"] == NODE]
    return sum(_price(prompt, node) for node in hosted if prompt[node]["inputs"].get("dry_run") is not True)


def _price(prompt: Prompt, node: str) -> float:
    inputs = prompt[node]["inputs"]
    for name in PRICED:
        if is_link(inputs.get(name)):
            raise Failure(
                f"{title_of(prompt, node)}: {name} is connected to {title_of(prompt, inputs[name][0])}, so that its "
                f"price is not known before the start. Disconnect it and set {name} in the node itself",
                code=2,
            )
    title, model = inputs["provider"], inputs["provider.model"]
    if title not in PROVIDERS or model not in PROVIDERS[title].models:
        raise Failure(f"{title_of(prompt, node)}: there is no model {model!r} of a provider {title!r}", code=2)
    price = PROVIDERS[title].models[model].price
    if price is None:
        raise Failure(f"no price of {title} [{model}] is known, so that no limit can be kept", code=2)
    return price * int(inputs.get("pictures", 1))
