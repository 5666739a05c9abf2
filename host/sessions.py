"""Sessions for the host's nodes: ownership, pictures as IMAGE, keeping unchanged pixels, events."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import comfy.model_management
import folder_paths
import numpy as np
import torch
from comfy.cli_args import args
from comfy_execution.graph_utils import ExecutionBlocker
from comfy_execution.utils import get_executing_context
from server import PromptServer
from torch import Tensor

from ..kontext_core import preservation
from ..kontext_core.sessions import Made, Result, Session, SessionError, Store, Turn
from ..kontext_core.sessions.graph import how_made
from .images import given, rgb
from .latents import Latent
from .notices import notify
from .users import user_of_run

CHANGED = "kontext.sessions"  # event that tells browsers about a change
LISTED = 10  # names in an error


class Place(NamedTuple):
    """A user's turn from which an edit continues: the value of a SESSION socket."""

    user: str
    turn: str


class Opened(NamedTuple):
    """The outputs of the node before an edit."""

    picture: Tensor  # (1, h, w, 3) in 0..1
    first: Any  # the session's first picture, or a blocker that reports that its file is missing
    latent: Any  # a LATENT, or a blocker that reports why there is none
    place: Place
    history: str
    report: str


class Saved(NamedTuple):
    """The outputs of the node after an edit."""

    pictures: Tensor  # (b, h, w, 3) as they are stored
    masks: Tensor  # (b, h, w) in 0..1: 0 where the pixel equals the previous turn's
    place: Place
    report: str


def store_of(user: str) -> Store:
    """A user's store, in a folder that the host does not serve."""
    return Store(Path(folder_paths.get_system_user_directory("kontext")) / "sessions" / user)


def open_session(
    name: str,
    number: int | None,
    first_picture: Tensor | None,
    graph: Mapping[str, Any],
    information: Mapping[str, Any] | None,
) -> Opened:
    """A turn of the running user's session, which is begun with `first_picture` if it does not exist.

    number        of the turn; None: the turn at the pointer
    graph         the graph being executed, in API format
    information   for the metadata of the first picture's file, such as the workflow

    Raises ValueError when there is neither a session nor a picture, and for a turn that is not there.
    """
    user = user_of_run()
    store = store_of(user)
    session = store.find(name)
    if session is None:
        session = store.begin(name, _first(store, name, first_picture), _metadata(graph, information))
        announce(session.id)
    root, lost = _root(store, session)
    if root is not None and first_picture is not None and not _is(root, first_picture):
        notify(
            f"first_picture is not the one that '{session.name}' began with, and is not used. Type a new session name "
            "to begin with it."
        )
    turn = _turn(store, session, number)
    pixels = store.picture(turn)
    path = store.path(turn.id)
    return Opened(
        given(_image(pixels)),
        ExecutionBlocker(lost) if root is None else given(_image(root)),
        _latent(store, session, turn),
        Place(user, turn.id),
        "\n".join(_line(each) for each in path),
        _opened_report(session, turn, pixels, root),
    )


def fingerprint(name: str, number: int | None) -> str:
    """Changes when the same inputs would open another turn."""
    user = user_of_run()
    store = store_of(user)
    session = store.find(name)
    return f"{user} {_turn(store, session, number).id if session else 'new'}"


def moves() -> str:
    """Changes when the running user moves a pointer by hand, because cached results may belong to another turn."""
    user = user_of_run()
    return f"{user} {store_of(user).fact('moves')}"


def save_turn(
    place: Place,
    instruction: str,
    image: Tensor | None,
    latent: Latent | None,
    vae: Any,
    keep: bool,
    graph: Mapping[str, Any],
    information: Mapping[str, Any] | None,
) -> Saved:
    """Store one turn for each picture, and move the pointer to the first.

    image         (b, h, w, c); None: decode `latent` with `vae`
    keep          take unchanged pixels from the previous turn, bit for bit
    graph         the graph being executed, in API format
    information   for the files' metadata, such as the workflow

    Raises ValueError for missing or contradictory inputs, and SessionError (a ValueError) when nothing could be stored.
    """
    store = store_of(place.user)
    before = store.turn(place.turn, deleted=True)  # it may have been deleted during the run
    pictures = _pictures(image, latent, vae)
    parent = store.picture(before)
    results = []
    for index, picture in enumerate(pictures):
        comfy.model_management.throw_exception_if_processing_interrupted()
        own = latent["samples"][index] if latent is not None else None
        results.append(_result(parent, picture, own, keep))
    made = _made(instruction, graph, information)
    turns = store.add(place.turn, results, made)
    announce(turns[0].session)
    _warn_of_size(store)
    stored = torch.cat([_image(result.picture) for result in results])
    masks = torch.stack([torch.from_numpy(result.mask).float() / 255 for result in results])
    return Saved(given(stored), given(masks), Place(place.user, turns[0].id), _saved_report(before, turns))


def announce(session: str) -> None:
    """Tell every browser that a session has changed, and by which run, if by one; ids reveal nothing to other users."""
    server = getattr(PromptServer, "instance", None)  # in-process use may have none
    context = get_executing_context()
    if server is not None:
        server.send_sync(CHANGED, {"session": session, "prompt_id": context and context.prompt_id})


def _first(store: Store, name: str, picture: Tensor | None) -> np.ndarray:
    if picture is None:
        names = [session.name for session in store.sessions()]
        others = f" These exist: {', '.join(names[:LISTED])}." if names else ""
        raise ValueError(f"session: none is called {name!r} yet. Connect first_picture to begin it.{others}")
    if picture.shape[0] != 1:
        raise ValueError(f"first_picture holds {picture.shape[0]} pictures; one is needed. Use Image From Batch.")
    return _bytes(rgb(picture, "first_picture")[0])


