"""Together AI: one request that lasts until the picture is there.

From docs.together.ai and the official client together 3.1.1: address, Bearer header, model names, `image_url`,
`response_format`, `data[].b64_json`.

Not verified: that a data URI is taken as `image_url`; `aspect_ratio`, which the client does not list but the
guide to Kontext does; that [dev] is still served; prices and limits; the words of a moderated request.
"""

from __future__ import annotations

from .errors import HostedError, by_status, detail, moderated
from .provider import Model, Provider
from .wire import Answer, Call, Job, Outcome


class Together(Provider):
    title = "Together"
    key_name = "TOGETHER_API_KEY"
    hosts = ("api.together.ai", "api.together.xyz")
    models = {
        "pro": Model("black-forest-labs/FLUX.1-kontext-pro", None, 4),
        "max": Model("black-forest-labs/FLUX.1-kontext-max", None, 4),
        "dev": Model("black-forest-labs/FLUX.1-kontext-dev", None, 4),
    }
    answers_at_once = True

    def submit(self, job: Job) -> Call:
        model = self.require(job)
        body = {
            "model": model.id,
            "prompt": job.instruction,
            "aspect_ratio": str(job.ratio),
            "seed": job.seed,
            "n": 1,
            "response_format": "base64",
            "output_format": job.output_format,
        }
        if job.pictures:
            body["image_url"] = job.pictures[0].data_uri
        return Call("POST", "https://api.together.ai/v1/images/generations", body)

    def accepted(self, answer: Answer) -> Outcome:
        body = answer.json()
        return self.read_base64(str(body.get("id", "")), body["data"][0]["b64_json"])

    def failure(self, answer: Answer) -> HostedError:
        said = detail(answer.body)
        if answer.status in (400, 422) and any(word in said.lower() for word in ("nsfw", "moderat", "safety")):
            return moderated(self.title, "input", said, "")
        return by_status(self.title, self.key_name, answer)
