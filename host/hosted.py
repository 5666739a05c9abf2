"""Hosted models as a host node: keys from the user folder, progress and interruption, files, the report."""

import asyncio
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import comfy.model_management
import comfy.utils
import folder_paths
import torch
from comfy_execution.graph_utils import ExecutionBlocker
from torch import Tensor

from ..kontext_core.disk import write_whole
from ..kontext_core.hosted import PRICES_OF, PROVIDERS, errors
from ..kontext_core.hosted.batch import Batch
from ..kontext_core.hosted.client import Client, Edited
from ..kontext_core.hosted.errors import HostedError
from ..kontext_core.hosted.journal import Journal
from ..kontext_core.hosted.keys import find_key
from ..kontext_core.hosted.network import open_session
from ..kontext_core.hosted.pictures import to_send
from ..kontext_core.hosted.provider import SETTINGS, Provider, is_own
from ..kontext_core.hosted.ratios import chosen, of_picture
from ..kontext_core.hosted.wire import Job, Ratio, Sent
from .images import given, rgb
from .notices import notify, show

AS_FIRST, FREE = "as the first picture", "free"
STOP, SOURCE = "stop", "give the source picture back"
GLANCE = 0.1  # s between checks of the interrupt button
SAVED_AS = "kontext_hosted"

# an account's slots for active tasks, per event loop: the host runs a prompt's async nodes concurrently in one
_places: dict[asyncio.AbstractEventLoop, dict[str, asyncio.Semaphore]] = {}


class Settings(NamedTuple):
    """The node's settings; `provider` and `ratio` include the inputs of their choices."""

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

    references   (1, h, w, c) in 0..1, c as for `images.rgb`; sent in this order

    A dry run returns one blocker, which ends the graph behind the picture. Raises ValueError for an invalid request,
    HostedError (a ValueError) when no picture came back, and the host's interruption.
    """
    provider = PROVIDERS[settings.provider["provider"]]
    sources = [_source(number, image) for number, image in enumerate(references, 1)]
    if not settings.instruction.strip():
        raise ValueError("instruction is empty; say what to change, as in: make the background red.")
    sent = await _encoded(sources)
    ratio = _ratio(settings.ratio, sent)
    seeds = [provider.seed(settings.seed + number) for number in range(settings.pictures)]
    jobs = [_job(settings, sent, ratio, seed) for seed in seeds]
    provider.submit(jobs[0])  # reports what this provider does not accept, before anything is sent
    header = _header(provider, settings, jobs)
    if settings.dry_run:
        return [ExecutionBlocker(None)], "\n".join(("dry run: nothing was sent", *header))
    folder = Path(folder_paths.get_system_user_directory("kontext"))
    names = [each.key_name for each in PROVIDERS.values()]
    key = find_key(provider.key_name, os.environ, folder / "keys.json", names)
    async with open_session() as session:
        client = Client(session, provider, key, Journal(folder / "journal"))
        batch = Batch(client, jobs, provider.title, _places_of(provider, settings.provider["model"]))
        try:
            await _watched(batch, settings.time_limit)
        except comfy.model_management.InterruptProcessingException:
            _tell_what_is_at_stake(batch, provider)
            raise
    images, lines = _outcome(settings, provider, batch, sources)
    return images, "\n".join((*header, *lines))


async def _encoded(sources: Sequence[Tensor]) -> tuple[Sent, ...]:
    """Encode pictures in a thread: a large one takes a second or two, during which the host continues."""
    sent = []
    for source in sources:
        comfy.model_management.throw_exception_if_processing_interrupted()
        sent.append(await asyncio.to_thread(to_send, source[0].numpy()))
    return tuple(sent)


def _source(number: int, image: Tensor) -> Tensor:
    if image.shape[0] != 1:
        raise ValueError(
            f"reference {number} holds {image.shape[0]} pictures; one each is needed. Take one with Image From Batch, "
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
    for loop in [each for each in _places if each.is_closed()]:
        del _places[loop]
    places = _places.setdefault(asyncio.get_running_loop(), {})
    return places.setdefault(f"{provider.title} {model}", asyncio.Semaphore(provider.models[model].active))


async def _watched(batch: Batch, time_limit: int) -> None:
    """Run the batch with progress on the node. Ends it on the interrupt button and at the time limit, which counts only
    the seconds that this coroutine waits, not those in which another node blocked the host's event loop."""
    bar, shown = comfy.utils.ProgressBar(100), ""
    waited, before = 0.0, time.monotonic()
    work = asyncio.create_task(batch.run())
    try:
        while not work.done() and waited < time_limit:
            await asyncio.wait({work}, timeout=GLANCE)
            comfy.model_management.throw_exception_if_processing_interrupted()
            now = time.monotonic()
            waited, before = waited + min(now - before, 2 * GLANCE), now
            part, line = batch.progress()
            bar.update_absolute(round(100 * part))
            line = f"{line}, {waited:.0f} s"
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
    """Pictures and report lines; raises the error if there is no picture."""
    images, lines, problems, total = [], [], [], 0.0
    for job, done, under_way in zip(batch.jobs, batch.done, batch.under_way, strict=True):
        if isinstance(done, Edited):
            images.append(given(torch.from_numpy(done.picture.pixels)[None]))
            cost = _price(provider, job.model) if done.cost is None else done.cost
            total += 0 if done.resumed else cost or 0
            lines.append(_line(job, done, cost))
            lines += [f"  {done.earlier}"] if done.earlier else []
            lines += [_save(done)] if settings.save_original else []
            continue
        error = done or HostedError(
            errors.TIME,
            f"no result from {provider.title} within time_limit, {settings.time_limit} s.",
            under_way.consequence(errors.TIME),
        )
        problems.append((f"seed {job.seed}", error))
        if error.case in errors.MODERATED and settings.moderated == SOURCE and sources:
            images.append(given(sources[0]))
            lines.append(f"seed {job.seed}: the source picture is given back")
    told = _grouped([(name, str(error)) for name, error in problems])
    if not images:
        raise HostedError(problems[0][1].case, "\n".join(told) if len(problems) > 1 else str(problems[0][1]))
    for line in told:
        notify(line)
    return images, [*lines, *told, *([f"total ${total:.2f}"] if total else [])]


