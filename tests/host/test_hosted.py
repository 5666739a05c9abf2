"""KontextHosted in ComfyUI, against a stand-in for the providers behind a proxy, as at a user's."""

import asyncio
import base64
import io
import json
import logging
import os
import random
import re
import shutil
import stat
import threading
import time
from pathlib import Path

import comfy.cli_args
import numpy as np
import pytest
import torch
from PIL import Image

from batch import ROOT, graphs, inprocess
from batch.comfyui import comfyui_folder
from batch.events import ExecutionFailed, Interrupted
from kontext_core.hosted import PROVIDERS
from stand_in import PICTURE, SIGNATURE, png
from stand_in.jobs import KEY

WORKFLOWS = ROOT / "workflows"
KEY_NAMES = [provider.key_name for provider in PROVIDERS.values()]
FOLDER = inprocess.BASE / "user" / "__kontext"


@pytest.fixture
def graph(input_picture):
    """`graph(pictures=2, seed=7)`: a hosted edit in API format; inputs of the node are changed by keyword."""
    picture = input_picture(np.random.default_rng(1).random((96, 128, 3)))

    def build(count=1, provider="Black Forest Labs", **changes):
        inputs = {
            "provider": provider,
            "provider.model": next(iter(PROVIDERS[provider].models)),
            "provider.region": "global",
            "provider.safety_tolerance": 2,
            "provider.prompt_upsampling": False,
            "provider.bill_to": "",
            "instruction": "make it night",
            "ratio": "as the first picture",
            "seed": 7,
            "pictures": 1,
            "output_format": "png",
            "moderated": "stop",
            "time_limit": 60,
            "save_original": False,
            "dry_run": False,
            **{f"references.reference{number}": ["picture", 0] for number in range(count)},
            **changes,
        }
        if provider != "Black Forest Labs":
            del inputs["provider.region"]
        if provider != "Hugging Face":
            del inputs["provider.bill_to"]
        return {
            "picture": {"class_type": "LoadImage", "inputs": {"image": picture}},
            "hosted": {"class_type": "KontextHosted", "inputs": inputs},
        }

    return build


def report(run):
    return run.values["hosted"][1]


def failed(run_graph, graph):
    with pytest.raises(ExecutionFailed) as caught:
        run_graph(graph)
    assert KEY not in str(caught.value) + caught.value.traceback
    return caught.value.error


def sent(service, number=0):
    return json.loads(service.of("POST")[number].body)


def test_an_edit(hosted, graph, run_graph):
    run = run_graph(graph())
    image = run.values["hosted"][0]
    expected = np.asarray(Image.open(io.BytesIO(PICTURE)), dtype=np.float32) / 255
    torch.testing.assert_close(image, torch.from_numpy(expected)[None], atol=0, rtol=0)
    body = sent(hosted)
    assert (body["prompt"], body["seed"], body["aspect_ratio"]) == ("make it night", 7, "4:3")
    lines = report(run)
    for fact in ("Black Forest Labs [pro]", "128x96 px", "ratio 4:3, as the first picture", "seed 7", "$0.04", "task-"):
        assert fact in lines
    assert run.shown["hosted"]["text"] == [lines]
    assert KEY not in lines


def test_a_turn_knows_the_provider_that_made_it(hosted, graph, run_graph, store):
    prompt = graph(instruction=["text", 0], **{"references.reference0": ["open", 0]})
    prompt["text"] = graphs.node("PrimitiveString", value="make it night")
    prompt["open"] = graphs.node(
        "KontextSession", session=store.name, continue_from="the pointer", first_picture=["picture", 0]
    )
    prompt["save"] = graphs.node(
        "KontextSaveTurn", session=["open", 3], instruction=["text", 0], keep=False, image=["hosted", 0]
    )
    run_graph(prompt)
    turn = store.turns(store.find(store.name).id)[1]
    assert (turn.instruction, turn.model, turn.seed) == ("make it night", "Black Forest Labs pro", "7")
    assert turn.settings["hosted"]["inputs"]["provider.safety_tolerance"] == 2


def test_an_edit_between_nodes_in_half_precision(hosted, graph, run_graph, monkeypatch):
    monkeypatch.setattr(comfy.cli_args.args, "fp16_intermediates", True)
    assert run_graph(graph()).values["hosted"][0].dtype == torch.float16


