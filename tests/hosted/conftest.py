"""Runs of the pure client against the stand-in, with short pauses."""

import asyncio

import pytest

from kontext_core.hosted import PROVIDERS
from kontext_core.hosted.client import Client, open_session
from kontext_core.hosted.journal import Journal
from stand_in import Loopback
from stand_in.jobs import KEY, QUICK


@pytest.fixture
def journal(tmp_path):
    return Journal(tmp_path / "journal")


@pytest.fixture
def edit(service, certificate, journal):
    """`edit(job, provider=..., work=...)`: what `Client.edit` gives or raises, or `work(client)`."""

    def run(wanted=None, provider="Black Forest Labs", work=None, timing=QUICK, key=KEY, trust=None):
        async def go():
            async with open_session(Loopback(service.port), trust or certificate.trust) as session:
                client = Client(session, PROVIDERS[provider], key, journal, timing)
                return await (work(client) if work else client.edit(wanted, lambda state, fraction: None))

        return asyncio.run(go())

    return run
