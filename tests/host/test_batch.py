"""Batches with real workers, each with its own ComfyUI: one complete file per row, whatever is killed.

Starting a worker loads ComfyUI, so a test that needs only one process uses this one.
"""

import argparse
import errno
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import psutil
import pytest
import torch
from PIL import Image

from batch import ROOT, Failure, commit, driver, graphs
from batch import command as batch_command
from batch.binding import Binding
from batch.edit import Editor
from batch.local import Report, temporary_folder
from batch.manifest import read_manifest
from batch.options import add_options
from batch.plan import File, Task, pack_version, plan, read_graph, with_keys
from stand_in import png
from stand_in.jobs import KEY

STEPS, ENDLESS = "KontextSampler.steps", 10_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Pictures p0.png to p3.png, and a manifest of a quick edit of each."""
    folder = tmp_path_factory.mktemp("batch")
    for number in range(4):
        pixels = np.random.default_rng(number).random((64, 64, 3))
        Image.fromarray((255 * pixels).astype(np.uint8)).save(folder / f"p{number}.png")
    (folder / "edits.jsonl").write_text(rows(range(4)))
    return folder


def rows(numbers, **cells):
    return "\n".join(json.dumps({"picture": f"p{number}.png", STEPS: 2, **cells}) for number in numbers)


def start(folder, out, *more, manifest="edits.jsonl", **popen):
    """`python -m batch` over the manifest, as in a published pack. Its workers take seconds to load ComfyUI."""
    options = ["A first edit", "--manifest", folder / manifest, "--out", folder / out, *more]
    base = ["--", "--base-directory", folder / "comfyui"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    command = [sys.executable, "-m", "batch", *options, *base]
    return subprocess.Popen(command, cwd=ROOT, env=environment, **pipes, **popen)


def outputs(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.png"))}


def wait_for(condition, process):
    while not condition():
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.02)


@pytest.fixture(scope="module")
def editor(folder, recorder):
    """`editor(out)`: a worker's editor in this process, on one thread as in a worker."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield lambda out: Editor(folder / out, read_graph("A first edit")[1], recorder)
    torch.set_num_threads(threads)


def tasks_of(folder, manifest="edits.jsonl", graph="A first edit", suffix=".png"):
    binding = Binding.of(read_graph(graph)[0])
    wanted = read_manifest(folder / manifest, {})
    tasks = plan(binding, wanted, seeds=1, name="{name}_{seed}", suffix=suffix, out=folder / "out", what=manifest)
    return with_keys(tasks, dict.fromkeys((task.variant for task in tasks), {}), [suffix.strip("."), pack_version()])


@pytest.fixture(scope="module")
def undisturbed(folder, editor):
    """The outputs of an undisturbed batch: name -> bytes."""
    one = editor("undisturbed")
    assert [one.edit(task).error for task in tasks_of(folder)] == [None] * 4
    return outputs(folder / "undisturbed")


def test_an_output_carries_the_graph_that_made_it(folder, undisturbed):
    assert list(undisturbed) == [f"p{number}_1.png" for number in range(4)]
    with Image.open(folder / "undisturbed" / "p0_1.png") as picture:
        assert json.loads(picture.info["prompt"])
        nodes = {node["type"]: node for node in json.loads(picture.info["workflow"])["nodes"]}
    assert nodes["LoadImage"]["widgets_values"] == ["p0.png"]
    assert nodes["KontextSampler"]["widgets_values"][:3] == [1, "fixed", 2]


def test_what_is_there_is_not_made_again(folder, editor, undisturbed):
    one = editor("undisturbed")
    (first, *_) = tasks_of(folder)
    assert one.edit(first).seconds is None
    done = one.edit(replace(first, key="0" * 32))
    assert (done.model_calls, done.size) == (2, (128, 128))
    assert done.seconds > done.outside > 0
    one.edit(first)
    assert outputs(folder / "undisturbed") == undisturbed


