"""The client's behaviour under faults of a provider, the network or a middlebox: money, key, result."""

import asyncio
import time

import pytest

from kontext_core.hosted import PROVIDERS, errors
from kontext_core.hosted.client import Client
from kontext_core.hosted.errors import HostedError
from kontext_core.hosted.network import open_session
from kontext_core.hosted.wire import Task
from stand_in import HOSTS, OVERSIZED, PICTURE, Certificate, Loopback, StandIn
from stand_in.jobs import KEY, QUICK, SENT, job

BFL = "Black Forest Labs"


def posts(service):
    return service.of("POST")


def failure(edit, *arguments, **options):
    """The case and the text of the error."""
    with pytest.raises(HostedError) as caught:
        edit(*arguments, **options)
    assert KEY not in str(caught.value)
    return caught.value.case, str(caught.value)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_the_bytes_arrive_as_they_were_sent_and_the_key_goes_to_the_provider_alone(service, edit, provider):
    wanted = job(provider)
    edited = edit(wanted, provider)
    assert edited.content == PICTURE
    assert service.accepted == {wanted.seed: 1}
    own, hosts = [], PROVIDERS[provider].hosts
    for request in service.requests:
        if any(request.host == host or request.host.endswith("." + host) for host in hosts):
            own.append(request)
        if "delivery" in request.host or request not in own:
            assert KEY not in request.text
    assert any(KEY in request.text for request in own)


@pytest.mark.parametrize("pictures", [0, 1, 4])
def test_pictures_go_along_natively(service, edit, pictures):
    edit(job(pictures=pictures))
    names = [f'"input_image{end}"' for end in ("", "_2", "_3", "_4")]
    assert sum(name in posts(service)[0].body.decode() for name in names) == pictures


SUBMIT = {  # fault: case, accepted; each after exactly one POST
    "400": (errors.REFUSED, 0),
    "402": (errors.NO_CREDITS, 0),
    "403": (errors.BAD_KEY, 0),
    "422": (errors.REFUSED, 0),
    "malformed key": (errors.BAD_KEY, 0),
    "500": (errors.DOWN, 0),
    "503": (errors.DOWN, 0),
    "500 after": (errors.DOWN, 1),
    "redirect": (errors.REDIRECT, 0),
    "404": (errors.REFUSED, 0),
    "die": (errors.BROKEN, 0),
    "stall": (errors.BROKEN, 0),
    "die after": (errors.BROKEN, 1),
    "stall after": (errors.BROKEN, 1),
    "not json": (errors.UNREADABLE, 1),
    "truncated": (errors.BROKEN, 1),
    "oversized": (errors.BROKEN, 1),
    "foreign": (errors.FOREIGN, 1),
    "look-alike": (errors.FOREIGN, 1),
    "in the clear": (errors.FOREIGN, 1),
}


@pytest.mark.parametrize("fault", SUBMIT)
def test_a_request_that_may_have_been_accepted_is_not_sent_again(service, edit, fault):
    service.faults["submit"] = [fault]
    wanted = job()
    case, accepted = SUBMIT[fault]
    assert failure(edit, wanted)[0] == case
    assert len(posts(service)) == 1
    assert service.accepted[wanted.seed] == accepted
    assert not [request for request in service.requests if not request.host.endswith(".bfl.ai")]


def test_refused_fields_are_named(service, edit):
    service.faults["submit"] = ["422"]
    assert "body.aspect_ratio: Bad field" in failure(edit, job())[1]


def test_too_many_is_a_certain_no_and_waited_out(service, edit):
    service.faults["submit"] = ["429", "429", "429"]
    wanted = job()
    assert edit(wanted).content == PICTURE
    assert (len(posts(service)), service.accepted[wanted.seed]) == (4, 1)


def test_a_storm_of_too_many_ends(service, edit):
    service.faults["submit"] = lambda: "429"
    assert failure(edit, job())[0] == errors.TOO_MANY
    assert len(posts(service)) == QUICK.attempts


@pytest.mark.parametrize("fault", ["429", "500", "503", "die", "stall", "truncated", "oversized", "not json"])
def test_questions_are_repeated(service, edit, fault):
    service.faults["poll"] = [fault]
    assert edit(job()).content == PICTURE
    assert len(posts(service)) == 1


def test_an_answer_that_does_not_end_is_not_read_to_its_end(service, edit):
    service.faults["poll"] = ["oversized"]
    assert edit(job()).content == PICTURE
    assert service.streamed < OVERSIZED / 2


