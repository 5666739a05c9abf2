"""Hugging Face Inference: [dev], run by fal behind Hugging Face's router and bill.

From huggingface_hub 2.4.0 (`inference/_providers/fal_ai.py`): the router's addresses, `_subdomain=queue`, the
Bearer header, `image_url`, and that the answer's addresses are fal's and must be led through the router.

Not verified: that the router's name for the model is `fal-ai/flux-kontext/dev` (the library asks for it at run
time); the price, which is fal's; the limit on tasks.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from .fal import Fal
from .provider import Model, Provider
from .wire import Answer, Call, Job, Outcome, Task, Waiting

ROUTER = "https://router.huggingface.co/fal-ai"
QUEUE = "?_subdomain=queue"


class HuggingFace(Fal):
    title = "Hugging Face"
    key_name = "HF_TOKEN"
    hosts = ("router.huggingface.co",)
    models = {"dev": Model("fal-ai/flux-kontext/dev", None, 4)}
    most_pictures = 1
    ratios = ()
    options = ()

    def headers(self, key: str) -> dict[str, str]:
        return Provider.headers(self, key)

    def submit(self, job: Job) -> Call:
        return Call("POST", f"{ROUTER}/{self.endpoint(job)}{QUEUE}", self.arguments(job))

    def accepted(self, answer: Answer) -> Outcome:
        body = answer.json()
        path = urlsplit(str(body["response_url"])).path
        task = Task(str(body["request_id"]), f"{ROUTER}{path}/status{QUEUE}", f"{ROUTER}{path}/cancel{QUEUE}")
        return Waiting(task, "queued")

    def result_address(self, body: dict[str, Any], task: Task) -> str:
        return task.address.removesuffix(f"/status{QUEUE}") + QUEUE
