"""The methods, authorisation and fields that each provider accepts, from its own client or documents, not our requests.

A `Table` checks every request before it is accepted; a rejected one is answered as the provider does.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

Check = Callable[[Any], bool]


@dataclass(frozen=True)
class Table:
    source: str
    authorisation: Callable[[Mapping[str, str]], bool]
    unauthorised: int  # the status for a missing or a wrong key
    methods: dict[str, str]  # stage -> method
    paths: dict[str, str] = field(default_factory=dict)  # stage -> pattern of the path and query


def bearer(headers: Mapping[str, str]) -> bool:
    return re.fullmatch(r"Bearer [!-~]+", headers.get("Authorization", "")) is not None


def fal_key(headers: Mapping[str, str]) -> bool:
    return re.fullmatch(r"Key [!-~]+", headers.get("Authorization", "")) is not None


def x_key(headers: Mapping[str, str]) -> bool:
    return bool(headers.get("x-key")) and "Authorization" not in headers


QUEUE = {"submit": "POST", "poll": "GET", "result": "GET", "cancel": "PUT"}
BFL_HOSTS = ("api.bfl.ai", "api.eu.bfl.ai", "api.us.bfl.ai", "api.us1.bfl.ai")
BFL = Table("blackforest 0.1.3, client.py: X-Key", x_key, 403, {"submit": "POST", "poll": "GET"})
TABLES = {
    **dict.fromkeys(BFL_HOSTS, BFL),
    "queue.fal.run": Table("fal-client 1.0.3, auth.py: Key; client.py: cancel by PUT", fal_key, 401, QUEUE),
    "router.huggingface.co": Table(
        "huggingface_hub 2.4.0, _providers/fal_ai.py: hf_ keys as Bearer, ?_subdomain=queue",
        bearer,
        401,
        QUEUE,
        dict.fromkeys(QUEUE, r".*\?_subdomain=queue"),
    ),
    "api.replicate.com": Table(
        "replicate 1.0.7, client.py: Bearer; prediction.py: cancel by POST; file.py: POST /v1/files",
        bearer,
        401,
        {"submit": "POST", "poll": "GET", "cancel": "POST", "upload": "POST"},
        {"submit": r"/v1/models/[\w-]+/[\w-]+/predictions", "upload": "/v1/files"},
    ),
    "api.together.ai": Table(
        "together 3.1.1, _client.py", bearer, 401, {"submit": "POST"}, {"submit": "/v1/images/generations"}
    ),
    "api.runware.ai": Table(
        "runware-sdk 1.8.0, transport/rest.py", bearer, 401, {"submit": "POST", "poll": "POST"}, {"submit": "/v1"}
    ),
    "inference.datacrunch.io": Table("verda 1.25.0, _inference_client.py: Bearer", bearer, 401, {"submit": "POST"}),
}


# Fields


def text(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def flag(value: Any) -> bool:
    return isinstance(value, bool)


def whole(low: int, high: int) -> Check:
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def number(low: float, high: float) -> Check:
    return lambda value: isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high


def one_of(*allowed: Any) -> Check:
    return lambda value: value in allowed


def matches(pattern: str) -> Check:
    return lambda value: isinstance(value, str) and re.fullmatch(pattern, value, re.ASCII) is not None


def list_of(check: Check, most: int) -> Check:
    return lambda value: isinstance(value, list) and 0 < len(value) <= most and all(map(check, value))


def bare_base64(value: Any) -> bool:
    return isinstance(value, str) and base64.b64decode(value, validate=True)[1:4] == b"PNG"


def picture_address(value: Any) -> bool:
    """A data URI or an address; the official clients of the benchmark also send other formats than PNG."""
    return matches(r"data:[\w/+.-]+;base64,[\w+/=]+|https://\S+")(value)


def small_data_uri(value: Any) -> bool:
    """replicate.com/docs, input files: a data URI only if the file is less than 1MB; else an address."""
    return picture_address(value) and (value.startswith("https:") or len(value) * 3 / 4 < 1_000_100)


def uuid4(value: Any) -> bool:
    return isinstance(value, str) and UUID(value).version == 4


SEED = whole(0, 2**31 - 1)  # no provider documents a larger one
NAMED = ("21:9", "16:9", "4:3", "3:2", "1:1", "2:3", "3:4", "9:16", "9:21")
Fields = dict[str, Check]

BFL_FIELDS: Fields = {  # blackforest 0.1.3, flux_kontext_pro.py; webp: api.bfl.ai/openapi.json
    "prompt": text,
    **{name: bare_base64 for name in ("input_image", "input_image_2", "input_image_3", "input_image_4")},
    "seed": SEED,
    "aspect_ratio": matches(r"\d+:\d+"),
    "output_format": one_of("jpeg", "png", "webp"),
    "safety_tolerance": whole(0, 6),
    "prompt_upsampling": flag,
}
FAL_FIELDS: Fields = {  # fal.ai/docs, model API reference: flux-pro/kontext, /max, /multi, /text-to-image
    "prompt": text,
    "seed": SEED,
    "guidance_scale": number(1, 20),
    "sync_mode": flag,
    "num_images": whole(1, 4),
    "output_format": one_of("jpeg", "png"),
    "safety_tolerance": one_of("1", "2", "3", "4", "5", "6"),
    "enhance_prompt": flag,
    "aspect_ratio": one_of(*NAMED),
}
FAL_DEV_FIELDS: Fields = {  # fal.ai, flux-kontext/dev: resolution_mode and the rest; image_urls: huggingface_hub
    "prompt": text,
    "image_url": picture_address,
    "image_urls": list_of(picture_address, 1),
    "num_inference_steps": whole(10, 50),
    "seed": SEED,
    "guidance_scale": number(1, 20),
    "sync_mode": flag,
    "num_images": whole(1, 4),
    "enable_safety_checker": flag,
    "output_format": one_of("jpeg", "png"),
    "acceleration": one_of("none", "regular", "high"),
    "resolution_mode": one_of("auto", "match_input", *NAMED, "4:5", "5:4"),
}
REPLICATE_FIELDS: Fields = {  # replicate.com, schema of flux-kontext-pro
    "prompt": text,
    "input_image": small_data_uri,
    "aspect_ratio": one_of("match_input_image", *NAMED, "4:5", "5:4", "2:1", "1:2"),
    "seed": SEED,
    "output_format": one_of("jpg", "png"),
    "safety_tolerance": whole(0, 6),
    "prompt_upsampling": flag,
}
REPLICATE_DEV_FIELDS: Fields = {  # replicate.com, schema of flux-kontext-dev
    "prompt": text,
    "input_image": small_data_uri,
    "aspect_ratio": one_of("match_input_image", *NAMED, "4:5", "5:4", "2:1", "1:2"),
    "num_inference_steps": whole(4, 50),
    "guidance": number(0, 10),
    "seed": SEED,
    "output_format": one_of("webp", "jpg", "png"),
    "output_quality": whole(0, 100),
    "disable_safety_checker": flag,
    "go_fast": flag,
}
TOGETHER_FIELDS: Fields = {  # together 3.1.1, image_generate_params.py; aspect_ratio: docs.together.ai
    "model": matches(r"black-forest-labs/FLUX\.1-kontext-(pro|max|dev)"),
    "prompt": text,
    "disable_safety_checker": flag,
    "guidance_scale": number(0, 20),
    "height": whole(64, 2048),
    "image_url": picture_address,
    "n": whole(1, 4),
    "negative_prompt": text,
    "output_format": one_of("jpeg", "png"),
    "response_format": one_of("base64", "url"),
    "seed": SEED,
    "steps": whole(1, 50),
    "width": whole(64, 2048),
    "aspect_ratio": matches(r"\d+:\d+"),
}
RUNWARE_SIZES = {(1568, 672), (1392, 752), (1184, 880), (1248, 832), (1024, 1024)}  # runware.ai/docs; and transposed
LORA = {"model": matches(r"[\w-]+:[\w.-]+@[\w.-]+"), "weight": number(-4, 4)}  # runware 0.5.24, ILora
RUNWARE_BFL: Fields = {"promptUpsampling": flag, "safetyTolerance": whole(0, 6)}
RUNWARE_FIELDS: Fields = {  # runware-sdk 1.8.0, task_map.py: BflFlux1KontextProParams, ...MaxParams
    "taskType": one_of("imageInference"),
    "taskUUID": uuid4,
    "deliveryMethod": one_of("async"),
    "model": one_of("bfl:3@1", "bfl:4@1"),
    "positivePrompt": text,
    "width": whole(128, 2048),
    "height": whole(128, 2048),
    "seed": whole(1, 2**63 - 1),
    "numberResults": whole(1, 20),
    "outputType": one_of("URL", "base64Data", "dataURI"),
    "outputFormat": one_of("JPG", "PNG", "WEBP"),
    "outputQuality": whole(20, 99),
    "includeCost": flag,
    "inputs": lambda value: refused(value, {"referenceImages": list_of(picture_address, 2)}) == "",
    "providerSettings": lambda value: refused(value, {"bfl": lambda own: refused(own, RUNWARE_BFL) == ""}) == "",
}
RUNWARE_DEV_FIELDS: Fields = {  # the same: BflFlux1KontextDevParams
    **{name: check for name, check in RUNWARE_FIELDS.items() if name != "providerSettings"},
    "model": one_of("runware:106@1"),
    "negativePrompt": text,
    "steps": whole(1, 50),
    "CFGScale": number(0, 20),
    "trueCFGScale": number(0, 20),
    "lora": list_of(lambda value: refused(value, LORA) == "", 5),
}
VERDA_FIELDS: Fields = {  # public code of 2026
    "prompt": text,
    "image": bare_base64,
    "size": matches(r"\d+\*\d+"),
    "seed": SEED,
    "num_images": whole(1, 4),
    "num_inference_steps": whole(1, 50),
    "guidance_scale": number(0, 20),
    "output_format": one_of("png", "jpeg"),
    "enable_base64_output": flag,
}


def refused(body: Any, fields: Fields, required: tuple[str, ...] = ()) -> str:
    """The first field of a body that its provider does not accept; "" if it accepts all."""
    if not isinstance(body, dict):
        return "body"
    missing = [name for name in required if name not in body]
    wrong = [name for name, value in body.items() if name not in fields or not _passes(fields[name], value)]
    return next(iter(missing + wrong), "")


def _passes(check: Check, value: Any) -> bool:
    try:
        return bool(check(value))
    except (ValueError, TypeError):
        return False


def refused_field(host: str, path: str, body: Any) -> str:
    """The first field of a submission that the provider of a host does not accept; "" if it accepts all."""
    if host in BFL_HOSTS:
        return refused(body, BFL_FIELDS, ("prompt",))
    if host == "router.huggingface.co" or path.startswith("/fal-ai/flux-kontext/dev"):
        return refused(body, FAL_DEV_FIELDS, ("prompt", "image_url"))
    if host == "queue.fal.run":
        extra: Fields = {"image_url": picture_address}
        if path.endswith("/multi"):
            extra = {"image_urls": list_of(picture_address, 4)}
        extra = {} if path.endswith("/text-to-image") else extra
        return refused(body, FAL_FIELDS | extra, ("prompt", *extra))
    if host == "api.replicate.com":
        fields, needed = (REPLICATE_DEV_FIELDS, ("prompt", "input_image")) if "dev" in path else (REPLICATE_FIELDS, ())
        return refused(body, {"input": lambda value: True}) or refused(body["input"], fields, needed or ("prompt",))
    if host == "api.together.ai":
        return refused(body, TOGETHER_FIELDS, ("model", "prompt"))
    if host == "api.runware.ai":
        return _refused_by_runware(body)
    return refused(body, {"input": lambda value: True}) or refused(body["input"], VERDA_FIELDS, ("prompt", "size"))


def _refused_by_runware(body: Any) -> str:
    if not isinstance(body, list) or len(body) != 1 or not isinstance(body[0], dict):
        return "tasks"
    (task,) = body
    dev = task.get("model") == "runware:106@1"
    needed = ("taskType", "taskUUID", "model", "positivePrompt", "width", "height")
    if field := refused(task, RUNWARE_DEV_FIELDS if dev else RUNWARE_FIELDS, needed):
        return field
    size = (task["width"], task["height"])
    return "" if size in RUNWARE_SIZES or size[::-1] in RUNWARE_SIZES else "width"
