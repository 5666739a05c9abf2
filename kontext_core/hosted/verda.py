"""Verda, formerly DataCrunch: [dev] in one request that lasts until the picture is there.

Nothing here is verified by the owner's documentation: address, fields and answer are those of public code that
uses it, the host is the one from before the company changed its name, prices and limits are not known, nor is how
it words an error.
"""

from __future__ import annotations

from ..resolutions import nearest_trained
from .errors import unreadable
from .provider import Model, Provider
from .wire import Answer, Call, Job, Outcome


class Verda(Provider):
    title = "Verda (DataCrunch)"
    key_name = "VERDA_API_KEY"
    hosts = ("inference.datacrunch.io",)
    models = {"dev": Model("flux-kontext-dev", None, 4)}
    answers_at_once = True

    def submit(self, job: Job) -> Call:
        model = self.require(job)
        width, height = nearest_trained(job.ratio.width, job.ratio.height)
        fields = {
            "prompt": job.instruction,
            "size": f"{width}*{height}",
            "seed": job.seed,
            "num_images": 1,
            "num_inference_steps": 28,
            "guidance_scale": 2.5,
            "output_format": job.output_format,
            "enable_base64_output": True,
        }
        if job.pictures:
            fields["image"] = job.pictures[0].text
        return Call("POST", f"https://inference.datacrunch.io/{model.id}/predict", {"input": fields})

    def accepted(self, answer: Answer) -> Outcome:
        body = answer.json()
        output = body["output"]
        pictures = output.get("outputs") or output.get("images") or ()
        if not pictures:
            raise unreadable(self.title)
        return self.read_base64(str(body.get("id", "")), pictures[0])
