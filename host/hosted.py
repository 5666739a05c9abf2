"""Hosted models in the host's hands: keys from the user folder, progress and interruption, files, the report."""

import asyncio
import os
import time
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import comfy.model_management
import comfy.utils
import folder_paths
import torch
from comfy_execution.graph_utils import ExecutionBlocker
from torch import Tensor

from ..kontext_core.hosted import PRICES_OF, PROVIDERS, errors
from ..kontext_core.hosted.batch import Batch
from ..kontext_core.hosted.client import Client, Edited, open_session
from ..kontext_core.hosted.errors import HostedError
from ..kontext_core.hosted.journal import Journal
from ..kontext_core.hosted.keys import find_key
from ..kontext_core.hosted.pictures import Read, read_picture, to_send
from ..kontext_core.hosted.provider import Provider
from ..kontext_core.hosted.ratios import chosen, of_picture
from ..kontext_core.hosted.wire import Job, Ratio, Sent
from .images import given, rgb
from .notices import notify, show

AS_FIRST, FREE = "as the first picture", "free"
STOP, SOURCE = "stop", "give the source picture back"
GLANCE = 0.1  # s between looks at the interrupt button
SAVED_AS = "kontext_hosted"

_places: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, asyncio.Semaphore]]
_places = weakref.WeakKeyDictionary()  # the account's active tasks; the host runs async nodes side by side


class Settings(NamedTuple):
    """What the node was set to; `provider` and `ratio` hold the inputs of their choices too."""

    provider: dict[str, Any]
    instruction: str
    ratio: dict[str, Any]
    seed: int
    pictures: int
    output_format: str
    moderated: str
    time_limit: int  # s
    save_original: bool
    dry_run: bool


async def edit(settings: Settings, references: Sequence[Tensor]) -> tuple[list[Any], str]:
    """The pictures, each (1, h, w, 3) in 0..1, and the report.

    references   (1, h, w, c) in 0..1, c as for `images.rgb`; they are sent in this order

    A dry run gives one blocker, at which the graph behind the picture ends. Raises ValueError for what cannot be
    asked for, HostedError (a ValueError) when no picture came back, and the host's interruption.
    """
    provider = PROVIDERS[settings.provider["provider"]]
    sources = [_source(number, image) for number, image in enumerate(references, 1)]
    if not settings.instruction.strip():
        raise ValueError("instruction is empty; say what to change, as in: make the background red.")
    sent = await _encoded(sources)
    ratio = _ratio(settings.ratio, sent)
    jobs = [_job(settings, sent, ratio, settings.seed + number) for number in range(settings.pictures)]
    provider.submit(jobs[0])  # says what this provider does not take before anything is sent
    header = _header(provider, settings, jobs[0])
    if settings.dry_run:
        return [ExecutionBlocker(None)], "\n".join(("dry run: nothing was sent", *header))
    folder = Path(folder_paths.get_system_user_directory("kontext"))
    names = [each.key_name for each in PROVIDERS.values()]
    key = find_key(provider.key_name, os.environ, folder / "keys.json", names)
    async with open_session() as session:
        client = Client(session, provider, key, Journal(folder / "journal"))
        batch = Batch(client, jobs, _places_of(provider, settings.provider["model"]))
        await _watched(batch, settings.time_limit)
    images, lines = _outcome(settings, provider, batch, sources)
    return images, "\n".join((*header, *lines))


async def _encoded(sources: Sequence[Tensor]) -> tuple[Sent, ...]:
    """A large picture takes a second or two, in which the host goes on."""
    sent = []
    for source in sources:
        comfy.model_management.throw_exception_if_processing_interrupted()
        sent.append(await asyncio.to_thread(to_send, source[0].numpy()))
    return tuple(sent)


def _source(number: int, image: Tensor) -> Tensor:
    if image.shape[0] != 1:
        raise ValueError(
            f"reference {number} holds {image.shape[0]} pictures; one each is needed. Take one with ImageFromBatch, "
            "and connect each to a socket of its own."
        )
    return rgb(image, f"reference {number}")


def _ratio(setting: Mapping[str, Any], sent: Sequence[Sent]) -> Ratio:
    name = setting["ratio"]
    if name == FREE:
        return chosen(setting["shape"])
    if name != AS_FIRST:
        return chosen(name)
    if not sent:
        raise ValueError(f"ratio is '{AS_FIRST}' and no reference is connected. Connect one, or choose a ratio.")
    return of_picture(sent[0].width, sent[0].height)


def _job(settings: Settings, sent: tuple[Sent, ...], ratio: Ratio, seed: int) -> Job:
    options = {name: value for name, value in settings.provider.items() if name not in ("provider", "model")}
    model, output_format = settings.provider["model"], settings.output_format
    return Job(model, settings.instruction, sent, ratio, seed, output_format, options)


def _places_of(provider: Provider, model: str) -> asyncio.Semaphore:
    places = _places.setdefault(asyncio.get_running_loop(), {})
    return places.setdefault(f"{provider.title} {model}", asyncio.Semaphore(provider.models[model].active))


