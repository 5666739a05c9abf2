"""The driver's laws, with tiny in-process workers: every row ends with a file or an error, whatever process dies."""

import os
import signal
import sys
import types
from collections import deque
from dataclasses import replace

import pytest
from PIL import Image

from batch import Failure, command, commit, driver, graphs
from batch.cluster import RayWorkers
from batch.local import Done, Report, Setup
from batch.plan import Task
from batch.spend import Budget


def task(number, **inputs):
    prompt = {"1": graphs.node("KontextHosted" if inputs else "KontextExample", **inputs)}
    key = commit.key_of(number)
    return Task(number, f"row {number}", prompt, {}, ("1", 0), f"{number}.png", None, number, {}, {"settings": {}}, key)


class Workers:
    """Workers that commit a picture at once; `deeds` override what happens at a row, one entry per try."""

    def __init__(self, folder, count=1, deeds=None, dead_starts=0, text=""):
        self.count, self.folder, self.dead_starts, self.text = count, folder, dead_starts, text
        self.deeds = {number: deque(tries) for number, tries in (deeds or {}).items()}
        self.happened, self.made, self.started = deque(), [], []

    def start(self, worker):
        self.started.append(worker)
        dies = len(self.started) <= self.dead_starts
        self.happened.append(Report(worker, *(("died", "ended by SIGKILL") if dies else ("ready", None))))

    def send(self, worker, name, argument):
        tries = self.deeds.get(argument.row)
        deed = tries.popleft() if tries else "commit"
        if "commit" in deed:
            self.made.append(argument.row)
            picture = Image.new("RGB", (8, 8))
            commit.write_picture(self.folder / argument.output, picture, argument.key, {})
        for _ in range(deed.count("ctrl-c")):
            os.kill(os.getpid(), signal.SIGINT)
        if "die" in deed:
            self.happened.append(Report(worker, "died", "ended by signal SIGKILL"))
        elif deed == "fail":
            self.happened.append(Report(worker, "answer", Done(argument.key, error="it is broken")))
        elif deed == "full":
            said = Done(argument.key, error="x.png: No space left on device", fatal=True)
            self.happened.append(Report(worker, "answer", said))
        else:
            self.happened.append(Report(worker, "answer", Done(argument.key, 1.0, 28, (8, 8), 0.1, self.text)))

    def reports(self, seconds):
        return [self.happened.popleft()] if self.happened else []

    def where(self, worker):
        return f"worker {worker}"

    def last_words(self, worker):
        return "its last words"

    def stop(self):
        self.stopped = True
        self.happened.clear()


def work(folder, workers, rows=6, retry_failed=False, tasks=None, limit=None):
    tasks = tasks or [task(number) for number in range(rows)]
    running = driver.Run(folder, tasks, retry_failed, Budget(limit))
    try:
        running.work(workers)
    finally:
        running.lines = driver.results(folder, tasks, running.done, running.failures)
    return running


def failures(folder):
    return {line["row"]: line["error"] for line in commit.read_lines(folder / driver.FAILURES)}


@pytest.mark.parametrize("count", [1, 2, 9])
def test_every_row_is_made_once_and_a_rerun_makes_none(tmp_path, count):
    (tmp_path / driver.OWN).mkdir()
    workers = Workers(tmp_path, count)
    running = work(tmp_path, workers)
    assert sorted(workers.made) == list(range(6))
    assert [line["status"] for line in running.lines] == ["done"] * 6
    assert {line["seconds"] for line in running.lines} == {1.0}
    again = Workers(tmp_path, count)
    running = work(tmp_path, again)
    assert (again.made, again.started) == ([], [])
    assert "6 files wanted, 6 done already, 0 to do" in running.summary()
    assert running.lines[0]["seconds"] == 1.0


def named(number, output):
    """A task of the same work as `task(number)`, with another file."""
    return replace(task(number), output=output)


def test_rows_of_equal_work_have_a_file_each(tmp_path):
    """They have equal keys. A stop, a failure or a death of one says nothing about the other."""
    (tmp_path / driver.OWN).mkdir()
    twins = [named(0, "a.png"), named(0, "b.png")]
    work(tmp_path, Workers(tmp_path), tasks=twins[:1])
    running = work(tmp_path, Workers(tmp_path), tasks=twins)
    assert [line["status"] for line in running.lines] == ["done", "done"]
    assert sorted(path.name for path in tmp_path.glob("*.png")) == ["a.png", "b.png"]


@pytest.mark.parametrize(
    ("deeds", "statuses"),
    [
        (["commit", "fail"], ["done", "failed"]),
        (["fail", "commit"], ["failed", "done"]),
        (["die", "commit", "die"], ["done", "done"]),
    ],
    ids=["second fails", "first fails", "each dies once"],
)
def test_rows_of_equal_work_fail_on_their_own(tmp_path, deeds, statuses):
    (tmp_path / driver.OWN).mkdir()
    twins = [named(0, "a.png"), named(0, "b.png")]
    running = work(tmp_path, Workers(tmp_path, 1, {0: deeds}), tasks=twins)
    assert [line["status"] for line in running.lines] == statuses
    again = driver.Run(tmp_path, twins, False, Budget(None))
    assert [len(again.done), len(again.failures)] == [statuses.count("done"), statuses.count("failed")]
    assert not again.waiting


