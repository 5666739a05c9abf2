"""The server's routes for the Kontext History tab. Every route works on the store of the requesting user.

Ids are validated, paths are never accepted, and users' texts are JSON strings that the page shows as text.
"""

import asyncio
import dataclasses
import io
import json
import re
import tempfile
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
from aiohttp import web
from PIL import Image
from server import PromptServer

from ..kontext_core.decoding import UNREADABLE, pixels, upright
from ..kontext_core.sessions import SessionError, Store, Turn, files
from ..kontext_core.sessions.cleanup import Deleted
from . import sessions, users

ROOT = "/kontext/sessions"
LONG = ("settings",)  # left out of lists
PNG = {"Content-Type": "image/png", "Cache-Control": "private, max-age=86400, immutable"}
JPEG = {**PNG, "Content-Type": "image/jpeg"}
PRIVATE = {"X-Content-Type-Options": "nosniff", "Vary": "Comfy-User"}

Body = dict[str, Any]
Work = Callable[[Store, web.Request, Body], Any]


def install() -> None:
    """Add the routes, once, before the server starts; in-process use may have no server."""
    server = getattr(PromptServer, "instance", None)
    if server is None:
        return
    users.watch_prompts()
    routes = server.routes
    for method, path, work in (
        ("GET", "", _state),
        ("GET", "/turns/{turn}", _details),
        ("GET", "/turns/{turn}/picture", _picture),
        ("GET", "/turns/{turn}/thumbnail", _thumbnail),
        ("GET", "/turns/{turn}/path.zip", _path),
        ("GET", "/plan", _plan),
        ("PATCH", "/turns/{turn}", _mark),
        ("PATCH", "/{session}", _rename),
        ("POST", "/turns/{turn}/pointer", _point),
        ("POST", "/{session}/step", _step),
        ("POST", "/restore/{deletion}", _restore),
        ("POST", "/clean", _clean),
        ("POST", "/limit", _limit),
        ("DELETE", "/turns/{turn}", _delete_turn),
        ("DELETE", "/{session}", _delete_session),
    ):
        routes.route(method, ROOT + path)(_answering(work))
    routes.post(ROOT)(_begin)


def _answering(work: Work) -> Callable[[web.Request], Any]:
    """A handler that runs `work` in a thread, on the requesting user's store, and returns its response or JSON."""

    async def answer(request: web.Request) -> web.StreamResponse:
        store = sessions.store_of(users.user_of_request(request))
        body = await _body(request)
        return await _answered(work, store, request, body)

    return answer


async def _answered(work: Work, store: Store, request: web.Request, body: Any) -> web.StreamResponse:
    try:
        result = await asyncio.to_thread(work, store, request, body)
    except ValueError as error:
        return web.json_response({"error": str(error)}, status=400)
    return result if isinstance(result, web.StreamResponse) else web.json_response(result, headers=PRIVATE)


async def _body(request: web.Request) -> Body:
    if not request.can_read_body:
        return {}
    if request.content_type != "application/json":  # a form on another site can send other types without CORS
        raise web.HTTPUnsupportedMediaType(text="application/json is needed")
    try:
        body = await request.json()
    except json.JSONDecodeError:
        body = None
    if not isinstance(body, dict):
        raise web.HTTPBadRequest(text="a JSON object is needed")
    return body


def _value(body: Body, name: str, kind: type) -> Any:
    value = body.get(name)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise SessionError(f"{name} is {value!r}; a value of the type {kind.__name__} is needed.")
    return value


def _changed(store: Store, session: str, **answer: Any) -> Body:
    sessions.announce(session)
    return {"session": session, **answer}


# Reading


def _state(store: Store, request: web.Request, _: Body) -> Body:
    """The sessions, and the turns of the requested one; only the revision if `since` is current."""
    revision = store.fact("revision")
    if request.query.get("since") == str(revision):
        return {"revision": revision}
    live = store.sessions()
    chosen = next((each for each in live if each.id == request.query.get("session")), None)
    missing = store.missing(chosen.id) if chosen else set()
    turns = [_row(turn) | {"missing": turn.id in missing} for turn in (store.turns(chosen.id) if chosen else ())]
    return {
        "revision": revision,
        "sessions": [each._asdict() for each in live],
        "session": chosen and chosen._asdict(),
        "turns": turns,
    }


def _row(turn: Turn) -> Body:
    return {name: value for name, value in turn._asdict().items() if name not in LONG}


def _details(store: Store, request: web.Request, _: Body) -> Body:
    return store.turn(request.match_info["turn"])._asdict()


def _picture(store: Store, request: web.Request, _: Body) -> web.StreamResponse:
    turn = store.turn(request.match_info["turn"])
    path = store.file(turn, files.PICTURE)
    if not path.is_file():
        return web.json_response({"error": f"the picture of turn {turn.number} is gone"}, status=404)
    return web.FileResponse(path, headers=PNG | PRIVATE)


