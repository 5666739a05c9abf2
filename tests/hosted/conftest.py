"""Runs of the client without ComfyUI against the stand-in, with short pauses."""

import asyncio

import pytest

from kontext_core.hosted import PROVIDERS
from kontext_core.hosted.client import Client
from kontext_core.hosted.journal import Journal
from kontext_core.hosted.network import open_session
from stand_in import Loopback
from stand_in.jobs import KEY, QUICK

LONGEST = 60  # s of one edit, after which a test fails because it does not end


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    """Ignore the machine's own proxy settings; tests of proxies set theirs."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def journal(tmp_path):
    return Journal(tmp_path / "journal")


@pytest.fixture
def edit(service, certificate, journal):
    """`edit(job, provider=..., work=...)`: returns or raises like `Client.edit`, or returns `work(client)`."""

    def run(wanted=None, provider="Black Forest Labs", work=None, timing=QUICK, key=KEY, trust=None):
        async def go():
            async with open_session(Loopback(service.port), trust or certificate.trust) as session:
                client = Client(session, PROVIDERS[provider], key, journal, timing)
                return await (work(client) if work else asyncio.wait_for(client.edit(wanted), LONGEST))

        return asyncio.run(go())

    return run


@pytest.fixture
def noted(journal):
    """`noted(job, provider=...)`: the task of a job in the journal; `noted(job, task)` records one."""

    def note(wanted, task=None, provider="Black Forest Labs", key=KEY):
        async def go():
            async with journal.claim(wanted.request_hash(provider), key) as entry:
                if task:
                    entry.remember(task)
                return entry.task

        return asyncio.run(go())

    return note
