"""Together AI: one request that lasts until the picture is ready.

Sources. The client together 3.1.1 (`types/image_generate_params.py`, `_client.py`): address, Bearer header,
`image_url`, `steps`, `guidance_scale`, `response_format`, `output_format` "jpeg" or "png",
{"id", "data": [{"b64_json"}]}.
huggingface_hub 2.4.0 (`inference/_providers/together.py`): a data URI as `image_url`, which FLUX.1 Kontext alone takes
instead of `reference_images`. docs.together.ai: model names; `aspect_ratio`, which the client does not list.

Not verified: that [dev] is still served; prices and limits; the message of a moderated request.
"""

from __future__ import annotations

from collections.abc import Sequence

from .errors import EITHER_MODERATED, HostedError, by_status, detail, moderated
from .provider import Model, Provider
from .wire import Answer, Call, Job, Outcome


class Together(Provider):
    title = "Together"
    key_name = "TOGETHER_API_KEY"
    hosts = ("api.together.ai", "api.together.xyz")
    models = {
        "pro": Model("black-forest-labs/FLUX.1-kontext-pro", None, 4),
        "max": Model("black-forest-labs/FLUX.1-kontext-max", None, 4),
        "dev": Model("black-forest-labs/FLUX.1-kontext-dev", None, 4, settings={"steps": (1, 50), "guidance": (1, 20)}),
    }
    names = {"guidance": "guidance_scale"}
    answers_at_once = True

    def submit(self, job: Job, uploaded: Sequence[str] = ()) -> Call:
        model = self.require(job)
        body = {
            "model": model.id,
            "prompt": job.instruction,
            "aspect_ratio": str(job.ratio),
            "seed": job.seed,
            "n": 1,
            "response_format": "base64",
            "output_format": job.output_format,
            **self.fields(job),
        }
        if job.pictures:
            body["image_url"] = job.pictures[0].data_uri
        return Call("POST", "https://api.together.ai/v1/images/generations", body)

    def accepted(self, answer: Answer) -> Outcome:
        body = answer.json()
        return self.read_base64(body.get("id", ""), body["data"][0]["b64_json"])

    def failure(self, answer: Answer, submitting: bool) -> HostedError:
        said = detail(answer.content)
        if answer.status in (400, 422) and any(word in said.lower() for word in ("nsfw", "moderat", "safety")):
            return moderated(self.title, EITHER_MODERATED, said)
        return by_status(self.title, self.key_name, answer, submitting)
