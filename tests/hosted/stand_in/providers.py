"""The providers' protocols: addresses, statuses and errors, as in their clients or documents.

Accepted requests are in facts.py. Sources of the answers: for BFL, blackforest 0.1.3 (responses.py) and docs.bfl.ai;
for fal, also behind the router, fal-client 1.0.3 (client.py: Status, Completed) and fal.ai/docs (errors, request
errors); replicate 1.0.7 (prediction.py) and replicate.com/docs (rate limits, data retention); together 3.1.1
(image_file.py); runware-sdk 1.8.0 (client.py, errors.py, task_map.py: ...Result); public code for Verda.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aiohttp import web

from . import facts
from .shapes import changed, shaken

if TYPE_CHECKING:
    from .server import StandIn

DELIVERY = ("delivery-eu1.bfl.ai", "v3.fal.media", "replicate.delivery", "im.runware.ai", "collector.example")
HOSTS = (*facts.TABLES, *(host for host in DELIVERY if host != "collector.example"))
STATUSES = ("Request Moderated", "Content Moderated", "Error", "Task not found")  # faults of polling: BFL's statuses


@dataclass
class Task:
    id: str
    seed: int
    pending: int  # polls that are still answered with "not yet"
    over: bool = False
    cancelled: bool = False
    key: str = ""  # of the account that it belongs to


def stage(host: str, request: web.Request, body: bytes) -> str:
    """The purpose of a request."""
    if host in DELIVERY:
        return "download"
    if request.path == "/v1/files":
        return "upload"
    if host == "api.runware.ai":
        return "poll" if b'"getResponse"' in body else "submit"
    if "cancel" in request.path:
        return "cancel"
    if "/requests/" in request.path:
        return "poll" if request.path.endswith("/status") else "result"
    polled = "get_result" in request.path or ("/predictions/" in request.path and host == "api.replicate.com")
    return "poll" if polled else "submit"


def key_of(request: web.Request) -> str:
    return request.headers.get("x-key") or request.headers.get("Authorization", "").partition(" ")[2]


def error(host: str, status: int, said: str = "", code: str = "") -> web.Response:
    """An error in the provider's own form."""
    words = {402: "Insufficient credits", 403: "Not authenticated", 429: "Too many requests", 422: "Bad field"}
    said = said or words.get(status, "Something went wrong")
    if host == "api.runware.ai":
        codes = {401: "invalidApiKey", 402: "insufficientCredits", 403: "invalidApiKey", 429: "rateLimitExceeded"}
        code = code or codes.get(status, "internalServerError" if status >= 500 else "invalidParameter")
        body: Any = {"errors": [{"code": code, "message": said, "parameter": "seed"}]}
    elif host == "api.together.ai":
        body = {"error": {"message": said, "type": "invalid_request_error"}}
    elif host == "api.replicate.com":
        body = {"title": "Error", "detail": said, "status": status}
    elif status == 422:
        body = {"detail": [{"loc": ["body", "aspect_ratio"], "msg": said, "type": "value_error"}]}
    else:
        body = {"detail": said}
    return web.json_response(body, status=status)


def refusal(host: str, stage: str, request: web.Request, body: bytes) -> web.Response | None:
    """The provider's rejection of a request: for its method, its key, its address or its fields."""
    if stage == "download":  # a signed address together with a key: storage rejects that
        sent = {"Authorization", "x-key", "Cookie"} & set(request.headers)
        return web.Response(status=400) if sent or request.method != "GET" else None
    table = facts.TABLES[host]
    if table.methods.get(stage) != request.method:
        return error(host, 405, f"Method {request.method} Not Allowed")
    if not table.authorisation(request.headers) or key_of(request) == "wrong":
        return error(host, table.unauthorised)
    if stage in table.paths and not facts.matches(table.paths[stage])(request.path_qs):
        return error(host, 404, "Not Found")
    if stage == "upload":
        multipart = request.headers.get("Content-Type", "").startswith("multipart/form-data")
        return None if multipart and b'name="content"' in body and b"PNG" in body else error(host, 400, "no content")
    if stage == "submit" and (field := facts.refused_field(host, request.path, json.loads(body) if body else None)):
        return error(host, 422, f"Bad field: {field}")
    return None


