"""No run is charged without a picture or a report of where it is; none pays twice if polling would have sufficed."""

import asyncio
import json
import os
import random
import stat
import subprocess
import sys
import time

import pytest

from kontext_core.hosted import PROVIDERS, errors
from kontext_core.hosted.batch import Batch
from kontext_core.hosted.errors import HostedError
from kontext_core.hosted.journal import Journal
from kontext_core.hosted.progress import Progress
from kontext_core.hosted.wire import Task
from stand_in import PICTURE
from stand_in.jobs import KEY, job
from tools import ROOT

BFL = "Black Forest Labs"
QUEUED = ("Black Forest Labs", "fal", "Replicate", "Runware", "Hugging Face")  # they return an id and are polled
MAY_HAVE = "may have been accepted and charged"


def failed(edit, *arguments, **options):
    with pytest.raises(HostedError) as caught:
        edit(*arguments, **options)
    assert KEY not in str(caught.value)
    return caught.value


def waits(service, count):
    """Wait until the stand-in has had this many requests."""

    async def wait():
        while len(service.requests) < count:
            await asyncio.sleep(0.001)

    return wait()


def cancelled(wanted, service, requests, faults=None):
    """Work for `edit`: a run of `wanted` that is cancelled after this many requests; returns its progress."""

    async def work(client):
        service.faults = faults or {}
        progress = Progress(client._provider.title)
        run = asyncio.create_task(client.edit(wanted, progress))
        await waits(service, len(service.requests) + requests)
        run.cancel()
        await asyncio.gather(run, return_exceptions=True)
        service.faults = {}
        return progress

    return work


def full_disk_after(writes):
    """A replacement of os.fsync that reports a full disk after this many files."""
    left = [writes]

    def fsync(handle):
        left[0] -= stat.S_ISREG(os.fstat(handle).st_mode)
        if left[0] < 0:
            raise OSError(28, "No space left on device")

    return fsync


# The journal


@pytest.mark.parametrize("provider", PROVIDERS)
def test_without_a_journal_nothing_is_sent(service, edit, journal, provider):
    journal.folder.parent.mkdir(exist_ok=True)
    journal.folder.write_text("a file where the folder should be")
    error = failed(edit, job(provider), provider)
    assert error.case == errors.JOURNAL
    assert "Nothing was sent" in str(error)
    assert str(journal.folder) in str(error)
    assert not service.requests


def test_a_disk_without_room_stops_a_request_before_it_is_sent(service, edit, monkeypatch):
    """An empty file, like a lock, can be created on a full disk; but nothing can be written into it."""
    monkeypatch.setattr(os, "fsync", full_disk_after(0))
    error = failed(edit, job())
    assert error.case == errors.JOURNAL
    assert "No space left on device" in str(error)
    assert not service.requests


@pytest.mark.parametrize("provider", ["Black Forest Labs", "fal", "Replicate", "Hugging Face"])
def test_a_disk_that_fills_up_after_the_request_does_not_cost_the_picture(service, edit, monkeypatch, provider):
    monkeypatch.setattr(os, "fsync", full_disk_after(1))
    wanted = job(provider)
    assert edit(wanted, provider).content == PICTURE
    assert service.accepted == {wanted.seed: 1}
    monkeypatch.undo()
    assert not edit(wanted, provider).resumed  # it was not recorded, nor was anything wrong


def test_what_could_not_be_noted_is_named_with_its_place(service, edit, monkeypatch):
    monkeypatch.setattr(os, "fsync", full_disk_after(1))
    service.faults["download"] = lambda: "500"
    text = str(failed(edit, job()))
    (task,) = service.tasks
    assert task in text
    assert f"the picture lies at https://delivery-eu1.bfl.ai/results/{task}.png" in text
    monkeypatch.setattr(os, "fsync", full_disk_after(1))
    service.faults = {"poll": lambda: "500"}
    text = str(failed(edit, job()))
    assert f"its state is at https://api.us1.bfl.ai/v1/get_result?id={list(service.tasks)[-1]}" in text


