"""Hugging Face Inference: [dev], run by fal behind Hugging Face's router and billing.

Sources. huggingface_hub 2.4.0 (`inference/_providers/fal_ai.py`, `_client.py`, `constants.py`): the router's
addresses, `?_subdomain=queue`, the Bearer header, `X-HF-Bill-To`, `image_url` and other fields passed on to fal
unchanged, and that the answer's addresses are fal's and must be rewritten to the router.

Not verified: that the router's name for the model is `fal-ai/flux-kontext/dev` (the library asks the hub for it at run
time); that tasks can be cancelled through the router; the price, which is fal's; the limit on tasks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from .fal import DEV_RATIOS, DEV_SETTINGS, Fal
from .provider import Model, Provider
from .wire import Answer, Call, Job, Outcome, Task, Waiting

ROUTER = "https://router.huggingface.co/fal-ai"
QUEUE = "?_subdomain=queue"


class HuggingFace(Fal):
    title = "Hugging Face"
    key_name = "HF_TOKEN"
    hosts = ("router.huggingface.co",)
    models = {"dev": Model("fal-ai/flux-kontext/dev", None, 4, (1, 1), DEV_RATIOS, DEV_SETTINGS)}
    untested = "the router's name for this model is not documented"

    def headers(self, key: str, options: Mapping[str, Any]) -> dict[str, str]:
        bill_to = options.get("bill_to")
        return Provider.headers(self, key, options) | ({"X-HF-Bill-To": bill_to} if bill_to else {})

    def submit(self, job: Job, uploaded: Sequence[str] = ()) -> Call:
        return Call("POST", f"{ROUTER}/{self.endpoint(job)}{QUEUE}", self.arguments(job))

    def accepted(self, answer: Answer) -> Outcome:
        body = answer.json()
        path = urlsplit(body["response_url"]).path
        task = Task(body["request_id"], f"{ROUTER}{path}/status{QUEUE}", f"{ROUTER}{path}/cancel{QUEUE}")
        return Waiting(task, "queued")

    def result_address(self, body: dict[str, Any], task: Task) -> str:
        return task.address.removesuffix(f"/status{QUEUE}") + QUEUE