def answer(server: StandIn, host: str, stage: str, fault: str, request: web.Request, body: bytes) -> web.Response:
    """The answer of a host's provider, with faults that its protocol can express."""
    if stage == "download":
        return web.Response(body=server.picture, content_type="image/png")
    fields = json.loads(body) if body and stage != "upload" else None
    speak = {
        "queue.fal.run": fal,
        "router.huggingface.co": fal,
        "api.replicate.com": replicate,
        "api.together.ai": together,
        "api.runware.ai": runware,
        "inference.datacrunch.io": verda,
    }.get(host, bfl)
    said = speak(server, host, stage, fault, request, fields)
    if isinstance(said, web.Response):
        return said
    server.said(said, stage)
    change = server.changes.get(_seed(server, stage, said, fields))
    if change and change[0] == stage:
        return web.Response(text=changed(said, *change[1]), content_type="application/json")
    if fault == "shaken":
        return web.Response(text=shaken(said, server.chance), content_type="application/json")
    if fault == "changed":
        return web.Response(text=changed(said, *server.change), content_type="application/json")
    response = web.json_response(said)
    response.set_cookie("session", "anonymous")
    return response


def _seed(server: StandIn, stage: str, said: Any, fields: Any) -> int:
    """The seed of the task that an answer is about: the last accepted one, or the polled one."""
    if stage == "submit":
        return server.last_accepted
    text = json.dumps([said, fields])
    return next((task.seed for name, task in list(server.tasks.items()) if name in text), -1)


def progress(server: StandIn, identity: str) -> Task:
    """Advance a polled task; `over` is set when it is finished."""
    task = server.tasks[identity]
    task.over = task.over or task.pending <= 0
    task.pending -= 1
    return task


def bfl(server: StandIn, host: str, stage: str, fault: str, request: web.Request, fields: Any) -> Any:
    if stage == "submit":
        if "key" in fault:
            echoed = request.headers["x-key"]  # like a careless server that echoes the key
            words = f"malformed: {fault.removeprefix('malformed key')}{echoed}"
            return web.json_response(
                {"detail": [{"loc": ["header", "x-key"], "msg": words, "type": "value_error"}]}, status=422
            )
        task = server.accept(fields["seed"], key_of(request))
        places = {"foreign": "collector.example", "in the clear": "api.us1.bfl.ai", "look-alike": "notbfl.ai"}
        scheme = "http" if fault == "in the clear" else "https"
        address = f"{scheme}://{places.get(fault, 'api.us1.bfl.ai')}/v1/get_result?id={task.id}"
        return {"id": task.id, "polling_url": address, "cost": 8 if "max" in request.path else 4}
    identity = request.query["id"]
    if identity in server.tasks and server.tasks[identity].key != key_of(request):
        return error(host, 403)
    if fault in STATUSES or identity not in server.tasks:
        if identity in server.tasks:
            server.tasks[identity].over = True
        status = fault if fault in STATUSES else "Task not found"
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
        if fault.startswith("moderated"):
            place = ["body"] if fault == "moderated somewhere" else ["body", "prompt"]
            detail = [{"loc": place, "msg": "flagged", "type": "content_policy_violation"}]
            return web.json_response({"detail": detail}, status=422)
        if fault == "exhausted":
            said = "User is locked. Reason: Exhausted balance. Top up your balance at fal.ai/dashboard/billing."
            return web.json_response({"detail": said}, status=403)
        task = server.accept(fields["seed"], key_of(request))
        base = f"https://queue.fal.run/fal-ai/flux-pro/requests/{task.id}"  # also behind the router
        addresses = {"status_url": f"{base}/status", "response_url": base, "cancel_url": f"{base}/cancel"}
        return {"request_id": task.id, "status": "IN_QUEUE", "queue_position": 0, **addresses}
    identity = request.path.split("/requests/")[1].split("/")[0]
    if identity not in server.tasks:
        return error(host, 404, "Request not found")
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
        return {"status": "COMPLETED", "error": "Internal error", "error_type": "internal_error", "logs": None}
    task = progress(server, identity)
    response = f"https://queue.fal.run/fal-ai/flux-pro/requests/{identity}"
    said = {"response_url": response, "logs": None}
    if task.over:
        return said | {"status": "COMPLETED", "metrics": {}}
    return said | ({"status": "IN_QUEUE", "queue_position": 1} if task.pending else {"status": "IN_PROGRESS"})