STEPS = [-1e9, -3600, -0.5, 0.5, 3600, 1e9]  # s


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("provider", QUEUED)
def test_no_step_of_the_clock_makes_a_run_pay_twice(service, edit, monkeypatch, provider, step):
    wanted = job(provider)
    service.pending = 1000
    edit(work=cancelled(wanted, service, 2), provider=provider)
    for task in service.tasks.values():
        task.pending = 0
        task.cancelled = False
    real = time.time
    monkeypatch.setattr("time.time", lambda: real() + step)
    assert edit(wanted, provider).resumed
    assert service.accepted == {wanted.seed: 1}


@pytest.mark.parametrize("provider", QUEUED)
def test_a_picture_that_was_delivered_is_asked_for_before_it_is_paid_for_again(service, edit, provider):
    wanted = job(provider)
    service.pending = 2
    assert not edit(wanted, provider).resumed
    assert edit(wanted, provider).resumed
    assert service.accepted == {wanted.seed: 1}


@pytest.mark.parametrize("provider", QUEUED)
def test_when_the_provider_has_forgotten_it_a_delivered_picture_is_made_anew(service, edit, provider):
    wanted = job(provider)
    edit(wanted, provider)
    service.tasks.clear()
    edited = edit(wanted, provider)
    assert not edited.resumed
    assert edited.earlier == ""  # nothing was lost
    assert service.accepted == {wanted.seed: 2}


def test_what_replicate_has_removed_is_made_anew(service, edit):
    wanted = job("Replicate")
    edit(wanted, "Replicate")
    service.faults["poll"] = ["removed"]
    assert not edit(wanted, "Replicate").resumed


def test_a_delivered_picture_that_is_only_waited_for_is_gone(service, edit):
    """Runware answers a question about a task that it does not know with an empty list."""
    wanted = job("Runware")
    edit(wanted, "Runware")
    service.faults["poll"], service.change = ["changed"], (("data",), [])
    assert not edit(wanted, "Runware").resumed


def test_two_equal_requests_at_once_are_paid_for_once(service, edit):
    wanted = job()

    async def work(client):
        return await asyncio.gather(*(client.edit(wanted) for _ in range(5)))

    edited = edit(work=work)
    assert all(each.content == PICTURE for each in edited)
    assert sorted(each.resumed for each in edited) == [False, True, True, True, True]
    assert service.accepted == {wanted.seed: 1}


def test_two_equal_requests_are_both_fetched_after_a_crash(service, edit):
    wanted = job()
    service.pending = 1000
    edit(work=cancelled(wanted, service, 2))
    for task in service.tasks.values():
        task.pending = 0

    async def work(client):
        return await asyncio.gather(client.edit(wanted), client.edit(wanted))

    assert all(each.resumed and each.content == PICTURE for each in edit(work=work))
    assert service.accepted == {wanted.seed: 1}


PROCESS = """
import asyncio, ssl, sys
from pathlib import Path
from kontext_core.hosted import PROVIDERS
from kontext_core.hosted.client import Client
from kontext_core.hosted.errors import HostedError
from kontext_core.hosted.journal import Journal
from kontext_core.hosted.network import open_session
from stand_in import Loopback
from stand_in.jobs import KEY, QUICK, job

async def main(port, authority, folder, seeds):
    trust = ssl.create_default_context(cafile=authority)
    async with open_session(Loopback(port), trust) as session:
        client = Client(session, PROVIDERS["Black Forest Labs"], KEY, Journal(Path(folder)), QUICK)
        async def one(seed):
            try:
                edited = await client.edit(job(seed=seed))
                print(seed, "delivered", edited.id, flush=True)
            except HostedError as error:
                print(seed, "failed", error, flush=True)
        await asyncio.gather(*(one(seed) for seed in seeds))

asyncio.run(main(int(sys.argv[1]), sys.argv[2], sys.argv[3], range(*map(int, sys.argv[4:]))))
"""


