"""Undocumented answers: pictures that arrived are delivered, and lost ones are reported with their id."""

import asyncio
import json

import pytest

from kontext_core.hosted import PROVIDERS, errors
from kontext_core.hosted.batch import Batch
from kontext_core.hosted.errors import DEEPEST_DETAIL, HostedError, detail
from kontext_core.hosted.progress import Progress
from kontext_core.hosted.wire import Task, Waiting, checked, parse, redacted
from stand_in import PICTURE
from stand_in.jobs import KEY, job
from stand_in.shapes import DEEP, STRANGE, places

BFL = "Black Forest Labs"
STILL_DELIVERED = {  # provider, stage, place, value: a fault in optional information must not cost the picture
    "the cost is a text": ("Runware", "poll", ("data", 0, "cost"), "free"),
    "the cost is negative": ("Runware", "poll", ("data", 0, "cost"), -1),
    "the cost is no number": (BFL, "submit", ("cost",), float("nan")),
    "the cost is beyond floats": (BFL, "submit", ("cost",), 10**300),
    "the cost is missing": (BFL, "submit", ("cost",), KeyError),
    "the progress is no number": (BFL, "poll", ("progress",), float("nan")),
    "the progress is infinite": (BFL, "poll", ("progress",), float("inf")),
    "the progress is a list": (BFL, "poll", ("progress",), [1]),
    "the seed is a text": (BFL, "poll", ("result", "seed"), "9" * 10_000),
    "the seed is missing": ("Runware", "poll", ("data", 0, "seed"), KeyError),
    "one answer is deep": (BFL, "poll", ("details",), DEEP),
    "one answer is another status": (BFL, "poll", ("status",), "Reasoning"),
    "one answer is empty": ("fal", "poll", (), {}),
    "no address to cancel": ("Replicate", "submit", ("urls", "cancel"), KeyError),
}


@pytest.mark.parametrize(("provider", "stage", "place", "value"), STILL_DELIVERED.values(), ids=STILL_DELIVERED)
def test_an_odd_answer_does_not_cost_the_picture(service, edit, provider, stage, place, value):
    service.faults[stage], service.change = ["changed"], (place, value)
    service.pending = 0 if place in (("result", "seed"), ("data", 0, "cost"), ("data", 0, "seed")) else 1
    wanted = job(provider)
    edited = edit(wanted, provider)
    assert edited.content == PICTURE
    assert edited.cost is None or 0 <= edited.cost < 1
    assert edited.seed is None or edited.seed == wanted.seed
    assert service.accepted == {wanted.seed: 1}


ODD_ERRORS = {
    "no place": {"detail": [{"loc": None, "msg": "bad"}]},
    "a place that is a number": {"detail": [{"loc": 3, "msg": "bad"}]},
    "deep": json.loads("[" * 300 + '"bad"' + "]" * 300),
    "all of it": {"detail": {"error": {"message": ["bad"]}}},
}


@pytest.mark.parametrize("content", ODD_ERRORS.values(), ids=ODD_ERRORS)
def test_the_words_of_an_odd_error_are_read(content):
    assert "bad" in detail(content) or DEEPEST_DETAIL < 300


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("status", [200, 400, 422, 500])
@pytest.mark.parametrize("body", [b"[" * 99_999, b'{"detail": ' + b"[" * 99_999, b"\xff", b"", b"null", b"9" * 9999])
def test_no_body_is_too_odd_to_be_parsed(provider, status, body):
    answer = parse(status, {}, body, KEY)
    error = PROVIDERS[provider].failure(answer, submitting=True)
    assert isinstance(error, HostedError)


STAGES = [(provider, "submit") for provider in PROVIDERS]
STAGES += [(title, "poll") for title, provider in PROVIDERS.items() if not provider.answers_at_once]


@pytest.mark.parametrize(("provider", "stage"), STAGES)
def test_every_field_of_every_answer_in_every_strange_shape(service, edit, provider, stage):
    """One picture for each (except for the first provider only a fifth of them): none is paid for twice, and each is
    delivered or reported."""
    service.pending = 0
    answers = []
    real = service.said
    service.said = lambda said, name: answers.append(said) if name == stage and not answers else None
    edit(job(provider), provider)
    service.said = real
    shapes = [(place, value) for place in places(answers[0]) for value in (*STRANGE, KeyError)]
    shapes = shapes if provider == BFL else shapes[::5]
    lost = []

    async def one(client, shape):
        wanted, progress = job(provider), Progress(provider)
        service.changes[wanted.seed] = (stage, shape)
        try:
            assert (await asyncio.wait_for(client.edit(wanted, progress), 1)).content == PICTURE
        except (HostedError, TimeoutError) as error:
            text = str(error) or progress.consequence(errors.TIME)
            names = [name for name, task in service.tasks.items() if task.seed == wanted.seed]
            names += ["may have been charged"] * (shape[0][-1:] in (("id",), ("request_id",), ("taskUUID",)))
            if (
                wanted.seed in service.accepted
                and not any(name in text for name in names)
                and "may have been accepted and charged" not in text
            ):
                lost.append((shape, text))

    async def work(client):
        places_ = asyncio.Semaphore(24)

        async def bounded(shape):
            async with places_:
                await one(client, shape)

        await asyncio.gather(*map(bounded, shapes))

    edit(work=work, provider=provider)
    assert not lost, lost[:3]
    assert max(service.accepted.values()) == 1


@pytest.mark.parametrize("place", [("id",), ("polling_url",), ("cost",), ()])
def test_one_odd_answer_does_not_cost_the_other_pictures_of_a_batch(service, edit, place):
    service.faults["submit"], service.change = ["changed"], (place, DEEP)

    async def work(client):
        batch = Batch(client, [job() for _ in range(6)], BFL, asyncio.Semaphore(24))
        await batch.run()
        return batch.done

    done = edit(work=work)
    assert sum(not isinstance(each, HostedError) for each in done) >= 5
    assert all(each.case == errors.UNREADABLE for each in done if isinstance(each, HostedError))


def test_a_fault_of_ours_is_an_error_of_one_picture(service, edit, monkeypatch):
    monkeypatch.setattr(type(PROVIDERS[BFL]), "poll", lambda self, task: 1 / 0)
    with pytest.raises(HostedError, match="this node failed .ZeroDivisionError") as caught:
        edit(job())
    assert "task-" in str(caught.value)


def test_a_secret_is_taken_out_in_each_of_its_forms():
    assert redacted("a k:1 b k%3A1", {"k:1", "k%3A1"}) == "a *** b ***"
    answer = parse(200, {"Location": "https://x/?k%3A1"}, b'{"k:1": ["\\u006b:1", "k%3A1"]}', "k:1")
    assert "k:1" not in json.dumps(answer.content)
    assert "k%3A1" not in json.dumps(answer.content)
    assert answer.headers == {"Location": "https://x/?***"}


@pytest.mark.parametrize("cancel", [None, 7, "https://" + 9999 * "x"])
def test_an_unusable_address_for_cancelling_costs_no_accepted_task(cancel):
    waiting = checked(Waiting(Task("id", "https://queue.fal.run/id", cancel), "queued"))
    assert waiting.task == Task("id", "https://queue.fal.run/id", "")