def _root(store: Store, session: Session) -> tuple[np.ndarray | None, str]:
    """The session's first picture; if its file is missing, None and the reason: other turns do not need it."""
    try:
        return store.picture(store.path(session.pointer)[0]), ""
    except SessionError as error:
        return None, str(error)


def _latent(store: Store, session: Session, turn: Turn) -> Any:
    """The turn's LATENT, or a blocker with the reason why there is none: other outputs do not need it."""
    try:
        latent = store.latent(turn)
    except SessionError as error:
        return ExecutionBlocker(str(error))
    if latent is None:
        return ExecutionBlocker(
            f"turn {turn.number} of '{session.name}' has no latent; encode the image with VAE Encode instead."
        )
    return {"samples": given(latent[None])}


def _is(pixels: np.ndarray, picture: Tensor) -> bool:
    return picture.shape[0] == 1 and np.array_equal(pixels, _bytes(rgb(picture, "first_picture")[0]))


def _turn(store: Store, session: Session, number: int | None) -> Turn:
    if number is None:
        return store.turn(session.pointer)
    turns = {turn.number: turn for turn in store.turns(session.id)}
    if number not in turns:
        raise ValueError(
            f"turn: '{session.name}' has no turn {number}; it has {', '.join(map(str, list(turns)[-LISTED:]))}."
        )
    return turns[number]


def _pictures(image: Tensor | None, latent: Latent | None, vae: Any) -> Tensor:
    """(b, h, w, 3)."""
    if image is None:
        if latent is None or vae is None:
            raise ValueError("image is not connected; connect it, or latent and vae, from which it is decoded.")
        image = vae.decode(latent["samples"])
    pictures = rgb(image, "image")
    if latent is not None and len(latent["samples"]) != len(pictures):
        raise ValueError(f"latent is a batch of {len(latent['samples'])}, image one of {len(pictures)}; give as many.")
    return pictures


def _result(parent: np.ndarray, picture: Tensor, latent: Tensor | None, keep: bool) -> Result:
    """The picture (h, w, 3) as stored; where its mask is 0, it equals its parent, bit for bit."""
    if not keep:
        pixels = _bytes(picture)
        same = pixels.shape == parent.shape
        changed = (pixels != parent).any(-1) if same else np.ones(pixels.shape[:2], bool)
        return Result(pixels, changed.astype(np.uint8) * 255, latent)
    if picture.shape != parent.shape:
        raise ValueError(
            "image is {1}x{0} px, the turn before {3}x{2} px; to keep what did not change they must be equal. Use "
            "Kontext Restore Frame before this node, or switch keep off.".format(*picture.shape[:2], *parent.shape[:2])
        )
    kept = preservation.preserve(_image(parent)[0].movedim(-1, 0), picture.movedim(-1, 0))
    mask = (kept.mask * 255).ceil().byte().numpy()  # rounded up: any change counts
    pixels = np.where(mask[..., None] == 0, parent, _bytes(kept.picture.movedim(0, -1)))
    return Result(pixels, mask, latent, kept.is_global)


def _made(instruction: str, graph: Mapping[str, Any], information: Mapping[str, Any] | None) -> Made:
    context = get_executing_context()
    node = context.node_id if context else ""
    seed, settings, model = how_made(graph, node) if node in graph else (None, {}, "")
    return Made(instruction, seed, settings, model, _metadata(graph, information))


def _metadata(graph: Mapping[str, Any], information: Mapping[str, Any] | None) -> dict[str, str]:
    """Texts for a PNG file, as ComfyUI's Save Image writes them."""
    if args.disable_metadata:
        return {}
    return {name: json.dumps(value) for name, value in {"prompt": graph, **(information or {})}.items()}


def _warn_of_size(store: Store) -> None:
    used, limit = store.usage()
    if limit and used > limit:
        notify(
            f"the sessions take {used / 1e9:.1f} GB, more than the limit of {limit / 1e9:.1f} GB. Nothing is "
            "deleted by itself: clean up in the Kontext History tab, or raise the limit there."
        )


def _line(turn: Turn) -> str:
    return f"{turn.number}: {turn.instruction if turn.parent else 'the first picture'}"


def _opened_report(session: Session, turn: Turn, pixels: np.ndarray, root: np.ndarray | None) -> str:
    lines = [f"'{session.name}', turn {turn.number}: {turn.width}x{turn.height} px"]
    if turn.parent and root is not None and pixels.shape == root.shape:
        lines.append(f"{100 * (pixels == root).all(-1).mean():.1f} % of the first picture's pixels, bit for bit")
    return "\n".join(lines)


def _saved_report(before: Turn, turns: list[Turn]) -> str:
    lines = []
    for turn in turns:
        kept = f"{100 * turn.kept:.1f} % of turn {before.number} kept bit for bit"
        lines.append(
            f"turn {turn.number}: " + ("an edit of the whole picture, stored as it is" if turn.is_global else kept)
        )
    return "\n".join(lines)


def _image(pixels: np.ndarray) -> Tensor:
    """(1, h, w, 3) in 0..1."""
    return torch.from_numpy(pixels.astype(np.float32) / 255)[None]


def _bytes(picture: Tensor) -> np.ndarray:
    """(h, w, 3) uint8; the exact inverse of `_image`."""
    return (picture.clamp(0, 1) * 255).round().byte().numpy()
