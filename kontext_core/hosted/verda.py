"""Verda, formerly DataCrunch: [dev] in one request that lasts until the picture is ready.

Sources. The client verda 1.25.0 (`inference_client`): Bearer header with an inference key. Address, fields and answer
are from public code of 2026 that uses them (including code that names the key VERDA_INFERENCE_KEY and this host).

Not verified by any source of Verda's own: address, fields and answer; prices and limits; error messages. The node says
so.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..resolutions import nearest_trained
from .provider import Model, Provider
from .wire import Answer, Call, Job, Outcome

DEFAULTS = {"num_inference_steps": 28, "guidance_scale": 2.5}


class Verda(Provider):
    title = "Verda (DataCrunch)"
    key_name = "VERDA_API_KEY"
    hosts = ("inference.datacrunch.io",)
    models = {"dev": Model("flux-kontext-dev", None, 4, settings={"steps": (1, 50), "guidance": (1, 20)})}
    names = {"steps": "num_inference_steps", "guidance": "guidance_scale"}
    answers_at_once = True
    untested = "its address and fields are those of public code, not of Verda's own documentation"

    def submit(self, job: Job, uploaded: Sequence[str] = ()) -> Call:
        model = self.require(job)
        width, height = nearest_trained(job.ratio.width, job.ratio.height)
        fields = {
            "prompt": job.instruction,
            "size": f"{width}*{height}",
            "seed": job.seed,
            "num_images": 1,
            **DEFAULTS,
            **self.fields(job),
            "output_format": job.output_format,
            "enable_base64_output": True,
        }
        if job.pictures:
            fields["image"] = job.pictures[0].text
        return Call("POST", f"https://inference.datacrunch.io/{model.id}/predict", {"input": fields})

    def accepted(self, answer: Answer) -> Outcome:
        body = answer.json()
        output = body["output"]
        pictures = output.get("outputs") or output["images"]
        return self.read_base64(body.get("id", ""), pictures[0])
