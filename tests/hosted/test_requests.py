"""What each provider is sent, field by field, as its documentation asks; and what it does not take."""

import asyncio
import base64
import io
import json
import os
import stat
import sys

import numpy as np
import pytest
from aiohttp import web
from PIL import Image

from kontext_core.hosted import PRICES_OF, PROVIDERS, errors, pictures, ratios
from kontext_core.hosted.batch import Batch
from kontext_core.hosted.errors import HostedError
from kontext_core.hosted.journal import LIFETIME, Journal
from kontext_core.hosted.keys import find_key
from kontext_core.hosted.wire import Answer, Ratio, Task
from stand_in import PICTURE, providers
from stand_in.jobs import KEY, OPTIONS, SENT, job
from tools import ROOT

URI = SENT.data_uri
COMMON = {"instruction": "x", "seed": 5}
FLUX = "fal-ai/flux-pro/kontext"
FIELDS = {
    "BFL [pro], EU": (
        job(**COMMON, pictures=2, options=OPTIONS | {"region": "EU"}),
        "https://api.eu.bfl.ai/v1/flux-kontext-pro",
        {"prompt": "x", "input_image": SENT.text, "input_image_2": SENT.text, "seed": 5, "aspect_ratio": "3:2"}
        | {"output_format": "png", "safety_tolerance": 2, "prompt_upsampling": False},
    ),
    "BFL [max], US, no picture": (
        job(**COMMON, pictures=0, model="max", ratio=Ratio(16, 9), options=OPTIONS | {"region": "US"}),
        "https://api.us.bfl.ai/v1/flux-kontext-max",
        {"prompt": "x", "seed": 5, "aspect_ratio": "16:9"}
        | {"output_format": "png", "safety_tolerance": 2, "prompt_upsampling": False},
    ),
    "fal [pro]": (
        job("fal", **COMMON),
        f"https://queue.fal.run/{FLUX}",
        {"prompt": "x", "image_url": URI, "seed": 5, "output_format": "png"}
        | {"safety_tolerance": "2", "enhance_prompt": False},
    ),
    "fal [max], several": (
        job("fal", **COMMON, model="max", pictures=3, ratio=Ratio(1, 1), output_format="jpeg"),
        f"https://queue.fal.run/{FLUX}/max/multi",
        {"prompt": "x", "image_urls": [URI] * 3, "seed": 5, "output_format": "jpeg", "aspect_ratio": "1:1"}
        | {"safety_tolerance": "2", "enhance_prompt": False},
    ),
    "fal [pro], no picture": (
        job("fal", **COMMON, pictures=0, ratio=Ratio(21, 9)),
        f"https://queue.fal.run/{FLUX}/text-to-image",
        {"prompt": "x", "seed": 5, "output_format": "png", "aspect_ratio": "21:9"}
        | {"safety_tolerance": "2", "enhance_prompt": False},
    ),
    "fal [dev]": (
        job("fal", **COMMON, model="dev"),
        "https://queue.fal.run/fal-ai/flux-kontext/dev",
        {"prompt": "x", "image_url": URI, "seed": 5, "output_format": "png"},
    ),
    "Replicate [pro]": (
        job("Replicate", **COMMON),
        "https://api.replicate.com/v1/models/black-forest-labs/flux-kontext-pro/predictions",
        {
            "input": {"prompt": "x", "input_image": URI, "aspect_ratio": "match_input_image", "seed": 5}
            | {"output_format": "png", "safety_tolerance": 2, "prompt_upsampling": False}
        },
    ),
    "Replicate [dev]": (
        job("Replicate", **COMMON, model="dev", output_format="jpeg", ratio=Ratio(4, 5)),
        "https://api.replicate.com/v1/models/black-forest-labs/flux-kontext-dev/predictions",
        {"input": {"prompt": "x", "input_image": URI, "aspect_ratio": "4:5", "seed": 5, "output_format": "jpg"}},
    ),
    "Together [max]": (
        job("Together", **COMMON, model="max"),
        "https://api.together.ai/v1/images/generations",
        {"model": "black-forest-labs/FLUX.1-kontext-max", "prompt": "x", "image_url": URI, "aspect_ratio": "3:2"}
        | {"seed": 5, "n": 1, "response_format": "base64", "output_format": "png"},
    ),
    "Verda [dev]": (
        job("Verda (DataCrunch)", **COMMON),
        "https://inference.datacrunch.io/flux-kontext-dev/predict",
        {
            "input": {"prompt": "x", "image": SENT.text, "size": "1248*832", "seed": 5, "num_images": 1}
            | {"num_inference_steps": 28, "guidance_scale": 2.5, "output_format": "png", "enable_base64_output": True}
        },
    ),
    "Hugging Face [dev]": (
        job("Hugging Face", **COMMON),
        "https://router.huggingface.co/fal-ai/fal-ai/flux-kontext/dev?_subdomain=queue",
        {"prompt": "x", "image_url": URI, "seed": 5, "output_format": "png"},
    ),
}
TITLES = {"BFL": "Black Forest Labs", "Verda": "Verda (DataCrunch)", "Hugging": "Hugging Face"}