def processes(service, certificate, journal, first, last, count=2):
    """The lines of processes that ask for the same pictures at the same time."""
    paths = os.pathsep.join(str(ROOT / folder) for folder in (".", "tests/hosted"))
    command = [sys.executable, "-c", PROCESS, str(service.port), str(certificate.file), str(journal.folder)]
    running = [
        subprocess.Popen(
            [*command, str(first), str(last)],
            env=os.environ | {"PYTHONPATH": paths},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for _ in range(count)
    ]
    return [process.communicate(timeout=120)[0].splitlines() for process in running]


def test_two_processes_pay_for_the_same_request_once(service, certificate, journal):
    service.pending = 3
    lines = processes(service, certificate, journal, 70_000, 70_020)
    assert [sorted(line.split()[1] for line in each) for each in lines] == [["delivered"] * 20] * 2, lines
    assert service.accepted == dict.fromkeys(range(70_000, 70_020), 1)


def test_two_processes_with_random_faults_lose_nothing_that_was_charged(service, certificate, journal):
    chance, count = random.Random(3), int(os.environ.get("HOSTED_FAULTS", "60"))
    kinds = {"submit": ["429", "500", "die", "die after", "not json", "shaken"], "poll": ["429", "500", "die"]}
    kinds["download"] = ["500", "die", "truncated"]  # none that says of a delivered picture that it is gone
    for stage, faults in kinds.items():
        service.faults[stage] = lambda faults=faults: chance.choice(faults) if chance.random() < 1 / 4 else ""
    lines = [line for each in processes(service, certificate, journal, 71_000, 71_000 + count) for line in each]
    assert len(lines) == 2 * count, lines[-1]
    said = {seed: [line for line in lines if line.startswith(f"{seed} ")] for seed in range(71_000, 71_000 + count)}
    assert sum("delivered" in line for line in lines) > count / 2
    for name, task in service.tasks.items():
        assert any(name in line or MAY_HAVE in line for line in said[task.seed]), (name, said[task.seed])
    paid_twice = [seed for seed, times in service.accepted.items() if times > 1]
    assert not [seed for seed in paid_twice if all("delivered" in line for line in said[seed])]


def test_a_request_that_a_killed_run_had_sent_is_told_before_it_is_sent_again(service, edit, journal):
    wanted = job()

    async def killed():
        async with journal.claim(wanted.request_hash(BFL), KEY) as entry:
            entry.reserve()

    asyncio.run(killed())
    error = failed(edit, wanted)
    assert "an earlier run" in str(error)
    assert "may have been accepted and charged" in str(error)
    assert not service.requests
    assert edit(wanted).content == PICTURE


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "3", '{"id": "x"}', '{"id": 3, "address": "y", "cancel": ""}', "[" * 99_999], ids=len
)
def test_a_damaged_entry_is_left_out(service, edit, journal, content):
    wanted = job()
    journal.folder.mkdir(parents=True)
    (journal.folder / f"{wanted.request_hash(BFL)}.json").write_text(content)
    assert not edit(wanted).resumed


def test_a_journal_tells_neither_words_nor_pictures_nor_the_key(service, edit, journal):
    wanted = job(instruction="a secret plan")
    edit(wanted)
    files = [path for path in journal.folder.iterdir() if path.is_file()]
    told = "".join(path.name + path.read_text() for path in files)
    assert "task-" in told
    assert not [word for word in ("secret", KEY, wanted.pictures[0].text[:20]) if word in told]
    if os.name == "posix":
        assert not [path for path in files if path.suffix == ".json" and path.stat().st_mode & 0o077]


