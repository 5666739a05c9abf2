"""The providers' ways to say things: addresses, fields, statuses and errors, each as documented."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aiohttp import web

if TYPE_CHECKING:
    from .server import StandIn

HOSTS = (
    "api.bfl.ai",
    "api.eu.bfl.ai",
    "api.us.bfl.ai",
    "api.us1.bfl.ai",
    "delivery-eu1.bfl.ai",
    "queue.fal.run",
    "v3.fal.media",
    "api.replicate.com",
    "replicate.delivery",
    "api.together.ai",
    "api.runware.ai",
    "im.runware.ai",
    "inference.datacrunch.io",
    "router.huggingface.co",
)
DELIVERY = ("delivery-eu1.bfl.ai", "v3.fal.media", "replicate.delivery", "im.runware.ai", "collector.example")
STATUSES = ("Request Moderated", "Content Moderated", "Error", "Task not found")  # faults of a question: BFL's words


@dataclass
class Task:
    id: str
    seed: int
    pending: int  # questions still to be answered with "not yet"
    over: bool = False
    cancelled: bool = False


def stage(host: str, request: web.Request, body: bytes) -> str:
    """What a request is for."""
    if host in DELIVERY:
        return "download"
    if host == "api.runware.ai":
        return "poll" if b'"getResponse"' in body else "submit"
    if "cancel" in request.path:
        return "cancel"
    if "/requests/" in request.path and not request.path.endswith("/status"):
        return "result"
    return "submit" if request.method == "POST" else "poll"


def error(host: str, status: int) -> web.Response:
    """An error in the provider's own form."""
    words = {402: "Insufficient credits", 403: "Not authenticated", 429: "Too many requests", 422: "Bad field"}
    said = words.get(status, "Something went wrong")
    if host == "api.runware.ai":
        codes = {401: "invalidApiKey", 402: "insufficientCredits", 403: "invalidApiKey", 429: "rateLimitExceeded"}
        body: Any = {"errors": [{"code": codes.get(status, "invalidParameter"), "message": said, "parameter": "seed"}]}
    elif host == "api.together.ai":
        body = {"error": {"message": said, "type": "invalid_request_error"}}
    elif host == "api.replicate.com":
        body = {"title": "Error", "detail": said, "status": status}
    elif status == 422:
        body = {"detail": [{"loc": ["body", "aspect_ratio"], "msg": said, "type": "value_error"}]}
    else:
        body = {"detail": said}
    return web.json_response(body, status=status)


def answer(server: StandIn, host: str, stage: str, fault: str, request: web.Request, body: bytes) -> web.Response:
    """What the provider of a host says when nothing breaks but what its own words can tell."""
    if stage == "download":
        return web.Response(body=server.picture, content_type="image/png")
    fields = json.loads(body) if body else None
    speak = {
        "queue.fal.run": fal,
        "router.huggingface.co": fal,
        "api.replicate.com": replicate,
        "api.together.ai": together,
        "api.runware.ai": runware,
        "inference.datacrunch.io": verda,
    }.get(host, bfl)
    said = speak(server, host, stage, fault, request, fields)
    return said if isinstance(said, web.Response) else web.json_response(said)


def progress(server: StandIn, identity: str) -> Task:
    """A question about a task; `over` is set when it is finished."""
    task = server.tasks[identity]
    task.over = task.over or task.pending <= 0
    task.pending -= 1
    return task


def bfl(server: StandIn, host: str, stage: str, fault: str, request: web.Request, fields: Any) -> Any:
    if stage == "submit":
        if "key" in fault:
            echoed = request.headers["x-key"]  # as if a careless server showed what it got
            detail = [{"loc": ["header", "x-key"], "msg": f"malformed: {echoed}", "type": "value_error"}]
            return web.json_response({"detail": detail}, status=422)
        if request.headers.get("x-key") in (None, "wrong"):
            return error(host, 403)
        task = server.accept(fields["seed"])
        places = {"foreign": "collector.example", "in the clear": "api.us1.bfl.ai", "look-alike": "notbfl.ai"}
        scheme = "http" if fault == "in the clear" else "https"
        address = f"{scheme}://{places.get(fault, 'api.us1.bfl.ai')}/v1/get_result?id={task.id}"
        return {"id": task.id, "polling_url": address, "cost": 8 if "max" in request.path else 4}
    identity = request.query["id"]
    if fault in STATUSES or identity not in server.tasks:
        if identity in server.tasks:
            server.tasks[identity].over = True
        status = fault or "Task not found"
        details = {"Moderation Reasons": ["Derivative Works Filter"]} if "Moderated" in status else None
        return {"id": identity, "status": status, "result": None, "progress": None, "details": details}
    task = progress(server, identity)
    if not task.over:
        return {"id": identity, "status": "Pending", "result": None, "progress": 0.5 if not task.pending else None}
    sample = f"https://delivery-eu1.bfl.ai/results/{identity}.png?sig=a%2Bb%3D&se=2026-11-23T00%3A00%3A00Z"
    if fault == "foreign sample":
        sample = "http://collector.example/picture.png"
    return {"id": identity, "status": "Ready", "result": {"sample": sample, "seed": task.seed}, "progress": 1.0}