def _thumbnail(store: Store, request: web.Request, _: Body) -> web.StreamResponse:
    return web.Response(body=store.thumbnail(store.turn(request.match_info["turn"])), headers=JPEG | PRIVATE)


def _path(store: Store, request: web.Request, _: Body) -> web.StreamResponse:
    """An archive of the numbered files from the first picture to a turn."""
    archive = tempfile.TemporaryFile()  # noqa: SIM115 - closed when the response has been sent
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as content:
        for place, turn in enumerate(store.path(request.match_info["turn"])):
            path = store.file(turn, files.PICTURE)
            if not path.is_file():
                raise SessionError(f"the picture of turn {turn.number} is gone; the path cannot be exported whole.")
            content.write(path, f"{place:03}_{_slug(turn.instruction or 'first picture')}.png")
    archive.seek(0)
    response = web.Response(
        body=getattr(archive, "file", archive), headers={"Content-Type": "application/zip", **PRIVATE}
    )
    response["archive"] = archive  # on Windows a wrapper, which closes the file when it is collected
    return response


def _slug(text: str) -> str:
    """A part of a file name, made from a user's text."""
    return re.sub(r"[^\w]+", "_", text).strip("_")[:40] or "turn"


def _plan(store: Store, _: web.Request, __: Body) -> Body:
    plan = store.plan()
    return dataclasses.asdict(plan) | {"unnamed": len(plan.unnamed), "freed": plan.freed}


# Changing


async def _begin(request: web.Request) -> web.StreamResponse:
    """Begin a session with a picture, which is the request's body."""
    store = sessions.store_of(users.user_of_request(request))
    if not request.content_type.startswith("image/"):
        raise web.HTTPUnsupportedMediaType(text="a picture is needed")
    return await _answered(_begin_with, store, request, await request.read())


def _begin_with(store: Store, request: web.Request, content: bytes) -> Body:
    name = request.query.get("name", "")
    free = (candidate for candidate in _names(name) if store.find(candidate) is None)
    session = store.begin(next(free), _decoded(content))
    return _changed(store, session.id, name=session.name)


def _names(name: str) -> Any:
    yield name
    yield from (f"{name} ({count})" for count in range(2, 10_000))


def _decoded(content: bytes) -> np.ndarray:
    """(h, w, 3) uint8, rotated by its EXIF orientation. Raises SessionError for anything but a picture."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            return (255 * pixels(upright(image))).round().astype(np.uint8)
    except UNREADABLE as error:
        raise SessionError(f"this is no picture that can be read: {error}") from error


def _mark(store: Store, request: web.Request, body: Body) -> Body:
    turn = request.match_info["turn"]
    if "star" in body:
        store.star(turn, _value(body, "star", bool))
    if "note" in body:
        store.note(turn, _value(body, "note", str))
    return _changed(store, store.turn(turn).session)


def _rename(store: Store, request: web.Request, body: Body) -> Body:
    store.rename(request.match_info["session"], _value(body, "name", str))
    session = store.session(request.match_info["session"])
    return _changed(store, session.id, name=session.name)


def _point(store: Store, request: web.Request, _: Body) -> Body:
    store.move(request.match_info["turn"])
    return _changed(store, store.turn(request.match_info["turn"]).session)


def _step(store: Store, request: web.Request, body: Body) -> Body:
    turn = store.step(request.match_info["session"], _value(body, "how", str))
    return _changed(store, turn.session, turn=turn.id, number=turn.number)


def _delete_turn(store: Store, request: web.Request, _: Body) -> Body:
    session = store.turn(request.match_info["turn"]).session
    return _changed(store, session, deletion=store.delete_turn(request.match_info["turn"]))


def _delete_session(store: Store, request: web.Request, _: Body) -> Body:
    session = request.match_info["session"]
    return _changed(store, session, deletion=store.delete_session(session))


def _restore(store: Store, request: web.Request, _: Body) -> Body:
    return _changed(store, store.restore(request.match_info["deletion"]))


def _clean(store: Store, _: web.Request, body: Body) -> Body:
    """Execute a plan that the user saw, restricted to the deletions and latents whose ids are given."""
    plan = store.plan()
    shown, latents = set(_value(body, "deleted", list)), set(_value(body, "latents", list))
    chosen: list[Deleted] = [each for each in plan.deleted if each.id in shown]
    plan = dataclasses.replace(
        plan,
        deleted=tuple(chosen),
        unnamed=plan.unnamed if _value(body, "unnamed", bool) else (),
        latents=tuple(turn for turn in plan.latents if turn in latents),
    )
    return _changed(store, "", freed=store.clean(plan))


def _limit(store: Store, _: web.Request, body: Body) -> Body:
    store.set_limit(_value(body, "bytes", int))
    return _changed(store, "")