def test_a_journal_keeps_a_thousand_entries(tmp_path, noted, journal, monkeypatch):
    monkeypatch.setattr("kontext_core.hosted.journal.MOST_ENTRIES", 3)
    wanted = [job() for _ in range(6)]
    for age, each in enumerate(wanted):
        noted(each, Task(str(each.seed), "x"))
        path = journal.folder / f"{each.request_hash(BFL)}.json"
        os.utime(path, (1e9 + age, 1e9 + age))
    noted(job())
    assert [bool(noted(each)) for each in wanted] == [False] * 3 + [True] * 3
    assert len(list(journal.folder.glob("*.json"))) == 3


def test_a_journal_keeps_no_locks_of_old_requests(noted, journal):
    """Those of requests without an entry: answered at once, or gone."""
    used, unused = job(), job()
    noted(used, Task("id", "x"))
    noted(unused)
    for path in journal.folder.iterdir():
        os.utime(path, (1e9, 1e9))
    noted(job())
    names = {path.stem for path in journal.folder.glob("*.lock")}
    assert used.request_hash(BFL) in {path.stem for path in journal.folder.glob("*.json")}
    assert unused.request_hash(BFL) not in names


# Another key


def test_a_new_key_is_not_held_back_by_a_task_of_the_old_one(service, edit):
    wanted = job()
    service.pending = 1000
    edit(work=cancelled(wanted, service, 2))
    (old,) = service.tasks
    service.pending = 0
    edited = edit(wanted, key="sk-another-key")
    assert edited.content == PICTURE
    assert not edited.resumed
    assert old in edited.earlier
    assert edit(wanted, key="sk-another-key").resumed
    assert service.accepted == {wanted.seed: 2}


def test_a_task_outlives_a_key_that_is_refused_for_a_while(service, edit):
    wanted = job()
    service.faults["poll"] = ["403"]
    error = failed(edit, wanted)
    assert error.case == errors.BAD_KEY
    assert "task-" in str(error)
    assert edit(wanted).resumed
    assert service.accepted == {wanted.seed: 1}


@pytest.mark.parametrize("status", ["400", "404", "410", "422"])
def test_a_task_that_the_provider_refuses_to_tell_of_is_no_obstacle(service, edit, status):
    wanted = job()
    service.faults["poll"] = [status]
    text = str(failed(edit, wanted))
    assert "task-" in text
    assert "asked for again" not in text  # it is forgotten
    assert edit(wanted).content == PICTURE
    service.faults["poll"] = [status]
    edited = edit(wanted)  # the delivered one is refused: it is made anew at once
    assert not edited.resumed


# Cancelled, or out of time


@pytest.mark.parametrize("provider", [title for title in PROVIDERS if title != "Runware"])
def test_a_run_that_is_cancelled_before_the_answer_says_that_it_may_have_been_charged(service, edit, noted, provider):
    wanted = job(provider)
    progress = edit(work=cancelled(wanted, service, 1, {"submit": ["stall after"]}), provider=provider)
    assert service.accepted == {wanted.seed: 1}
    assert MAY_HAVE in progress.consequence(errors.TIME)
    assert not noted(wanted, provider=provider)


def test_where_the_id_is_ours_it_is_noted_before_it_is_sent(service, edit):
    wanted = job("Runware")
    progress = edit(work=cancelled(wanted, service, 1, {"submit": ["stall after"]}), provider="Runware")
    assert "asked for again" in progress.consequence(errors.TIME)
    assert edit(wanted, "Runware").resumed
    assert service.accepted == {wanted.seed: 1}


@pytest.mark.parametrize("given", ["00000000-0000-4000-8000-000000000000", "x", 7, None, KeyError])
def test_where_the_id_is_ours_an_answer_that_names_another_one_changes_nothing(service, edit, noted, given):
    service.faults["submit"], service.change = ["changed"], (("data", 0, "taskUUID"), given)
    wanted = job("Runware")
    edited = edit(wanted, "Runware")
    assert edited.content == PICTURE
    assert edited.id in service.tasks
    assert noted(wanted, provider="Runware").id == edited.id
    assert service.accepted == {wanted.seed: 1}


