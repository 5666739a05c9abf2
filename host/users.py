"""The user of a run or request, where ComfyUI separates users (--multi-user)."""

import re
from contextvars import ContextVar
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler
from comfy.cli_args import args
from comfy_execution.utils import get_executing_context
from server import PromptServer

ALONE = "default"  # the host's name for the single user
_MARK = "kontext_user"  # key in a queued prompt's extra data
_asking: ContextVar[str | None] = ContextVar("kontext_user", default=None)


def user_of_request(request: web.Request) -> str:
    """The user's id. Raises web.HTTPUnauthorized for one that the host does not know."""
    try:
        return _as_folder(PromptServer.instance.user_manager.get_request_user_id(request))
    except KeyError as error:
        raise web.HTTPUnauthorized(text="unknown user") from error


def user_of_run() -> str:
    """The id of the user whose prompt is being executed. Raises ValueError if the prompt has no user."""
    context = get_executing_context()
    if not args.multi_user:
        return ALONE
    running, _ = PromptServer.instance.prompt_queue.get_current_queue_volatile()
    marks = [item[3].get(_MARK) for item in running if context and item[1] == context.prompt_id]
    if not marks or not marks[0]:
        raise ValueError(
            "This ComfyUI keeps users apart (--multi-user), and this run came from none: send the header comfy-user "
            "with the prompt, as ComfyUI's own page does."
        )
    return _as_folder(marks[0])


def watch_prompts() -> None:
    """Store the user in every queued prompt from now on. Call before the server starts; only for --multi-user."""
    if not args.multi_user:
        return
    server = PromptServer.instance

    @web.middleware
    async def notice_user(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.method == "POST" and request.path in ("/prompt", "/api/prompt"):
            try:
                _asking.set(server.user_manager.get_request_user_id(request))
            except KeyError:
                _asking.set(None)
        return await handler(request)

    def mark(prompt: dict[str, Any]) -> dict[str, Any]:
        prompt.setdefault("extra_data", {})[_MARK] = _asking.get()  # overwrites the sender's value
        return prompt

    server.app.middlewares.append(notice_user)
    server.add_on_prompt_handler(mark)


def _as_folder(user: str) -> str:
    """The id as a folder's name. ValueError for an id that the host would not assign.

    The host replaces letters that are not Latin by -, so an id may begin with it.
    """
    if not re.fullmatch(r"[\w-]+", user):
        raise ValueError(f"the user id {user!r} cannot be a folder's name; it has letters, digits, - and _ only.")
    return user