def test_killed_workers_and_drivers_leave_whole_files_and_a_rerun_makes_only_the_rest(folder, undisturbed):
    """A worker is killed, then the driver in the middle of an endless row; after a rerun the outputs are complete."""
    out = folder / "killed"
    (folder / "endless.jsonl").write_text(f"{rows([0, 1])}\n{rows([2], **{STEPS: ENDLESS})}")
    process = start(folder, "killed", "--workers", "1", manifest="endless.jsonl")
    wait_for(lambda: len(outputs(out)) >= 1, process)
    worker_of(process.pid).kill()
    wait_for(lambda: len(outputs(out)) >= 2, process)
    worker = worker_of(process.pid)
    process.kill()
    process.wait()
    worker.wait(60)  # it ends with its driver
    assert temporary_folder(out.resolve()).exists()  # what is in it goes with the next run
    before = {path.name: path.stat().st_ino for path in out.glob("*.png")}
    assert outputs(out).items() <= undisturbed.items()
    process = start(folder, "killed")
    said, _ = process.communicate(timeout=600)
    assert process.returncode == 0, said
    assert "2 done already, 2 to do" in said
    assert outputs(out) == undisturbed
    assert before.items() <= {path.name: path.stat().st_ino for path in out.glob("*.png")}.items()
    assert not [path for path in out.iterdir() if commit.TEMPORARY.fullmatch(path.name)]
    assert not temporary_folder(out.resolve()).exists()


def said_by(process, words):
    """The output of a process up to these words."""
    said = ""
    while words not in said:
        line = process.stdout.readline()
        assert line, said
        said += line
    return said


def steps(out):
    """How often the first worker's sampler has drawn its progress."""
    return (out / driver.OWN / "worker_0.log").read_bytes().count(b"\r")


def test_a_second_ctrl_c_stops_in_the_middle_of_a_row(folder):
    """Of a terminal, which signals the workers too."""
    (folder / "long.jsonl").write_text(rows([0], **{STEPS: ENDLESS}))
    process = start(folder, "long", manifest="long.jsonl", start_new_session=True)
    said_by(process, "1 files wanted")
    staged = temporary_folder((folder / "long").resolve())
    wait_for(lambda: list(staged.rglob("*.png")), process)  # the row's picture: it is in hand
    os.killpg(process.pid, signal.SIGINT)
    said_by(process, "Ctrl-C again stops at once")
    before = steps(folder / "long")
    wait_for(lambda: steps(folder / "long") > before, process)  # the row in hand goes on
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(120) == 130
    assert "batch: stopped" in process.stdout.read()
    (line,) = commit.read_lines(folder / "long" / "results.jsonl")
    assert line["status"] == "missing"
    assert not [path for path in (folder / "long").iterdir() if path.suffix in (".png", ".part")]
    assert not staged.exists()


class InThisProcess:
    """A worker without a process of its own."""

    count = 1

    def __init__(self, editor):
        self.editor, self.happened = editor, []

    def start(self, worker):
        self.happened.append(Report(worker, "ready", None))

    def send(self, worker, name, argument):
        self.happened.append(Report(worker, "answer", getattr(self.editor, name)(argument)))

    def reports(self, seconds):
        found, self.happened = self.happened, []
        return found

    def where(self, worker):
        return "this process"

    def last_words(self, worker):
        return ""

    def stop(self):
        self.happened = []


@pytest.fixture
def batch(folder, recorder, monkeypatch):
    """`batch(graph, manifest, out, *more)`: what `python -m batch` does, with a worker in this process."""

    def run(graph, manifest, out, *more):
        parser = argparse.ArgumentParser()
        add_options(parser)
        options = [graph, "--manifest", str(folder / manifest), "--out", str(folder / out), *more]
        return batch_command.run(parser.parse_args(options), [])

    def workers(options, setup):
        return InThisProcess(Editor(setup.folder, setup.workflow, recorder))

    monkeypatch.setattr(batch_command, "make_workers", workers)
    return run