def _tell_what_is_at_stake(batch: Batch, provider: Provider) -> None:
    """A run that is stopped has no report, so finished requests that may have to be paid for are reported at once."""
    told = []
    for job, done, under_way in zip(batch.jobs, batch.done, batch.under_way, strict=True):
        if isinstance(done, Edited):
            kept = "lost with this run" if provider.answers_at_once else "fetched again by the next run with this seed"
            told.append((f"seed {job.seed}", f"request {done.id} was finished; its picture is {kept}."))
        elif under_way.sent:
            told.append((f"seed {job.seed}", str(done) if done else f"stopped. {under_way.consequence(errors.TIME)}"))
    for line in _grouped(told):
        notify(line)


def _grouped(told: Sequence[tuple[str, str]]) -> list[str]:
    """Report the same message about several pictures only once."""
    names: dict[str, list[str]] = {}
    for name, words in told:
        names.setdefault(words, []).append(name)
    return [f"{', '.join(who)}: {words}" for words, who in names.items()]


def _line(job: Job, done: Edited, cost: float | None) -> str:
    height, width = done.picture.pixels.shape[:2]
    used = f"seed {job.seed}" if done.seed in (None, job.seed) else f"seed {job.seed} (used: {done.seed})"
    price = "price unknown" if cost is None else f"${cost:.2f}"
    if done.resumed:
        price = "of an earlier run, not sent again"
    return f"{used}: {width}x{height} px, {done.seconds:.1f} s, {price}, request {done.id or 'without an id'}"


def _price(provider: Provider, model: str) -> float | None:
    return provider.models[model].price


def _header(provider: Provider, settings: Settings, jobs: Sequence[Job]) -> list[str]:
    """The destination, and everything that is sent except the key."""
    job = jobs[0]
    price = _price(provider, job.model)
    cost = f"price: see {provider.title}"
    if price is not None:
        cost = f"{settings.pictures} x ${price:g} = ${settings.pictures * price:.2f} by the list of {PRICES_OF}"
    lines = [f"{provider.title} [{job.model}]: {cost}"]
    lines += [f"untested: {provider.untested}"] if provider.untested else []
    words = ("would be sent", "would not be sent") if settings.dry_run else ("was sent", "was not sent")
    lines.append(f"{words[0]}: instruction of {len(job.instruction)} characters")
    for number, picture in enumerate(job.pictures, 1):
        note = picture.note and f", {picture.note}"
        lines.append(f"  reference {number}: {picture.width}x{picture.height} px, {_bytes(picture.size)} of PNG{note}")
    shape = f"ratio {job.ratio}" + (f", {AS_FIRST}" if job.ratio.of_picture else "")
    sent = {**{name: job.options[name] for name in ("region", "bill_to") if job.options.get(name)}}
    sent |= provider.settings(job)
    sent |= {"lora_weight": job.options["lora_weight"]} if "lora" in sent else {}
    named = [f"{name.replace('_', ' ')} {_word(value)}" for name, value in sent.items()]
    lines.append("  " + ", ".join((shape, _seeds(provider, settings.seed, jobs), job.output_format, *named)))
    left_out = [name for name in job.options if _is_set(job, name) and name not in provider.models[job.model].settings]
    if left_out:
        lines.append(f"  {words[1]}, as [{job.model}] does not take it: " + ", ".join(left_out).replace("_", " "))
    return lines


def _is_set(job: Job, name: str) -> bool:
    """Whether a setting of the node is accepted by some model, and not left to the provider."""
    value = job.options[name]
    return name in SETTINGS and value is not False and not is_own(name, value)


def _seeds(provider: Provider, seed: int, jobs: Sequence[Job]) -> str:
    first, last = jobs[0].seed, jobs[-1].seed
    seeds = f"seed {first}" if len(jobs) == 1 else f"seeds {first} to {last}"
    low, high = provider.seeds
    return seeds if first == seed else f"{seeds} (for {seed}: {provider.title} takes {low:g} to {high:.0f})"


def _word(value: object) -> str:
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else str(value)


def _bytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.1f} kB"


def _save(done: Edited) -> str:
    """Write the received bytes, with their provenance signature, into the output folder; returns a report line.

    A picture that was paid for is returned even if that fails.
    """
    try:
        folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(
            SAVED_AS, folder_paths.get_output_directory()
        )
        path = Path(folder) / f"{name}_{counter:05}_.{done.picture.ending}"
        write_whole(path, lambda file: file.write(done.content))
    except OSError as error:
        notify(f"the file as received could not be saved ({error.strerror}); the picture is given all the same.")
        return f"  not saved as received: {error.strerror}"
    return f"  saved as received: {Path(subfolder) / path.name}"