def test_the_picture_arrives_unchanged(hosted, graph, run_graph):
    """The sent picture is the graph's, bit for bit: upright, sRGB, not downscaled."""
    run = run_graph(graph())
    with Image.open(io.BytesIO(base64.b64decode(sent(hosted)["input_image"]))) as picture:
        assert picture.info["srgb"] == 0
        pixels = torch.from_numpy(np.array(picture)).float() / 255
    torch.testing.assert_close(pixels[None], run.values["picture"][0], atol=1e-6, rtol=0)


@pytest.mark.parametrize("count", [0, 2, 4])
def test_none_to_four_references(hosted, graph, run_graph, count):
    run_graph(graph(count, ratio="16:9"))
    assert sum(name.startswith("input_image") for name in sent(hosted)) == count
    assert sent(hosted)["aspect_ratio"] == "16:9"


@pytest.mark.parametrize("provider", [title for title in PROVIDERS if title != "Black Forest Labs"])
def test_every_provider(online, graph, run_graph, monkeypatch, provider):
    monkeypatch.setenv(PROVIDERS[provider].key_name, KEY)
    run = run_graph(graph(provider=provider))
    assert run.values["hosted"][0].shape == (1, 72, 96, 3)
    assert online.accepted == {7: 1}


def test_a_batch_is_a_list_of_pictures_from_seeds_upwards(hosted, graph, run_graph):
    run = run_graph(graph(pictures=3))
    assert [image.shape for image in run.values["hosted"][0]] == [(1, 72, 96, 3)] * 3
    assert hosted.accepted == {7: 1, 8: 1, 9: 1}
    assert "total $0.12" in report(run)


@pytest.mark.parametrize(("model", "limit"), [("pro", 24), ("max", 6)])
def test_a_batch_of_100_stays_within_the_limit(hosted, graph, run_graph, model, limit):
    hosted.limit = limit
    hosted.pending = 0
    run_graph(graph(pictures=100, **{"provider.model": model}))
    assert hosted.accepted == {seed: 1 for seed in range(7, 107)}
    assert 2 < hosted.most_active <= limit
    assert len(hosted.of("POST")) == 100  # none was answered with "too many"


def outcome(run_graph, prompt, name):
    """Pictures and report of one node; its error, where a full disk stopped it before the first picture."""
    try:
        return run_graph({"picture": prompt["picture"], name: prompt[name]}).values[name]
    except ExecutionFailed as error:
        return [], str(error)


def test_a_thousand_pictures_with_random_faults_are_paid_once_and_delivered_or_named(
    hosted, graph, run_graph, monkeypatch
):
    """Bad answers, an occasionally full disk, clock steps, and a later node with the same request."""
    chance, count = random.Random(8), int(os.environ.get("HOSTED_FAULTS", "200"))
    faults = {
        "submit": ["429", "500", "die", "die after", "500 after", "not json", "shaken"],
        "poll": ["500", "die", "truncated", "Content Moderated", "Error", "shaken"],
        "download": ["404", "die", "truncated", "to //[zz"],
    }
    hosted.pending = 0
    for stage, some in faults.items():
        hosted.faults[stage] = lambda some=some: chance.choice(some) if chance.random() < 1 / 6 else ""
    real_fsync, real_time = os.fsync, time.time

    def fsync(handle):
        if chance.random() < 1 / 50:
            raise OSError(28, "No space left on device")
        return real_fsync(handle)

    share = count // 10
    prompt = graph(pictures=share, time_limit=600)
    inputs = prompt.pop("hosted")["inputs"]
    for part in range(10):
        changes = {"seed": 1000 + part * share}
        prompt[f"part {part}"] = {"class_type": "KontextHosted", "inputs": inputs | changes}
    again = {"seed": 1000, "time_limit": 601}
    prompt["again"] = {"class_type": "KontextHosted", "inputs": inputs | again}
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        patch.setattr("time.time", lambda: real_time() + chance.choice([0, 0, -3600, -0.5, 1e6]))
        made = [outcome(run_graph, prompt, name) for name in prompt if name != "picture"]
    assert count / 10 < sum(len(pictures) for pictures, _ in made) < count
    told = "\n".join(text for _, text in made)
    named = set(re.findall(r"task-\d+", told))
    uncertain = {
        int(seed)
        for line in told.split("\n")
        if "may have been accepted and charged" in line
        for seed in re.findall(r"seed (\d+)(?=, seed|:)", line)
    }
    assert not [name for name, task in hosted.tasks.items() if name not in named and task.seed not in uncertain]
    assert not [seed for seed, times in hosted.accepted.items() if times > 1 and seed >= 1000 + share]