def test_a_run_over_fewer_rows_keeps_what_is_known_of_the_others(tmp_path):
    (tmp_path / driver.OWN).mkdir()
    tasks = [task(number) for number in range(6)]
    work(tmp_path, Workers(tmp_path, 1, {1: ["fail"], 4: ["fail"]}), tasks=tasks)
    work(tmp_path, Workers(tmp_path), tasks=tasks[:2], retry_failed=True)
    assert failures(tmp_path) == {4: "it is broken"}
    workers = Workers(tmp_path)
    work(tmp_path, workers, tasks=tasks)
    assert workers.made == []
    assert failures(tmp_path) == {4: "it is broken"}


def test_only_what_has_changed_is_made_again(tmp_path):
    (tmp_path / driver.OWN).mkdir()
    work(tmp_path, Workers(tmp_path))
    tasks = [task(number) for number in range(6)]
    tasks[3] = replace(tasks[3], key=commit.key_of("another instruction"))
    running = driver.Run(tmp_path, tasks, False, Budget(None))
    assert "5 done already, 1 to do, 1 of these changed since" in running.summary()
    workers = Workers(tmp_path)
    work(tmp_path, workers, tasks=tasks)
    assert workers.made == [3]


def test_a_worker_that_dies_is_replaced_and_its_row_tried_once_more(tmp_path):
    (tmp_path / driver.OWN).mkdir()
    workers = Workers(tmp_path, 2, {2: ["die"], 4: ["die", "die"]})
    running = work(tmp_path, workers)
    assert sorted(workers.made) == [0, 1, 2, 3, 5]
    assert list(failures(tmp_path)) == [4]
    assert "the worker ended by signal SIGKILL at this row, 2 times" in failures(tmp_path)[4]
    assert [line["status"] for line in running.lines] == ["done"] * 4 + ["failed", "done"]


def test_a_worker_that_dies_after_its_commit_has_done_its_row(tmp_path):
    (tmp_path / driver.OWN).mkdir()
    workers = Workers(tmp_path, 1, {2: ["commit, die"]})
    running = work(tmp_path, workers)
    assert sorted(workers.made) == list(range(6))
    assert [line["status"] for line in running.lines] == ["done"] * 6
    assert running.lines[2]["seconds"] is None  # not recorded


def test_a_worker_that_dies_without_a_row_gets_none(tmp_path):
    """Worker 0 ends when nothing is left for it; then worker 1 dies, and its row waits again."""
    (tmp_path / driver.OWN).mkdir()

    class Mortal(Workers):
        def send(self, worker, name, argument):
            if (worker, argument.row) == (1, 1) and len(self.started) == 2:
                self.happened.append(Report(0, "died", "ended by signal SIGKILL"))
            assert worker == 1 or argument.row == 0, "worker 0 is dead"
            super().send(worker, name, argument)

    workers = Mortal(tmp_path, 2, {1: ["die"]})
    running = work(tmp_path, workers, rows=2)
    assert [line["status"] for line in running.lines] == ["done", "done"]
    assert workers.started == [0, 1, 1]


def test_a_failing_row_stops_no_other_and_is_tried_again_only_when_asked(tmp_path):
    (tmp_path / driver.OWN).mkdir()
    work(tmp_path, Workers(tmp_path, 1, {1: ["fail"]}))
    assert failures(tmp_path) == {1: "it is broken"}
    workers = Workers(tmp_path)
    running = work(tmp_path, workers)
    assert workers.made == []
    assert "1 failed before (--retry-failed tries them again)" in running.summary()
    work(tmp_path, workers, retry_failed=True)
    assert workers.made == [1]
    assert failures(tmp_path) == {}


def test_a_full_disk_stops_the_batch_and_the_next_run_goes_on(tmp_path):
    (tmp_path / driver.OWN).mkdir()
    with pytest.raises(Failure, match=r"No space left on device. 2 of 6 files are done, 4 left; the same command"):
        work(tmp_path, Workers(tmp_path, 1, {2: ["full"]}))
    assert failures(tmp_path) == {}
    workers = Workers(tmp_path)
    work(tmp_path, workers)
    assert sorted(workers.made) == [2, 3, 4, 5]


def test_workers_that_cannot_start_are_not_started_for_ever(tmp_path):
    (tmp_path / driver.OWN).mkdir()
    workers = Workers(tmp_path, 1, dead_starts=99)
    with pytest.raises(Failure, match="before it was ready:\nits last words"):
        work(tmp_path, workers)
    assert len(workers.started) == driver.STARTS
    work(tmp_path, Workers(tmp_path, 1, dead_starts=driver.STARTS - 1))


