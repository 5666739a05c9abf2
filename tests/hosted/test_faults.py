"""Many pictures at once, with faults of every kind: none is accepted twice; charged ones are delivered or reported."""

import asyncio
import logging
import os
import random
import time

import pytest

from kontext_core.hosted import PROVIDERS, errors
from kontext_core.hosted.client import Client
from kontext_core.hosted.errors import HostedError
from kontext_core.hosted.network import open_session
from kontext_core.hosted.progress import Progress
from stand_in import PICTURE, Loopback
from stand_in.jobs import KEY, QUICK, job

BFL = "Black Forest Labs"
QUEUED = [title for title, provider in PROVIDERS.items() if not provider.answers_at_once]
MAY_HAVE = "may have been accepted and charged"
PICTURES = int(os.environ.get("HOSTED_FAULTS", "120"))  # 1000 in full
RANDOM = {  # stage: faults, of which one in three requests gets one
    "submit": ["429", "402", "422", "500", "503", "404", "die", "die after", "500 after", "not json", "truncated"]
    + ["foreign", "429 later", *3 * ["shaken"]],
    "poll": ["429", "500", "503", "400", "403", "die", "not json", "truncated", "slow", "redirect"]
    + ["Request Moderated", "Error", *3 * ["shaken"]],
    "download": ["404", "429", "500", "die", "truncated", "slow", "not a picture", "redirect"]
    + ["to //[zz", "to https://127.0.0.1/x", "redirect in the clear"],
}
RARE = ["stall", "stall after"]  # each costs a timeout


def faults(chance):
    """A fault for one in three requests; for one in a hundred a slow one."""

    def draw(kinds):
        def fault():
            if chance.random() < 0.01:
                return chance.choice(RARE)
            return chance.choice(kinds) if chance.random() < 1 / 3 else ""

        return fault

    return {stage: draw(kinds) for stage, kinds in RANDOM.items()}


@pytest.mark.parametrize("provider", QUEUED)
def test_pictures_with_random_faults_are_paid_once_and_delivered_or_named(
    service, journal, edit, certificate, caplog, monkeypatch, provider
):
    """Bad values in every field, full disks, clock steps, runs cancelled at any point, two clients with the same
    requests: nothing is accepted twice, and charged pictures are delivered or reported."""
    caplog.set_level(logging.DEBUG)
    chance = random.Random(f"{provider} 20261128")
    service.chance = random.Random(provider)
    service.faults, service.pending = faults(chance), 0
    real_fsync, real_time = os.fsync, time.time

    def fsync(handle):
        if chance.random() < 1 / 50:
            raise OSError(28, "No space left on device")
        return real_fsync(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr("time.time", lambda: real_time() + chance.choice([0, 0, 0, -3600, 3600, -0.5, 1e6]))
    share = PICTURES if provider == BFL else PICTURES // 4
    jobs = [job(provider) for _ in range(share)]
    told = {wanted.seed: [] for wanted in jobs}
    delivered = set()

    async def one(client, places, wanted):
        async with places:
            progress = Progress(provider)
            run = asyncio.create_task(client.edit(wanted, progress))
            if chance.random() < 1 / 20:
                await asyncio.sleep(chance.random() / 50)
                run.cancel()
            try:
                edited = await run
                assert edited.content == PICTURE
                delivered.add(wanted.seed)
                told[wanted.seed].append(edited.earlier)
            except HostedError as error:
                told[wanted.seed].append(str(error))
            except asyncio.CancelledError:
                told[wanted.seed].append(progress.consequence(errors.TIME))

    async def everything(client):
        places = asyncio.Semaphore(24)
        async with open_session(Loopback(service.port), certificate.trust) as session:
            second = Client(session, PROVIDERS[provider], KEY, journal, QUICK)
            twice = [(second, wanted) for wanted in jobs[::5]]
            await asyncio.gather(*(one(who, places, wanted) for who, wanted in [*((client, w) for w in jobs), *twice]))

    edit(work=everything, provider=provider)
    once = {wanted.seed for wanted in jobs} - {wanted.seed for wanted in jobs[::5]}
    assert share / 10 < len(delivered) < share
    charged = {task.seed: name for name, task in service.tasks.items()}
    unnamed = [
        seed
        for seed, name in charged.items()
        if seed not in delivered and not any(name in text or MAY_HAVE in text for text in told[seed])
    ]
    assert not unnamed, [told[seed] for seed in unnamed]
    twice = [seed for seed in once if service.accepted[seed] > 1]
    assert not twice

    # Later, without faults, everything that was paid for and recorded is fetched, not paid again.
    monkeypatch.undo()
    service.faults = {}
    before = dict(service.accepted)

    async def again(client):
        return await asyncio.gather(*(client.edit(wanted) for wanted in jobs), return_exceptions=True)

    edited = edit(work=again, provider=provider)
    resumed = {wanted.seed for wanted, each in zip(jobs, edited, strict=True) if getattr(each, "resumed", False)}
    assert resumed
    assert all(service.accepted[seed] == before.get(seed, 0) for seed in resumed)

    written = "".join(path.read_text() for path in journal.folder.glob("*.json"))
    assert KEY not in written + caplog.text + "".join(text for texts in told.values() for text in texts)
    assert not [r for r in service.requests if KEY in r.text and r.host in ("collector.example", "delivery-eu1.bfl.ai")]