def test_the_same_inputs_do_not_pay_twice(hosted, graph, run_graph):
    first, second = run_graph(graph()), run_graph(graph())
    assert hosted.accepted == {7: 1}
    assert second.shown["hosted"] == first.shown["hosted"]


def test_a_dry_run_sends_nothing_and_needs_no_key(online, graph, run_graph):
    prompt = graph(pictures=3, dry_run=True)
    prompt["save"] = {"class_type": "SaveImage", "inputs": {"images": ["hosted", 0], "filename_prefix": "dry"}}
    run = run_graph(prompt)
    assert "nothing was sent" in run.shown["hosted"]["text"][0]
    assert "3 x $0.04 = $0.12" in run.shown["hosted"]["text"][0]
    assert "save" not in run.shown
    assert not online.requests
    assert not list((inprocess.BASE / "output").glob("dry*"))


def test_the_bytes_are_saved_as_they_came(hosted, graph, run_graph):
    run = run_graph(graph(save_original=True))
    (name,) = [line.split(": ")[1] for line in report(run).split("\n") if "saved as received" in line]
    content = (inprocess.BASE / "output" / name).read_bytes()
    assert content == PICTURE
    assert SIGNATURE in content


BAD = {
    "no reference": ({"count": 0}, "no reference is connected"),
    "empty instruction": ({"instruction": "  "}, "instruction is empty"),
    "too wide": ({"ratio": "free", "ratio.shape": "5:2"}, "3:7 to 7:3"),
    "no ratio": ({"ratio": "free", "ratio.shape": "wide"}, "two numbers"),
    "not this provider's": ({"provider": "fal", "ratio": "2:1"}, "not one of those of fal [pro]"),
    "too many pictures": ({"provider": "Replicate", "count": 2}, "Replicate [pro] takes 0 to 1"),
    "not its format": ({"provider": "fal", "output_format": "webp"}, "fal [pro] gives png or jpeg"),
}


@pytest.mark.parametrize(("changes", "said"), BAD.values(), ids=BAD)
def test_bad_inputs_are_told_before_anything_is_sent(hosted, graph, run_graph, changes, said):
    assert said in failed(run_graph, graph(**changes))
    assert not hosted.requests