@pytest.mark.parametrize(("name", "case"), FIELDS.items(), ids=FIELDS)
def test_the_request(name, case):
    wanted, url, body = case
    first = name.split()[0].rstrip(",")
    call = PROVIDERS[TITLES.get(first, first)].submit(wanted)
    assert (call.method, call.url, call.json) == ("POST", url, body)


def test_runware_s_request():
    first, second = (PROVIDERS["Runware"].submit(job("Runware", **COMMON, pictures=2)) for _ in range(2))
    (task,) = first.json
    assert task.pop("taskUUID") != second.json[0].pop("taskUUID")
    assert first.url == "https://api.runware.ai/v1"
    assert task == {
        "taskType": "imageInference",
        "deliveryMethod": "async",
        "positivePrompt": "x",
        "model": "bfl:3@1",
        "referenceImages": [URI, URI],
        "width": 1248,
        "height": 832,
        "seed": 5,
        "numberResults": 1,
        "outputType": "URL",
        "outputFormat": "PNG",
        "includeCost": True,
        "providerSettings": {"bfl": {"promptUpsampling": False, "safetyTolerance": 2}},
    }


NOT_TAKEN = {
    "fal: a ratio that it does not list": ("fal", {"ratio": Ratio(2, 1)}, "ratio: 2:1 is not one of fal's"),
    "fal [dev]: no picture": ("fal", {"model": "dev", "pictures": 0}, "exactly one picture"),
    "fal [dev]: a chosen ratio": ("fal", {"model": "dev", "ratio": Ratio(1, 1)}, "exactly one picture"),
    "Hugging Face: a chosen ratio": ("Hugging Face", {"ratio": Ratio(1, 1)}, "none but that of the picture"),
    "Replicate: two pictures": ("Replicate", {"pictures": 2}, "Replicate takes 1 for \\[pro\\]"),
    "Runware [dev]: two pictures": ("Runware", {"model": "dev", "pictures": 2}, "takes 1 for \\[dev\\]"),
    "Runware: seed 0": ("Runware", {"seed": 0}, "needs 1 or more"),
    "Runware: a free ratio": ("Runware", {"ratio": Ratio(5, 4)}, "not one of Runware's"),
}


@pytest.mark.parametrize(("provider", "changes", "said"), NOT_TAKEN.values(), ids=NOT_TAKEN)
def test_what_a_provider_does_not_take(provider, changes, said):
    with pytest.raises(ValueError, match=said):
        PROVIDERS[provider].submit(job(provider, **changes))


@pytest.mark.parametrize("provider", PROVIDERS.values(), ids=PROVIDERS)
def test_a_docstring_says_what_is_not_verified(provider):
    text = sys.modules[type(provider).__module__].__doc__
    assert "ot verified" in text or "is verified" in text


STRANGE = [
    b"",
    b"[]",
    b"null",
    b"{}",
    b'{"id": 1}',
    b'{"data": []}',
    b'{"urls": 3, "id": 2}',
    b"\xff",
    b'{"data": [3]}',
]


@pytest.mark.parametrize("body", STRANGE, ids=repr)
@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_strange_answer_is_no_crash(service, edit, provider, body, monkeypatch):
    """The request may have been accepted, so the user is told to look, and nothing is sent again."""
    monkeypatch.setattr(providers, "answer", lambda *_: web.Response(body=body, content_type="application/json"))
    with pytest.raises(HostedError) as caught:
        edit(job(provider), provider)
    assert caught.value.case in (errors.UNKNOWN, errors.DOWN)
    assert len(service.of("POST")) == 1