def fal(server: StandIn, host: str, stage: str, fault: str, request: web.Request, fields: Any) -> Any:
    if stage == "submit":
        if fault == "moderated":
            detail = [{"loc": ["body", "prompt"], "msg": "flagged", "type": "content_policy_violation"}]
            return web.json_response({"detail": detail}, status=422)
        task = server.accept(fields["seed"])
        base = f"https://queue.fal.run/fal-ai/flux-pro/requests/{task.id}"  # also behind the router
        addresses = {"status_url": f"{base}/status", "response_url": base, "cancel_url": f"{base}/cancel"}
        return {"request_id": task.id, "status": "IN_QUEUE", "queue_position": 0, **addresses}
    identity = request.path.split("/requests/")[1].split("/")[0]
    if stage == "cancel":
        server.tasks[identity].cancelled = server.tasks[identity].over = True
        return web.json_response({"status": "CANCELLATION_REQUESTED"}, status=202)
    if stage == "result":
        return {
            "images": [{"url": f"https://v3.fal.media/files/{identity}.png", "width": 96, "height": 72}],
            "seed": server.tasks[identity].seed,
            "has_nsfw_concepts": [fault == "nsfw"],
            "prompt": "",
        }
    if fault == "failed":
        return {"status": "COMPLETED", "error": "Internal error", "error_type": "internal_server_error"}
    task = progress(server, identity)
    response = f"https://queue.fal.run/fal-ai/flux-pro/requests/{identity}"
    said = {"response_url": response, "logs": None}
    if task.over:
        return said | {"status": "COMPLETED", "metrics": {}}
    return said | ({"status": "IN_QUEUE", "queue_position": 1} if task.pending else {"status": "IN_PROGRESS"})


def replicate(server: StandIn, host: str, stage: str, fault: str, request: web.Request, fields: Any) -> Any:
    if stage == "submit":
        task = server.accept(fields["input"]["seed"])
    else:
        identity = request.path.split("/predictions/")[1].split("/")[0]
        task = progress(server, identity) if stage == "poll" else server.tasks[identity]
    if stage == "cancel":
        task.cancelled = task.over = True
    base = f"https://api.replicate.com/v1/predictions/{task.id}"
    said = {"id": task.id, "urls": {"get": base, "cancel": f"{base}/cancel"}, "error": None, "output": None}
    said |= {"model": "black-forest-labs/flux-kontext-pro", "version": "hidden", "input": {}, "logs": ""}
    said |= {"created_at": "2026-11-23T00:00:00Z"}
    if fault in ("failed", "flagged"):
        task.over = True
        error = "Prediction failed" if fault == "failed" else "The output was flagged as sensitive. (E005)"
        return said | {"status": "failed", "error": error}
    if task.cancelled:
        return said | {"status": "canceled"}
    if task.over:
        return said | {"status": "succeeded", "output": f"https://replicate.delivery/{task.id}/out.png"}
    return said | {"status": "starting" if stage == "submit" else "processing"}


def together(server: StandIn, host: str, stage: str, fault: str, request: web.Request, fields: Any) -> Any:
    if fault == "moderated":
        return web.json_response({"error": {"message": "NSFW content detected"}}, status=422)
    task = server.accept(fields["seed"])
    task.over = True
    picture = base64.b64encode(server.picture).decode()
    return {"id": task.id, "model": fields["model"], "object": "list", "data": [{"index": 0, "b64_json": picture}]}


def runware(server: StandIn, host: str, stage: str, fault: str, request: web.Request, fields: Any) -> Any:
    asked = fields[0]["taskUUID"]
    if fault == "moderated":
        error = {"code": "invalidProviderContent", "message": "flagged", "taskUUID": asked}
        return web.json_response({"errors": [error]}, status=400)
    if stage == "submit":
        task = server.accept(fields[0]["seed"])
        server.tasks[asked] = server.tasks.pop(task.id)
        return {"data": [{"taskType": "imageInference", "taskUUID": asked}]}
    task = progress(server, asked)
    if not task.over:
        return {"data": [{"taskType": "imageInference", "taskUUID": asked, "status": "processing"}]}
    done = {"status": "success", "imageURL": f"https://im.runware.ai/{asked}.png", "cost": 0.04, "seed": task.seed}
    return {"data": [{"taskType": "imageInference", "taskUUID": asked, "NSFWContent": fault == "nsfw", **done}]}


def verda(server: StandIn, host: str, stage: str, fault: str, request: web.Request, fields: Any) -> Any:
    task = server.accept(fields["input"]["seed"])
    task.over = True
    return {"id": task.id, "output": {"outputs": [base64.b64encode(server.picture).decode()]}}