def test_ctrl_c_stops_after_the_row_in_hand(tmp_path):
    (tmp_path / driver.OWN).mkdir()
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(Failure, match="Stopped. 3 of 6 files are done, 3 left"):
        work(tmp_path, Workers(tmp_path, 1, {2: ["commit, ctrl-c"]}))
    assert signal.getsignal(signal.SIGINT) is before


def test_a_second_ctrl_c_stops_at_once(tmp_path):
    (tmp_path / driver.OWN).mkdir()
    before = signal.getsignal(signal.SIGINT)
    workers = Workers(tmp_path, 1, {2: ["ctrl-c, ctrl-c"]})
    with pytest.raises(KeyboardInterrupt):
        work(tmp_path, workers)
    assert workers.stopped
    assert signal.getsignal(signal.SIGINT) is before
    again = Workers(tmp_path)
    work(tmp_path, again)
    assert (workers.made, sorted(again.made)) == ([0, 1], [2, 3, 4, 5])


def test_no_row_waits_for_a_worker_that_never_starts(tmp_path):
    """A cluster may have no place for as many as were asked for."""
    (tmp_path / driver.OWN).mkdir()

    class Late(Workers):
        def start(self, worker):
            if worker == 0:
                super().start(worker)

    workers = Late(tmp_path, 3)
    work(tmp_path, workers)
    assert sorted(workers.made) == list(range(6))


def test_a_journal_that_cannot_be_written_stops_the_batch_and_no_file_is_lost(tmp_path):
    (tmp_path / driver.OWN / "journal.jsonl").mkdir(parents=True)
    with pytest.raises(Failure, match=r"journal.jsonl: Is a directory. 1 of 6 files are done, 5 left"):
        work(tmp_path, Workers(tmp_path))
    (tmp_path / driver.OWN / "journal.jsonl").rmdir()
    workers = Workers(tmp_path)
    work(tmp_path, workers)
    assert sorted(workers.made) == list(range(1, 6))


def test_a_report_that_cannot_be_written_is_said_and_stops_nothing(tmp_path, capsys):
    (tmp_path / "report.html").mkdir()
    command.write_report(tmp_path, [])
    assert "No report: " in capsys.readouterr().out
    assert command.reported(lambda _: (tmp_path / "report.html").write_text(""), "batch") == 1
    assert capsys.readouterr().err == f"batch: {tmp_path / 'report.html'}: Is a directory\n"


def test_ray_that_does_not_start_is_said_on_one_line(tmp_path, monkeypatch):
    ray = types.ModuleType("ray")

    def init(*_, **__):
        raise Exception("The current node timed out during startup.")

    ray.init, ray.shutdown = init, lambda: None
    monkeypatch.setitem(sys.modules, "ray", ray)
    with pytest.raises(Failure, match="Ray did not start on this machine: The current node timed out"):
        RayWorkers(Setup(tmp_path, None, ()), None, None)


def test_a_batch_stops_at_its_limit_of_money(tmp_path):
    (tmp_path / driver.OWN).mkdir()
    inputs = {"provider": "fal", "provider.model": "pro"}
    tasks = [task(number, **inputs) for number in range(4)]
    price = Budget(9).check(tasks) / 4
    workers = Workers(tmp_path, text=f"total ${price}")
    with pytest.raises(Failure, match=r"of --spend 0\.\d+ are spent. 2 of 4 files are done, 2 left"):
        work(tmp_path, workers, tasks=tasks, limit=2.5 * price)
    assert workers.made == [0, 1]


def test_half_written_files_of_killed_workers_are_swept(tmp_path):
    (tmp_path / driver.OWN).mkdir()
    (tmp_path / f".0.png.{'a' * 12}.77.part").write_bytes(b"half")
    work(tmp_path, Workers(tmp_path))
    assert not list(tmp_path.glob(".*.part"))


def test_half_written_lists_are_swept_where_the_pictures_lie_in_folders(tmp_path):
    (tmp_path / driver.OWN).mkdir()
    (tmp_path / f".results.jsonl.{'0' * 12}.77.part").write_bytes(b"half")
    work(tmp_path, Workers(tmp_path), tasks=[replace(task(0), output="sub/0.png")])
    assert (tmp_path / "sub" / "0.png").is_file()
    assert not list(tmp_path.glob(".*.part"))


def test_one_driver_at_a_time(tmp_path):
    refused = pytest.raises(Failure, match="another batch is writing to")
    with driver.locked(tmp_path / "out"), refused, driver.locked(tmp_path / "out"):
        pass
    with driver.locked(tmp_path / "out"):
        pass


def test_a_folder_that_cannot_be_written_to_is_said_before_the_start(tmp_path):
    (tmp_path / "file").write_text("no folder")
    refused = pytest.raises(Failure, match=r"cannot be written to: .*Give another --out")
    with refused, driver.locked(tmp_path / "file" / "out"):
        pass
    (tmp_path / driver.OWN).mkdir()
    (tmp_path / driver.OWN / "lock").write_bytes(b"no database" * 100)
    refused = pytest.raises(Failure, match="cannot be written to: file is not a database")
    with refused, driver.locked(tmp_path):
        pass