RATIOS = {
    (1024, 1024): "1:1",
    (1920, 1080): "16:9",
    (1080, 1920): "9:16",
    (6000, 4000): "3:2",
    (4001, 3000): "4:3",
    (2100, 900): "7:3",
    (900, 2100): "3:7",
}


@pytest.mark.parametrize(("size", "expected"), RATIOS.items(), ids=str)
def test_a_picture_s_ratio_in_small_numbers(size, expected):
    assert str(ratios.of_picture(*size)) == expected


def test_the_sent_ratio_is_near_every_picture_s():
    for width in range(700, 1600, 7):
        for height in (700, 1023, 1600):
            if 3 / 7 <= width / height <= 7 / 3:
                ratio = ratios.of_picture(width, height)
                assert abs(ratio.width / ratio.height / (width / height) - 1) < 0.004
                assert 3 / 7 <= ratio.width / ratio.height <= 7 / 3


@pytest.mark.parametrize("text", ["16:9", "21:9", "9:21", "1:1"])
def test_named_ratios_keep_their_names(text):
    assert str(ratios.chosen(text)) == text


@pytest.mark.parametrize(("text", "expected"), [("1.85:1", "37:20"), (" 10 : 8 ", "5:4"), ("7:3", "7:3")])
def test_free_ratios(text, expected):
    assert str(ratios.chosen(text)) == expected


@pytest.mark.parametrize("text", ["", "4", "4:", "4:0", "0:4", "-4:-3", "a:b", "1:2:3", "7.1:3", "3:7.1", "nan:1"])
def test_bad_ratios(text):
    with pytest.raises(ValueError, match="ratio is"):
        ratios.chosen(text)


def decoded(sent):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(sent.text))))


def test_a_picture_within_the_limits_is_sent_as_it_is():
    pixels = np.random.default_rng(0).integers(0, 256, (50, 70, 3))
    sent = pictures.to_send((pixels / 255).astype(np.float32))
    assert (decoded(sent) == pixels).all()
    assert (sent.width, sent.height, sent.note) == (70, 50, "")


@pytest.mark.parametrize("limits", [{"most_pixels": 2000}, {"most_bytes": 4000}], ids=lambda limits: next(iter(limits)))
def test_a_picture_over_a_limit_is_made_smaller_and_it_is_said(limits):
    noise = np.random.default_rng(0).random((50, 70, 3)).astype(np.float32)
    sent = pictures.to_send(noise, **limits)
    assert decoded(sent).shape == (sent.height, sent.width, 3)
    assert sent.width * sent.height <= limits.get("most_pixels", 3500)
    assert sent.size <= limits.get("most_bytes", 20_000)
    assert abs(sent.width / sent.height / (70 / 50) - 1) < 0.05
    assert "made smaller from 70x50 px" in sent.note


@pytest.mark.parametrize(
    "content",
    [b"", b"<html>", PICTURE[:-200], PICTURE[:100], b"GIF89a" + PICTURE],
    ids=["nothing", "html", "truncated", "a header", "gif"],
)
def test_what_is_no_whole_picture(content):
    with pytest.raises(HostedError, match="not a whole picture"):
        pictures.read_picture(content)


def test_the_journal_holds_a_task_for_ten_minutes(tmp_path):
    now = [1e9]
    journal, task = Journal(tmp_path, lambda: now[0]), Task("id", "https://api.bfl.ai/x", cost=0.04)
    journal.remember("mark", task)
    assert journal.find("mark") == task
    now[0] += LIFETIME + 1
    assert journal.find("mark") is None
    now[0] -= LIFETIME + 2  # the clock was set back
    assert journal.find("mark") is None


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "3", '{"id": "x"}', '{"accepted": "now", "id": "x", "address": "y"}']
)
def test_a_damaged_journal_is_left_out(tmp_path, content):
    (tmp_path / "mark.json").write_text(content)
    assert Journal(tmp_path).find("mark") is None