ENDINGS = {
    "Request Moderated": errors.INPUT_MODERATED,
    "Content Moderated": errors.OUTPUT_MODERATED,
    "Error": errors.FAILED,
    "Task not found": errors.EXPIRED,
    "404": errors.EXPIRED,
    "403": errors.BAD_KEY,
    "redirect": errors.REDIRECT,
}


@pytest.mark.parametrize("fault", ENDINGS)
def test_how_a_task_can_end(service, edit, fault):
    service.faults["poll"] = [fault]
    case, text = failure(edit, job())
    assert case == ENDINGS[fault]
    assert ("does not charge" in text) == (case in errors.MODERATED)
    assert not service.of("GET", "collector.example")


@pytest.mark.parametrize("fault", ["429", "500", "die", "stall", "truncated", "slow", "oversized", "redirect"])
def test_downloads_are_repeated_and_may_be_led_on_without_the_key(service, edit, fault):
    service.faults["download"] = [fault]
    assert edit(job()).content == PICTURE
    assert len(posts(service)) == 1
    assert not [request for request in service.of("GET", "collector.example") if KEY in request.text]


@pytest.mark.parametrize("fault", ["wrong type", "not a picture"])
def test_bytes_decide_what_a_picture_is(service, edit, fault):
    service.faults["download"] = [fault]
    assert edit(job()).content == PICTURE
    assert len(service.of("GET", "delivery")) == (2 if fault == "not a picture" else 1)


LOST = {
    "404": errors.EXPIRED,
    "403": errors.EXPIRED,
    "later clock": errors.CLOCK,
    "redirect in the clear": errors.FOREIGN,
    "redirect in circles": errors.REDIRECT,
    "not a picture": errors.NO_PICTURE,
    "500": errors.DOWN,
}


@pytest.mark.parametrize("fault", LOST)
def test_how_a_result_can_be_lost(service, edit, fault):
    service.faults["download"] = lambda: fault
    assert failure(edit, job())[0] == LOST[fault]


def test_a_sample_in_the_clear_is_not_fetched(service, edit):
    service.pending = 0
    service.faults["poll"] = ["foreign sample"]
    assert failure(edit, job())[0] == errors.FOREIGN
    assert not service.of("GET", "collector.example")


def test_the_address_of_a_result_is_used_as_it_was_signed(service, edit):
    edit(job())
    (download,) = service.of("GET", "delivery")
    assert download.path.endswith("?sig=a%2Bb%3D&se=2026-11-23T00%3A00%3A00Z")


OTHERS = [
    ("fal", "submit", "moderated", errors.INPUT_MODERATED),
    ("fal", "submit", "moderated somewhere", errors.EITHER_MODERATED),
    ("fal", "submit", "exhausted", errors.NO_CREDITS),
    ("fal", "poll", "failed", errors.FAILED),
    ("fal", "submit", "403", errors.BAD_KEY),
    ("fal", "submit", "402", errors.NO_CREDITS),
    ("Replicate", "poll", "failed", errors.FAILED),
    ("Replicate", "poll", "flagged", errors.EITHER_MODERATED),
    ("Replicate", "poll", "flagged output", errors.OUTPUT_MODERATED),
    ("Replicate", "submit", "402", errors.NO_CREDITS),
    ("Replicate", "submit", "401", errors.BAD_KEY),
    ("Together", "submit", "moderated", errors.EITHER_MODERATED),
    ("Together", "submit", "402", errors.NO_CREDITS),
    ("Together", "submit", "die after", errors.BROKEN),
    ("Together", "submit", "truncated", errors.BROKEN),
    ("Runware", "submit", "moderated", errors.EITHER_MODERATED),
    ("Runware", "poll", "failed item", errors.FAILED),
    ("Runware", "submit", "402", errors.NO_CREDITS),
    ("Runware", "submit", "401", errors.BAD_KEY),
    ("Runware", "submit", "400", errors.REFUSED),
    ("Runware", "submit", "429", errors.TOO_MANY),
    ("Verda (DataCrunch)", "submit", "422", errors.REFUSED),
    ("Verda (DataCrunch)", "submit", "500", errors.DOWN),
    ("Hugging Face", "submit", "401", errors.BAD_KEY),
    ("Hugging Face", "poll", "failed", errors.FAILED),
]


@pytest.mark.parametrize(("provider", "stage", "fault", "case"), OTHERS, ids=lambda value: value)
def test_the_other_providers_errors_have_the_same_names(service, edit, provider, stage, fault, case):
    service.faults[stage] = lambda: fault
    assert failure(edit, job(provider), provider)[0] == case