FAULTS = {
    "402": "no credits",
    "403": "does not accept the key",
    "malformed key": "does not accept the key",
    "422": "body.aspect_ratio",
    "500": "problem of its own",
    "redirect": "not followed",
    "foreign": "not safe to use",
    "die after": "may have been accepted and charged",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_goes_wrong_is_said_on_the_node(hosted, graph, run_graph, fault):
    hosted.faults["submit"] = [fault]
    assert FAULTS[fault] in failed(run_graph, graph())
    assert len(hosted.of("POST")) == 1


@pytest.mark.parametrize("status", ["Request Moderated", "Content Moderated"])
def test_moderation_stops_or_gives_the_source_back(hosted, graph, run_graph, status):
    hosted.faults["poll"] = [status]
    assert "does not charge" in failed(run_graph, graph())
    hosted.faults["poll"] = [status]
    run = run_graph(graph(moderated="give the source picture back"))
    torch.testing.assert_close(run.values["hosted"][0], run.values["picture"][0], atol=0, rtol=0)
    assert "the source picture is given back" in report(run)


def test_pictures_that_were_paid_for_are_kept_when_others_fail(hosted, graph, run_graph, caplog):
    hosted.faults["poll"] = ["Content Moderated"]
    run = run_graph(graph(pictures=3))
    assert len(run.values["hosted"][0]) == 2
    assert "moderated" in report(run)
    assert "moderated" in caplog.text


def test_without_a_key_the_file_for_it_is_made_for_its_owner_only(online, graph, run_graph):
    path = FOLDER / "keys.json"
    path.unlink(missing_ok=True)
    said = failed(run_graph, graph())
    assert "BFL_API_KEY" in said
    assert str(path) in said
    assert json.loads(path.read_text()) == dict.fromkeys(KEY_NAMES, "")
    if os.name == "posix":
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.write_text(json.dumps({"BFL_API_KEY": KEY}))
    run_graph(graph())
    assert online.of("POST")[0].headers["x-key"] == KEY
    path.unlink()


def test_the_key_is_nowhere_but_in_the_requests(hosted, graph, run_graph, caplog):
    caplog.set_level(logging.DEBUG)
    prompt = graph(save_original=True, seed=70)
    prompt["save"] = {"class_type": "SaveImage", "inputs": {"images": ["hosted", 0], "filename_prefix": "metadata"}}
    run = run_graph(prompt)
    hosted.faults = {"submit": ["malformed key"], "poll": ["Error"]}
    for _ in range(2):
        failed(run_graph, graph(seed=71))
    hosted.faults = {"download": [*["404"] * 4]}
    failed(run_graph, graph(seed=72))
    written = [inprocess.BASE / folder for folder in ("input", "output", "temp", "user")]  # no models
    files = [path for folder in written for path in folder.rglob("*") if path.is_file() and path.name != "keys.json"]
    assert any(path.name.startswith("metadata") for path in files)
    assert not [path for path in files if KEY.encode() in path.read_bytes()]
    assert KEY not in caplog.text
    assert KEY not in repr([event.data for event in run.events])
    assert KEY not in repr(run.shown)
    assert KEY not in "".join(request.text for request in hosted.requests if "delivery" in request.host)


def test_a_stopped_run_ends_within_a_second_and_is_fetched_later(hosted, graph, run_graph):
    hosted.pending = 1000
    asked = []

    def press_the_button():
        while not hosted.of("GET"):
            time.sleep(0.01)
        asked.append(time.monotonic())
        inprocess.interrupt()

    button = threading.Thread(target=press_the_button)
    button.start()
    with pytest.raises(Interrupted):
        run_graph(graph(pictures=3, seed=300))
    button.join()
    assert time.monotonic() - asked[0] < 5  # one that does not listen goes on for its time limit
    until = time.monotonic() + 5
    while hosted.connections and time.monotonic() < until:
        time.sleep(0.01)
    assert not hosted.connections
    for task in hosted.tasks.values():
        task.pending = 0
    run = run_graph(graph(pictures=3, seed=300))
    assert hosted.accepted == {300: 1, 301: 1, 302: 1}
    assert report(run).count("of an earlier run, not sent again") == 3


def test_the_time_limit_ends_a_run_and_the_next_one_fetches_the_picture(hosted, graph, run_graph):
    hosted.pending = 1000
    assert "within time_limit, 1 s" in failed(run_graph, graph(time_limit=1, seed=400))
    for task in hosted.tasks.values():
        task.pending = 0
    run_graph(graph(time_limit=20, seed=400))
    assert hosted.accepted == {400: 1}


def test_progress_is_shown(hosted, graph, run_graph):
    hosted.pending = 3
    run = run_graph(graph())
    seen = [event.data["value"] for event in run.events if event.type == "progress"]
    assert seen == sorted(seen)
    assert seen[-1] == 100
    texts = [event.data["text"] for event in run.events if event.type == "text"]
    assert any("queued" in text for text in texts)
    assert any("running" in text and "50%" in text for text in texts)


def test_two_nodes_share_the_account_s_limit(hosted, graph, run_graph):
    hosted.limit = 6
    hosted.pending = 0
    prompt = graph(pictures=20, **{"provider.model": "max"})
    prompt["second"] = {**prompt["hosted"], "inputs": {**prompt["hosted"]["inputs"], "seed": 1000}}
    run_graph(prompt)
    assert sum(hosted.accepted.values()) == 40
    assert hosted.most_active <= 6
    assert len(hosted.of("POST")) == 40


def test_a_result_keeps_its_size(hosted, graph, run_graph):
    hosted.picture = png(40, 30)
    run = run_graph(graph(seed=500))
    assert run.values["hosted"][0].shape == (1, 30, 40, 3)


def test_a_batch_in_one_socket_is_refused(hosted, graph, run_graph):
    prompt = graph()
    prompt["two"] = {"class_type": "RepeatImageBatch", "inputs": {"image": ["picture", 0], "amount": 2}}
    prompt["hosted"]["inputs"]["references.reference0"] = ["two", 0]
    assert "reference 1 holds 2 pictures" in failed(run_graph, prompt)
    assert not hosted.requests


def workflow(name):
    shutil.copy(comfyui_folder() / "input" / "example.png", inprocess.BASE / "input")
    return graphs.to_prompt(json.loads((WORKFLOWS / f"{name}.json").read_text(encoding="utf-8")))


def test_an_unwritable_journal_stops_a_run_before_it_pays(hosted, graph, run_graph):
    """A full disk, a folder of another owner: every run was charged and gave nothing."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / "journal").write_text("not a folder")
    try:
        said = failed(run_graph, graph(pictures=3))
    finally:
        (FOLDER / "journal").unlink()
    assert "cannot be written" in said
    assert str(FOLDER / "journal") in said
    assert not hosted.requests


def test_an_original_that_cannot_be_saved_does_not_cost_the_picture(hosted, graph, run_graph, monkeypatch, caplog):
    replace = os.replace

    def full(source, target):
        if Path(target).suffix != ".json":  # the journal's
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    run = run_graph(graph(save_original=True, pictures=2, seed=600))
    assert len(run.values["hosted"][0]) == 2
    assert report(run).count("not saved as received: No space left on device") == 2
    assert "could not be saved" in caplog.text


def test_one_odd_answer_costs_one_picture_of_six(hosted, graph, run_graph):
    hosted.faults["submit"], hosted.change = ["changed"], (("polling_url",), "@deep@")
    run = run_graph(graph(pictures=6, seed=610))
    assert len(run.values["hosted"][0]) == 5
    assert "may have been accepted and charged" in report(run)
    (lost,) = [task.id for task in hosted.tasks.values() if f"request {task.id}" not in report(run)]
    assert f"Request {lost}" in report(run)


def test_every_picture_of_a_run_that_gave_none_is_named(hosted, graph, run_graph):
    hosted.pending, hosted.faults["download"] = 0, lambda: "404"
    said = failed(run_graph, graph(pictures=4, seed=620))
    assert not [task for task in hosted.tasks if task not in said]


def interrupted(run_graph, prompt, service, requests):
    def press_the_button():
        while len(service.requests) < requests:
            time.sleep(0.01)
        inprocess.interrupt()

    button = threading.Thread(target=press_the_button)
    button.start()
    with pytest.raises(Interrupted):
        run_graph(prompt)
    button.join()


def test_a_stopped_run_says_what_it_may_have_paid_for(hosted, graph, run_graph, caplog):
    hosted.faults["submit"] = ["stall after"]
    interrupted(run_graph, graph(seed=630), hosted, 1)
    assert "seed 630: stopped. The request may have been accepted and charged" in caplog.text


def test_a_time_limit_before_the_answer_says_that_it_may_have_been_charged(hosted, graph, run_graph):
    hosted.faults["submit"] = ["stall after"]
    said = failed(run_graph, graph(seed=640, time_limit=1))
    assert "may have been accepted and charged" in said
    assert "not paid for again" not in said


def test_the_time_that_another_node_takes_does_not_count(hosted, graph, run_graph, pack, monkeypatch):
    """A node that is not asynchronous holds the event loop, in which nothing of ours can run."""

    class Sleeper:
        RETURN_TYPES, FUNCTION, OUTPUT_NODE = (), "sleep", True
        INPUT_TYPES = classmethod(lambda cls: {"required": {"picture": ("IMAGE",)}})

        async def sleep(self, picture):
            while not hosted.of("GET"):  # until the edit waits for its picture
                await asyncio.sleep(0.01)
            time.sleep(3)
            return ()

    hosted.pending = 3
    monkeypatch.setitem(pack, "Sleeper", Sleeper)
    prompt = {
        **graph(seed=650, time_limit=2),
        "sleeper": {"class_type": "Sleeper", "inputs": {"picture": ["picture", 0]}},
    }
    assert run_graph(prompt).values["hosted"][0].shape == (1, 72, 96, 3)


@pytest.mark.parametrize("shape", ["1e999999999:1", "1e-99999999:1", "1e400:1"])
def test_no_text_freezes_the_host(online, graph, run_graph, shape):
    """Each held the interpreter for hours, in a dry run and without a key."""
    changes = {"ratio": "free", "ratio.shape": shape, "dry_run": True}
    assert "two numbers above 0 are needed" in failed(run_graph, graph(**changes))


@pytest.mark.parametrize("way", ["literal", "linked"])
@pytest.mark.parametrize("dry_run", [True, False])
def test_a_graph_wide_seed_is_brought_into_the_provider_s_range(hosted, graph, run_graph, way, dry_run):
    prompt, seed = graph(pictures=2, dry_run=dry_run), 360139647746456
    sent_as = seed % 2**31
    prompt["number"] = {"class_type": "PrimitiveInt", "inputs": {"value": seed}}
    prompt["hosted"]["inputs"]["seed"] = ["number", 0] if way == "linked" else seed
    run = run_graph(prompt)
    told = run.shown["hosted"]["text"][0]
    assert f"seeds {sent_as} to {sent_as + 1} (for {seed}: Black Forest Labs takes 0 to 2147483647)" in told
    assert set(hosted.accepted) == (set() if dry_run else {sent_as, sent_as + 1})


def test_an_untested_provider_is_said_to_be_one(online, graph, run_graph):
    for provider in ("Verda (DataCrunch)", "Hugging Face", "Black Forest Labs"):
        told = run_graph(graph(provider=provider, dry_run=True)).shown["hosted"]["text"][0]
        assert ("untested: " in told) == (provider != "Black Forest Labs")


def test_what_a_model_takes_is_shown_and_what_it_does_not_take_too(online, graph, run_graph):
    inputs = {"provider.model": "dev", "provider.steps": 20, "provider.guidance": 3.0}
    inputs |= {"provider.lora": "civitai:1@2", "provider.lora_weight": 0.5}
    told = run_graph(graph(provider="Runware", dry_run=True, **inputs)).shown["hosted"]["text"][0]
    assert "steps 20, guidance 3.0, lora civitai:1@2, lora weight 0.5" in told
    for tolerance in (0, 2):  # 0 is the strictest
        inputs["provider.safety_tolerance"] = tolerance
        told = run_graph(graph(provider="Runware", dry_run=True, **inputs)).shown["hosted"]["text"][0]
        assert "would not be sent, as [dev] does not take it: safety tolerance" in told
    told = run_graph(graph(provider="Runware", dry_run=True, **inputs | {"provider.model": "pro"}))
    assert "would not be sent, as [pro] does not take it: steps, guidance, lora" in told.shown["hosted"]["text"][0]


@pytest.mark.parametrize("name", ["Hosted edit with pro or max", "Local or hosted"])
def test_the_template_shows_first_what_it_would_send(online, run_graph, name):
    prompt = workflow(name)
    if name == "Local or hosted":
        prompt = graphs.with_input(prompt, "ComfySwitchNode", "switch", True)
    told = run_graph(prompt).shown[graphs.find(prompt, "KontextHosted")]["text"][0]
    assert told.startswith("dry run: nothing was sent")
    assert "would be sent: instruction" in told
    assert "\nsent:" not in told
    assert not online.requests


def test_the_template_edits_when_the_dry_run_is_off(hosted, input_picture, run_graph):
    """The result has the picture's own size, whatever size the provider returns."""
    prompt = graphs.with_input(workflow("Hosted edit with pro or max"), "KontextHosted", "dry_run", False)
    picture = np.random.default_rng(2).random((190, 301, 3))
    prompt = graphs.with_input(prompt, "LoadImage", "image", input_picture(picture))
    hosted.picture = png(1312, 800)  # Kontext Fit Frame sent 1328x800
    (image,) = run_graph(prompt).shown[graphs.find(prompt, "SaveImage")]["images"]
    assert sent(hosted)["aspect_ratio"] == "83:50"
    with Image.open(inprocess.BASE / "output" / image["filename"]) as result:
        assert result.size == (301, 190)


@pytest.mark.parametrize("switch", [False, True], ids=["local", "hosted"])
def test_one_click_decides_who_draws(hosted, run_graph, switch):
    prompt = graphs.with_input(workflow("Local or hosted"), "ComfySwitchNode", "switch", switch)
    prompt = graphs.with_input(prompt, "KontextHosted", "dry_run", False)
    prompt = graphs.with_input(prompt, "KontextSampler", "steps", 1)
    run = run_graph(prompt)
    assert (graphs.find(prompt, "KontextSampler") in run.values) == (not switch)
    assert (graphs.find(prompt, "KontextHosted") in run.values) == switch
    assert sum(hosted.accepted.values()) == switch
    if switch:
        assert sent(hosted)["prompt"] == "make it grey"