@pytest.mark.parametrize("fault", ["die after", "stall after", "500 after", "not json", "truncated"])
def test_where_the_id_is_ours_a_lost_answer_does_not_lose_the_picture(service, edit, fault):
    service.faults["submit"] = [fault]
    wanted = job("Runware")
    assert edit(wanted, "Runware").content == PICTURE
    assert service.accepted == {wanted.seed: 1}


@pytest.mark.parametrize("fault", ["die", "500"])
def test_where_the_id_is_ours_a_request_that_never_arrived_is_told(service, edit, fault):
    service.faults["submit"] = [fault]
    wanted = job("Runware")
    assert "was not accepted" in str(failed(edit, wanted, "Runware"))
    assert edit(wanted, "Runware").content == PICTURE
    assert service.accepted == {wanted.seed: 1}


@pytest.mark.parametrize("provider", QUEUED)
def test_a_run_that_is_cancelled_while_it_waits_is_fetched_later(service, edit, provider):
    wanted = job(provider)
    service.pending = 1000
    progress = edit(work=cancelled(wanted, service, 2), provider=provider)
    (task,) = service.tasks
    assert task in progress.consequence(errors.TIME)
    assert "not paid for again" in progress.consequence(errors.TIME)


# Words


SAID = {  # provider, stage, fault: what is said, what is not
    "lost after acceptance": (BFL, "poll", "die", ["task-", "not paid for again"], ["Nothing was sent"]),
    "network gone, download": (BFL, "download", "to https://nowhere.example/x", ["task-"], ["Nothing was sent"]),
    "unusable, charged": ("Together", "submit", "not json", [MAY_HAVE], ["Try", "again later"]),
    "no picture, charged": ("Verda (DataCrunch)", "submit", "changed", [MAY_HAVE, "task-"], ["Try"]),
    "unknown model": (BFL, "submit", "404", ["refused the request (404)"], ["any more", "charged"]),
    "no balance": ("fal", "submit", "exhausted", ["balance is used up"], ["key", "charged"]),
    "E005": ("Replicate", "poll", "flagged", ["the instruction, a picture or the result"], []),
    "upstream's key": ("Runware", "submit", "code providerUnauthorized", ["said upstream"], ["RUNWARE_API_KEY"]),
    "upstream is busy": ("Runware", "submit", "code providerRateLimitExceeded", ["said upstream"], ["too many"]),
    "its own rate": ("Runware", "submit", "code rateLimitExceeded", ["too many"], ["charged"]),
    "upstream's policy": ("Runware", "submit", "code providerContentPolicyViolation", ["moderated"], ["charged"]),
}


@pytest.mark.parametrize(("provider", "stage", "fault", "said", "unsaid"), SAID.values(), ids=SAID)
def test_what_is_said_is_so(service, edit, provider, stage, fault, said, unsaid):
    service.faults[stage] = lambda: fault
    service.change = (("output",), {"outputs": ["no picture"]})
    text = str(failed(edit, job(provider), provider))
    assert not [part for part in said if part not in text], text
    assert not [part for part in unsaid if part in text], text


@pytest.mark.parametrize("code", ["providerRateLimitExceeded", "providerUnauthorized"])
def test_an_upstream_provider_s_no_is_not_certain(service, edit, code):
    """Runware may have taken the request: it is asked for, and not sent again."""
    service.faults["submit"] = [f"code {code}"] * 4
    failed(edit, job("Runware"), "Runware")
    assert len([request for request in service.of("POST") if b"imageInference" in request.body]) == 1


@pytest.mark.parametrize(
    ("provider", "fault"),
    [(BFL, "404"), (BFL, "422"), (BFL, "403"), (BFL, "redirect"), (BFL, "foreign"), ("fal", "exhausted")],
)
def test_a_batch_stops_at_a_refusal_that_all_would_get(service, edit, provider, fault):
    service.faults["submit"] = lambda: fault

    async def work(client):
        batch = Batch(client, [job(provider) for _ in range(20)], provider, asyncio.Semaphore(4))
        await batch.run()
        return batch.done

    done = edit(work=work, provider=provider)
    assert len({error.case for error in done}) == 1
    assert len(service.of("POST")) <= 4
    assert sum("not sent, because another picture failed" in str(error) for error in done) >= 16