def test_after_a_crash_the_paid_result_is_fetched(service, edit, journal):
    wanted = job()
    service.pending = 1000

    async def crash(client):
        work = asyncio.create_task(client.edit(wanted))
        while not service.of("GET"):
            await asyncio.sleep(0.001)
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)

    edit(work=crash)
    service.pending = 0
    for task in service.tasks.values():
        task.pending = 0
    for _ in range(2):  # a delivered picture too: polling for it costs nothing
        edited = edit(wanted)
        assert edited.resumed
        assert edited.content == PICTURE
    assert len(posts(service)) == 1
    assert service.accepted[wanted.seed] == 1


@pytest.mark.parametrize("ending", ["Task not found", "Error"])
def test_a_remembered_task_without_a_result_is_made_anew(service, edit, noted, ending):
    wanted = job()
    noted(wanted, Task("lost", "https://api.us1.bfl.ai/v1/get_result?id=lost"))
    service.faults["poll"] = [ending]
    assert edit(wanted).content == PICTURE
    assert len(posts(service)) == 1


def test_a_journal_that_somebody_changed_does_not_get_the_key(service, edit, noted):
    wanted = job()
    noted(wanted, Task("x", "https://collector.example/v1/get_result?id=x"))
    assert failure(edit, wanted)[0] == errors.FOREIGN
    assert not service.requests


ADDRESSES = [
    "http://api.bfl.ai/v1/get_result",
    "https://api.bfl.ai:8443/v1/get_result",
    "https://api.bfl.ai@collector.example/",
    "https://collector.example/api.bfl.ai",
    "https://collector.example\\@api.bfl.ai/",
    "https://api.bfl.ai.collector.example/",
    "https://evilbfl.ai/",
    "https://api.bfl.ai /x",
    "https://api.bfl.ai/x\r\nHost: collector.example",
    "https://[::1]/",
    "https://",
    "//api.bfl.ai/x",
    "",
]


@pytest.mark.parametrize("address", ADDRESSES)
def test_addresses_that_the_key_is_not_sent_to(service, edit, noted, address):
    wanted = job()
    noted(wanted, Task("x", address))
    assert failure(edit, wanted)[0] == errors.FOREIGN
    assert not service.requests


@pytest.mark.parametrize("provider", [BFL, "fal", "Replicate", "Runware"])
def test_a_cancelled_run_leaves_no_task_and_no_socket(service, edit, noted, provider):
    wanted = job(provider)
    service.pending = 1000

    async def cancel(client):
        work = asyncio.create_task(client.edit(wanted))
        while not any(request for request in service.requests[1:]):
            await asyncio.sleep(0.001)
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    edit(work=cancel, provider=provider)
    until = time.monotonic() + 5
    while service.connections and time.monotonic() < until:
        time.sleep(0.01)
    assert not service.connections
    assert noted(wanted, provider=provider)
    can_take_back = provider in ("fal", "Replicate")
    assert [task.cancelled for task in service.tasks.values()] == [can_take_back]


def test_a_name_that_leads_nowhere(service, edit):
    class Elsewhere(type(PROVIDERS[BFL])):
        hosts = ("api.nowhere.example",)

        def submit(self, wanted, uploaded=()):
            return super().submit(wanted)._replace(url="https://api.nowhere.example/v1/x")

    async def work(client):
        client._provider = Elsewhere()
        return await client.edit(job())

    case, text = failure(edit, work=work)
    assert case == errors.NO_NETWORK
    assert "Nothing was sent" in text
    assert not service.requests


def test_an_untrusted_certificate_gets_nothing(service, edit, tmp_path):
    other = Certificate(tmp_path, HOSTS)
    assert failure(edit, job(), trust=other.trust)[0] == errors.NO_NETWORK
    assert not service.requests


def test_an_expired_certificate_hints_at_the_clock(tmp_path, edit, journal):
    expired = Certificate(tmp_path / "expired", HOSTS, expired=True)

    async def go(port):
        async with open_session(Loopback(port), expired.trust) as session:
            await Client(session, PROVIDERS[BFL], KEY, journal, QUICK).edit(job())

    with StandIn(expired) as service:
        with pytest.raises(HostedError, match="clock") as caught:
            asyncio.run(go(service.port))
        assert caught.value.case == errors.CLOCK
        assert not service.requests


def test_too_many_pictures_are_refused_before_anything_is_sent(service, edit):
    with pytest.raises(ValueError, match="5 are connected; Black Forest Labs \\[pro\\] takes 0 to 4"):
        edit(job(pictures=5))
    assert SENT.size < 1000
    assert not service.requests