def replicate(server: StandIn, host: str, stage: str, fault: str, request: web.Request, fields: Any) -> Any:
    if stage == "upload":
        return {"id": "file-1", "urls": {"get": f"https://api.replicate.com/v1/files/file-{len(server.requests)}"}}
    if fault == "throttled":
        said = "Request was throttled. Your rate limit resets in ~0s."
        return web.json_response({"detail": said, "status": 429, "retry_after": 0}, status=429)
    if stage == "submit":
        task = server.accept(fields["input"]["seed"], key_of(request))
    else:
        identity = request.path.split("/predictions/")[1].split("/")[0]
        if identity not in server.tasks:
            return error(host, 404, "Prediction not found")
        task = progress(server, identity) if stage == "poll" else server.tasks[identity]
    if stage == "cancel":
        task.cancelled = task.over = True
    base = f"https://api.replicate.com/v1/predictions/{task.id}"
    said = {"id": task.id, "urls": {"get": base, "cancel": f"{base}/cancel"}, "error": None, "output": None}
    said |= {"model": "black-forest-labs/flux-kontext-pro", "version": "hidden", "input": {}, "logs": ""}
    said |= {"created_at": "2026-11-23T00:00:00Z"}
    words = {"failed": "Prediction failed", "flagged": "The input or output was flagged as sensitive. (E005)"}
    words["flagged output"] = "The output was flagged as sensitive."
    if fault in words:
        task.over = True
        return said | {"status": "failed", "error": words[fault]}
    if task.cancelled:
        return said | {"status": "canceled"}
    if task.over and stage == "poll":
        address = None if fault == "removed" else f"https://replicate.delivery/{task.id}/out.png"
        return said | {"status": "succeeded", "output": address, "data_removed": fault == "removed"}
    return said | {"status": "starting" if stage == "submit" else "processing"}


def together(server: StandIn, host: str, stage: str, fault: str, request: web.Request, fields: Any) -> Any:
    if fault == "moderated":
        return web.json_response({"error": {"message": "NSFW content detected"}}, status=422)
    task = server.accept(fields.get("seed", 1), key_of(request))
    task.over = True
    picture = base64.b64encode(server.picture).decode()
    data = [{"index": 0, "b64_json": picture, "type": "b64_json"}]
    return {"id": task.id, "model": fields["model"], "object": "list", "data": data}


def runware(server: StandIn, host: str, stage: str, fault: str, request: web.Request, fields: Any) -> Any:
    asked = fields[0]["taskUUID"]
    if fault.startswith("code "):
        return error(host, 400, "said upstream", code=fault.removeprefix("code "))
    if fault == "moderated":
        said = {"code": "invalidProviderContent", "message": "flagged", "taskUUID": asked}
        return web.json_response({"errors": [said]}, status=400)
    if stage == "submit":
        task = server.accept(fields[0].get("seed", 1), key_of(request))
        server.tasks[asked] = server.tasks.pop(task.id)
        return {"data": [{"taskType": "imageInference", "taskUUID": asked}]}
    if asked not in server.tasks:
        return {"errors": [{"code": "taskFailedOrNotFound", "message": "no such task", "taskUUID": asked}]}
    task = progress(server, asked)
    item = {"taskType": "imageInference", "taskUUID": asked}
    if fault == "failed item":
        task.over = True
        return {"data": [item | {"status": "error", "error": {"code": "providerTimeout", "message": "gave up"}}]}
    if not task.over:
        return {"data": [item | {"status": "processing"}]}
    done = {"status": "success", "imageURL": f"https://im.runware.ai/{asked}.png", "cost": 0.04, "seed": task.seed}
    done |= {"imageUUID": asked, "NSFWContent": fault == "nsfw"}
    return {"data": [item | done]}


def verda(server: StandIn, host: str, stage: str, fault: str, request: web.Request, fields: Any) -> Any:
    task = server.accept(fields["input"]["seed"], key_of(request))
    task.over = True
    return {"id": task.id, "output": {"outputs": [base64.b64encode(server.picture).decode()]}}