def test_a_batch_stops_when_the_instruction_is_moderated(service, edit):
    service.pending, service.faults["poll"] = 0, lambda: "Request Moderated"

    async def work(client):
        batch = Batch(client, [job() for _ in range(20)], BFL, asyncio.Semaphore(2))
        await batch.run()

    edit(work=work)
    assert len(service.of("POST")) <= 2


@pytest.mark.parametrize("position", range(230, 310, 7))
def test_a_key_that_is_echoed_where_words_are_cut_is_not_shown_in_part(service, edit, position):
    service.faults["submit"] = ["malformed key" + "x" * position]
    text = str(failed(edit, job()))
    assert not [start for start in range(len(KEY) - 6) if KEY[start : start + 6] in text]


ECHOED = {  # stage, place in the answer, what stands there
    "in the id": ("submit", ("id",), f"task-{KEY}"),
    "in the address to ask": ("submit", ("polling_url",), f"https://collector.example/{KEY}"),
    "in the seed": ("poll", ("result", "seed"), KEY),
    "in the picture's address": ("poll", ("result", "sample"), f"http://collector.example/?key={KEY}"),
    "escaped": ("submit", ("polling_url",), "https://collector.example/" + KEY.replace("-", "%2D")),
}


@pytest.mark.parametrize(("stage", "place", "value"), ECHOED.values(), ids=ECHOED)
def test_a_key_that_is_echoed_is_shown_nowhere(service, edit, journal, stage, place, value):
    service.pending = 0
    service.faults[stage], service.change = ["changed"], (place, value)
    try:
        told = repr(edit(job()))
    except HostedError as error:
        told = str(error)
    written = "".join(path.read_text() for path in journal.folder.glob("*.json"))
    assert KEY not in told + written


def test_a_key_behind_escapes_of_json_is_taken_out(service, edit):
    service.faults["submit"] = ["changed"]
    service.change = (("polling_url",), f"https://collector.example/{KEY}")
    real = json.dumps

    def escaped(said, **options):
        return real(said, **options).replace(KEY, "".join(f"\\u{ord(letter):04x}" for letter in KEY))

    from stand_in import shapes

    shapes.json.dumps, undo = escaped, shapes.json.dumps
    try:
        text = str(failed(edit, job()))
    finally:
        shapes.json.dumps = undo
    assert KEY not in text
    assert "***" in text


# Pauses that a provider asks for


@pytest.mark.parametrize("provider", ["Black Forest Labs", "Replicate", "fal"])
def test_a_pause_that_is_asked_for_is_kept_as_often_as_it_is(service, edit, provider):
    """Replicate lets an account that is low on credit have six a minute: more than four refusals follow each other."""
    fault = "throttled" if provider == "Replicate" else "429 later"
    service.faults["submit"] = [fault] * 9
    wanted = job(provider)
    assert edit(wanted, provider).content == PICTURE
    assert service.accepted == {wanted.seed: 1}


def test_a_pause_of_a_day_is_told_and_not_waited_for(service, edit):
    service.faults["submit"] = lambda: "429 much later"
    error = failed(edit, job())
    assert error.case == errors.TOO_MANY
    assert "asks for a pause of 86400 s" in str(error)
    assert len(service.of("POST")) == 1


def test_journals_of_several_clients_are_one(tmp_path):
    """Two equal folders are the same journal, whatever object reads them."""

    async def go():
        async with Journal(tmp_path).claim("a", KEY) as entry:
            entry.remember(Task("x", "y"))
        async with Journal(tmp_path).claim("a", KEY) as entry:
            return entry.task

    assert asyncio.run(go()) == Task("x", "y")