def test_hosted_rows_stop_at_the_limit_of_money(folder, batch, service, certificate, monkeypatch, capsys):
    service.picture = png(64, 64)  # of the sources' shape
    lines = [{"picture": f"p{number}.png", "KontextHosted.dry_run": False} for number in range(3)]
    (folder / "hosted.jsonl").write_text("\n".join(map(json.dumps, lines)))
    variables = {"https_proxy": f"http://127.0.0.1:{service.proxy.port}", "no_proxy": "", "NO_PROXY": ""}
    variables |= {"SSL_CERT_FILE": str(certificate.file), "BFL_API_KEY": KEY}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    stopped = r"The next row costs \$0.04 and \$0.08 of --spend 0.1 are spent. 2 of 3 files are done, 1 left"
    with pytest.raises(Failure, match=stopped):
        batch("Hosted edit with pro or max", "hosted.jsonl", "hosted", "--spend", "0.1")
    assert "All rows cost $0.12 by the providers' lists; --spend is $0.10." in capsys.readouterr().out
    assert sum(service.accepted.values()) == 2
    assert len(outputs(folder / "hosted")) == 2
    assert not [path for path in (folder / "hosted").rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]


def worker_of(driver):
    """A driver's worker: its youngest child that runs Python's spawn."""
    children = psutil.Process(driver).children()
    return max((child for child in children if "spawn_main" in " ".join(child.cmdline())), key=lambda each: each.pid)


FAULTS = {
    "a node that is missing": ({"x": graphs.node("NoSuchNode", image=["in", 0])}, "'NoSuchNode' not found"),
    "a value that is no choice": (
        {"x": graphs.node("KontextReference", image=["in", 0], vae=["in", 0], size="huge", fit="pad")},
        "KontextReference",
    ),
    "two pictures": ({"x": graphs.node("RepeatImageBatch", image=["in", 0], amount=2)}, "the graph made 2 pictures"),
}


def small_task(folder, source="p0.png", **more):
    """A task of a graph that only loads a picture and hands it to the node x."""
    file = File(str(folder / source), commit.content_hash(folder / source))
    prompt = {"in": graphs.node("LoadImage", image=source), **more}
    result = ("x", 0) if more else ("in", 0)
    return Task(
        1, "row 1", prompt, {("in", "image"): file}, result, "small.png", None, 1, {}, {"settings": {}}, "1" * 32
    )


@pytest.mark.parametrize("case", FAULTS)
def test_what_is_wrong_with_a_graph_is_said_and_nothing_is_written(folder, editor, case):
    more, message = FAULTS[case]
    task = small_task(folder, **more)
    one = editor("faults")
    done = one.edit(task)
    assert message in done.error
    assert not (folder / "faults" / task.output).exists()
    refused = one.inspect([task])[0][0]
    assert case == "two pictures" or message in refused  # before the start, where it can be known


def test_a_picture_that_is_broken_or_has_changed_is_the_rows_error(folder, editor):
    (folder / "half.png").write_bytes((folder / "p0.png").read_bytes()[:3000])
    one = editor("faults")
    assert "half.png is not a whole picture" in one.edit(small_task(folder, "half.png")).error
    task = small_task(folder, "half.png")
    (folder / "half.png").write_bytes(b"another")
    assert "has changed since the batch was started" in one.edit(task).error
    assert one.edit(small_task(folder)).error is None


def test_a_disk_that_is_full_is_no_fault_of_the_row(folder, editor, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    one = editor("full")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        done = one.edit(small_task(folder))
    assert done.fatal
    assert "No space left on device" in done.error
    assert list((folder / "full").iterdir()) == []
    assert one.edit(small_task(folder)).error is None


@pytest.mark.parametrize("kind", ["webp", "jpeg"])
def test_other_formats_carry_their_key_too(folder, editor, kind):
    task = replace(small_task(folder), output=f"small{commit.SUFFIXES[kind]}")
    one = editor("formats")
    assert one.edit(task).size == (64, 64)
    assert one.edit(task).seconds is None


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed: pip install 'ray==2.60.0'")
def test_ray_actors_make_the_same_files(folder, undisturbed):
    process = start(folder, "ray", "--ray", "--workers", "2")
    said, _ = process.communicate(timeout=900)
    assert process.returncode == 0, said
    assert outputs(folder / "ray") == undisturbed


@pytest.mark.skipif(importlib.util.find_spec("ray") is not None, reason="Ray is installed here")
def test_without_ray_the_message_says_how_to_install_it(folder):
    process = start(folder, "ray", "--ray")
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 2
    assert "pip install 'ray==" in said