async def _watched(batch: Batch, time_limit: int) -> None:
    """Runs the batch with progress on the node. Ends it on the interrupt button and at the time limit."""
    bar, shown, started = comfy.utils.ProgressBar(100), "", time.monotonic()
    work = asyncio.create_task(batch.run())
    try:
        while not work.done() and (seconds := time.monotonic() - started) < time_limit:
            await asyncio.wait({work}, timeout=GLANCE)
            comfy.model_management.throw_exception_if_processing_interrupted()
            part, line = batch.progress()
            bar.update_absolute(round(100 * part))
            line = f"{line}, {seconds:.0f} s"
            if line != shown:
                show(line)
                shown = line
        if work.done():
            work.result()
    finally:
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)


def _outcome(
    settings: Settings, provider: Provider, batch: Batch, sources: list[Tensor]
) -> tuple[list[Tensor], list[str]]:
    """Pictures and lines for the report; raises the first error when there is no picture."""
    images, lines, problems, total = [], [], [], 0.0
    for job, done in zip(batch.jobs, batch.done, strict=True):
        name = f"seed {job.seed}"
        if isinstance(done, Edited):
            read = read_picture(done.content)
            images.append(given(torch.from_numpy(read.pixels)[None]))
            cost = _price(provider, job.model) if done.cost is None else done.cost
            total += 0 if done.resumed else cost or 0
            lines.append(_line(job, done, read, cost))
            if settings.save_original:
                lines.append(f"  saved as received: {_save(done.content, read)}")
            continue
        error = done or _too_late(provider, settings.time_limit)
        problems.append((name, error))
        lines.append(f"{name}: {error}")
        if error.case in errors.MODERATED and settings.moderated == SOURCE and sources:
            images.append(given(sources[0]))
            lines.append("  the source picture is given back")
    if not images:
        raise problems[0][1]
    for name, error in problems:
        notify(f"{name}: {error}")
    return images, [*lines, f"total ${total:.2f}"] if total else lines


def _too_late(provider: Provider, limit: int) -> HostedError:
    later = (
        ""
        if provider.answers_at_once
        else (
            " Run again with the same settings within ten minutes: a picture that was finished meanwhile is fetched, "
            "not paid for again."
        )
    )
    return HostedError(errors.TIME, f"no result from {provider.title} within time_limit, {limit} s.{later}")


def _line(job: Job, done: Edited, read: Read, cost: float | None) -> str:
    height, width = read.pixels.shape[:2]
    used = f"seed {job.seed}" if done.seed in (None, job.seed) else f"seed {job.seed} (used: {done.seed})"
    price = "price unknown" if cost is None else f"${cost:.2f}"
    if done.resumed:
        price = "of an earlier run, not sent again"
    return f"{used}: {width}x{height} px, {done.seconds:.1f} s, {price}, request {done.id}"


def _price(provider: Provider, model: str) -> float | None:
    return provider.models[model].price


def _header(provider: Provider, settings: Settings, job: Job) -> list[str]:
    """Where it goes, and everything that is sent but for the key."""
    price = _price(provider, job.model)
    where = f"{provider.title} [{job.model}]"
    cost = f"price: see {provider.title}"
    if price is not None:
        cost = f"{settings.pictures} x ${price:g} = ${settings.pictures * price:.2f} by the list of {PRICES_OF}"
    lines = [f"{where}: {cost}", f"sent: instruction of {len(job.instruction)} characters"]
    for number, picture in enumerate(job.pictures, 1):
        note = picture.note and f", {picture.note}"
        lines.append(f"  reference {number}: {picture.width}x{picture.height} px, {_bytes(picture.size)} of PNG{note}")
    last = job.seed + settings.pictures - 1
    seeds = f"seed {job.seed}" if last == job.seed else f"seeds {job.seed} to {last}"
    shape = f"ratio {job.ratio}" + (f", {AS_FIRST}" if job.ratio.of_picture else "")
    words = {name: value for name, value in job.options.items() if job.model != "dev" or name == "region"}
    named = [f"{name.replace('_', ' ')} {_word(value)}" for name, value in words.items()]
    lines.append("  " + ", ".join((shape, seeds, job.output_format, *named)))
    if job.model == "dev" and provider.options:
        lines.append("  not sent, as [dev] does not have them: " + ", ".join(provider.options).replace("_", " "))
    return lines


def _word(value: object) -> str:
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else str(value)


def _bytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.1f} kB"


def _save(content: bytes, read: Read) -> str:
    """Writes the bytes as they came, with their provenance signature, into the output folder; the file's name."""
    folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(
        SAVED_AS, folder_paths.get_output_directory()
    )
    path = Path(folder) / f"{name}_{counter:05}_.{read.ending}"
    temporary = path.with_suffix(".partial")
    temporary.write_bytes(content)
    os.replace(temporary, path)
    return str(Path(subfolder) / path.name)