def test_old_entries_are_cleared(tmp_path):
    Journal(tmp_path).remember("old", Task("x", "y"))
    os.utime(tmp_path / "old.json", (1, 1))
    Journal(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_journal_tells_neither_words_nor_pictures(tmp_path):
    wanted = job(instruction="a secret plan")
    Journal(tmp_path).remember(wanted.mark("Black Forest Labs"), Task("x", "y"))
    (path,) = tmp_path.iterdir()
    assert "secret" not in path.read_text() + path.name
    assert SENT.text[:20] not in path.read_text()
    if os.name == "posix":
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "change", [{"seed": 99}, {"instruction": "y"}, {"pictures": 2}, {"options": {"region": "EU"}}], ids=str
)
def test_another_request_has_another_mark(change):
    same = {"seed": 98, "instruction": "x"}
    assert job(**same).mark("a") == job(**same).mark("a") != job(**same | change).mark("a")
    assert job(**same).mark("a") != job(**same).mark("b")


def test_the_environment_s_key_comes_first_and_makes_no_file(tmp_path):
    path = tmp_path / "keys.json"
    assert find_key("A_KEY", {"A_KEY": f" {KEY}\n"}, path, ["A_KEY"]) == KEY
    assert not path.exists()


@pytest.mark.skipif(os.name == "nt", reason="no file modes")
def test_a_key_file_that_others_may_read_is_closed(tmp_path):
    path = tmp_path / "keys.json"
    path.write_text(json.dumps({"A_KEY": KEY}))
    path.chmod(0o644)
    assert find_key("A_KEY", {}, path, ["A_KEY"]) == KEY
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


BAD_FILES = {"not JSON": f"A_KEY={KEY}", "a list": f'["{KEY}"]', "a number": '{"A_KEY": 3}', "no key": '{"A_KEY": ""}'}


@pytest.mark.parametrize("content", BAD_FILES.values(), ids=BAD_FILES)
def test_a_bad_key_file_is_told_without_its_content(tmp_path, content):
    path = tmp_path / "keys.json"
    path.write_text(content)
    with pytest.raises(ValueError, match="keys.json") as caught:
        find_key("A_KEY", {}, path, ["A_KEY"])
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("key", ["a b", "a\r\nX: y", "schlüssel", '"quoted" key', "***"])
def test_a_key_that_is_none_is_told_without_showing_it(tmp_path, key):
    with pytest.raises(ValueError, match="characters that no key has") as caught:
        find_key("A_KEY", {"A_KEY": key}, tmp_path / "keys.json", ["A_KEY"])
    assert key not in str(caught.value)


def test_a_batch_stops_sending_when_the_rest_is_hopeless(service, edit):
    service.faults["submit"] = lambda: "402"

    async def work(client):
        batch = Batch(client, [job() for _ in range(50)], asyncio.Semaphore(4))
        await batch.run()
        return batch.done

    done = edit(work=work)
    assert {outcome.case for outcome in done} == {errors.NO_CREDITS}
    assert len(service.of("POST")) <= 4


def test_long_words_of_a_provider_are_cut():
    """Some send the request back with the error, pictures and all."""
    echoed = json.dumps({"detail": [{"loc": ["body", "input_image"], "msg": "bad: " + 5000 * "A"}]}).encode()
    error = PROVIDERS["Black Forest Labs"].failure(Answer(422, {}, echoed))
    assert "body.input_image: bad" in str(error)
    assert len(str(error)) < 500


def test_the_help_page_s_table_says_what_the_code_does():
    page = (ROOT / "web" / "docs" / "KontextHosted.md").read_text(encoding="utf-8")
    rows = {row.split(" | ")[0].strip("| "): row for row in page.split("\n") if row.startswith("| ")}
    counts = {None: "any", 9: "nine", 13: "thirteen", 0: "the picture's"}
    assert f"in {PRICES_OF}" in page
    for title, provider in PROVIDERS.items():
        cells = [cell.strip() for cell in rows[title].strip("|").split("|")]
        prices = [provider.models[model].price if model in provider.models else "" for model in ("pro", "max", "dev")]
        expected = ["–" if price is None else price and f"${price:.4f}".rstrip("0") for price in prices]
        assert cells[1:5] == [f"`{provider.key_name}`", *expected]
        assert cells[5] == str(provider.most_pictures)
        assert cells[6] == counts[None if provider.ratios is None else len(provider.ratios)]
        limits = {model: each.active for model, each in provider.models.items()}
        others = [f"[{model}] {limit}" for model, limit in limits.items() if limit != next(iter(limits.values()))]
        assert cells[7] == ", ".join([str(next(iter(limits.values()))), *others])
