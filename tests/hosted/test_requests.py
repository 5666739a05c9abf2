"""The requests to each provider, field by field as in its documentation, and the inputs that it does not support."""

import asyncio
import base64
import dataclasses
import io
import json
import os
import stat
import sys
from pathlib import Path

import numpy as np
import pytest
from multidict import CIMultiDict
from PIL import Image
from yarl import URL

from kontext_core.hosted import PRICES_OF, PROVIDERS, errors, pictures, ratios
from kontext_core.hosted.batch import Batch
from kontext_core.hosted.keys import find_key
from kontext_core.hosted.network import open_session
from kontext_core.hosted.wire import Ratio, parse
from stand_in import PICTURE, Loopback, facts
from stand_in.jobs import KEY, OPTIONS, SENT, job
from tools import ROOT

URI = SENT.data_uri
COMMON = {"instruction": "x", "seed": 5}
FLUX = "fal-ai/flux-pro/kontext"
OWN = {"steps": 0, "guidance": 0.0, "lora": ""}  # left to the provider
SET = {"steps": 20, "guidance": 3.0}
LORA = SET | {"lora": " civitai:618692@691639 ", "lora_weight": 0.8}
SIX = {"prompt": "x", "seed": 5, "output_format": "png"}
FIELDS = {
    "BFL [pro], EU": (
        job(**COMMON, pictures=2, options=OPTIONS | {"region": "EU"}),
        "https://api.eu.bfl.ai/v1/flux-kontext-pro",
        {"prompt": "x", "input_image": SENT.text, "input_image_2": SENT.text, "seed": 5, "aspect_ratio": "3:2"}
        | {"output_format": "png", "safety_tolerance": 2, "prompt_upsampling": False},
    ),
    "BFL [max], US, no picture, WebP": (
        job(
            **COMMON,
            pictures=0,
            model="max",
            ratio=Ratio(16, 9),
            output_format="webp",
            options=OPTIONS | {"region": "US"},
        ),
        "https://api.us.bfl.ai/v1/flux-kontext-max",
        {"prompt": "x", "seed": 5, "aspect_ratio": "16:9"}
        | {"output_format": "webp", "safety_tolerance": 2, "prompt_upsampling": False},
    ),
    "fal [pro]": (
        job("fal", **COMMON, options=OPTIONS | OWN),
        f"https://queue.fal.run/{FLUX}",
        SIX | {"image_url": URI, "safety_tolerance": "2", "enhance_prompt": False},
    ),
    "fal [max], several": (
        job("fal", **COMMON, model="max", pictures=3, ratio=Ratio(1, 1), output_format="jpeg", options=OPTIONS | SET),
        f"https://queue.fal.run/{FLUX}/max/multi",
        {"prompt": "x", "image_urls": [URI] * 3, "seed": 5, "output_format": "jpeg", "aspect_ratio": "1:1"}
        | {"safety_tolerance": "2", "enhance_prompt": False, "guidance_scale": 3.0},
    ),
    "fal [pro], no picture": (
        job("fal", **COMMON, pictures=0, ratio=Ratio(21, 9)),
        f"https://queue.fal.run/{FLUX}/text-to-image",
        SIX | {"aspect_ratio": "21:9", "safety_tolerance": "2", "enhance_prompt": False},
    ),
    "fal [dev]": (
        job("fal", **COMMON, model="dev", options=OPTIONS | OWN),
        "https://queue.fal.run/fal-ai/flux-kontext/dev",
        SIX | {"image_url": URI, "resolution_mode": "auto"},
    ),
    "fal [dev], a ratio": (
        job("fal", **COMMON, model="dev", ratio=Ratio(4, 5), options=OPTIONS | SET),
        "https://queue.fal.run/fal-ai/flux-kontext/dev",
        SIX | {"image_url": URI, "resolution_mode": "4:5", "num_inference_steps": 20, "guidance_scale": 3.0},
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
        job("Replicate", **COMMON, model="dev", output_format="jpeg", ratio=Ratio(4, 5), options=OPTIONS | SET),
        "https://api.replicate.com/v1/models/black-forest-labs/flux-kontext-dev/predictions",
        {
            "input": {"prompt": "x", "input_image": URI, "aspect_ratio": "4:5", "seed": 5, "output_format": "jpg"}
            | {"num_inference_steps": 20, "guidance": 3.0}
        },
    ),
    "Together [max]": (
        job("Together", **COMMON, model="max"),
        "https://api.together.ai/v1/images/generations",
        {"model": "black-forest-labs/FLUX.1-kontext-max", "prompt": "x", "image_url": URI, "aspect_ratio": "3:2"}
        | {"seed": 5, "n": 1, "response_format": "base64", "output_format": "png"},
    ),
    "Together [dev]": (
        job("Together", **COMMON, model="dev", options=OPTIONS | SET),
        "https://api.together.ai/v1/images/generations",
        {"model": "black-forest-labs/FLUX.1-kontext-dev", "prompt": "x", "image_url": URI, "aspect_ratio": "3:2"}
        | {"seed": 5, "n": 1, "response_format": "base64", "output_format": "png", "steps": 20, "guidance_scale": 3.0},
    ),
    "Verda [dev]": (
        job("Verda (DataCrunch)", **COMMON, options=OPTIONS | {"steps": 20}),
        "https://inference.datacrunch.io/flux-kontext-dev/predict",
        {
            "input": {"prompt": "x", "image": SENT.text, "size": "1248*832", "seed": 5, "num_images": 1}
            | {"num_inference_steps": 20, "guidance_scale": 2.5, "output_format": "png", "enable_base64_output": True}
        },
    ),
    "Hugging Face [dev]": (
        job("Hugging Face", **COMMON),
        "https://router.huggingface.co/fal-ai/fal-ai/flux-kontext/dev?_subdomain=queue",
        SIX | {"image_url": URI, "resolution_mode": "auto"},
    ),
}
TITLES = {"BFL": "Black Forest Labs", "Verda": "Verda (DataCrunch)", "Hugging": "Hugging Face"}


@pytest.mark.parametrize(("name", "case"), FIELDS.items(), ids=FIELDS)
def test_the_request(name, case):
    wanted, url, body = case
    first = name.split()[0].rstrip(",")
    provider = PROVIDERS[TITLES.get(first, first)]
    call = provider.submit(wanted)
    assert (call.method, call.url, call.json) == ("POST", url, body)
    host = URL(url).host
    assert facts.refused_field(host, URL(url).path_qs, body) == ""  # by the provider's own list of fields
    assert facts.TABLES[host].authorisation(CIMultiDict(provider.headers(KEY, {})))


def runware(**changes):
    first, second = (PROVIDERS["Runware"].submit(job("Runware", **COMMON | changes)) for _ in range(2))
    assert facts.refused_field("api.runware.ai", "/v1", first.json) == ""
    (task,) = first.json
    assert PROVIDERS["Runware"].own_task(first).id == task["taskUUID"]
    assert task.pop("taskUUID") != second.json[0].pop("taskUUID")
    assert first.url == "https://api.runware.ai/v1"
    return task


def test_runware_s_request():
    assert runware(pictures=2) == {
        "taskType": "imageInference",
        "deliveryMethod": "async",
        "positivePrompt": "x",
        "model": "bfl:3@1",
        "inputs": {"referenceImages": [URI, URI]},
        "width": 1248,
        "height": 832,
        "seed": 5,
        "numberResults": 1,
        "outputType": "URL",
        "outputFormat": "PNG",
        "includeCost": True,
        "providerSettings": {"bfl": {"promptUpsampling": False, "safetyTolerance": 2}},
    }


def test_runware_s_dev_takes_steps_guidance_and_a_lora():
    task = runware(model="dev", options=OPTIONS | LORA, output_format="webp")
    assert task["lora"] == [{"model": "civitai:618692@691639", "weight": 0.8}]
    assert (task["steps"], task["CFGScale"], task["outputFormat"]) == (20, 3.0, "WEBP")
    assert "providerSettings" not in task


NOT_TAKEN = {
    "fal: a ratio that it does not list": ("fal", {"ratio": Ratio(2, 1)}, "2:1 is not one of those of fal \\[pro\\]"),
    "fal [dev]: no picture": ("fal", {"model": "dev", "pictures": 0}, "takes exactly 1"),
    "fal [dev]: a ratio that it does not list": ("fal", {"model": "dev", "ratio": Ratio(2, 1)}, "not one of those"),
    "fal: WebP": ("fal", {"output_format": "webp"}, "output_format is webp; fal \\[pro\\] gives png or jpeg"),
    "fal [dev]: too many steps": ("fal", {"model": "dev", "options": {"steps": 60}}, "steps is 60; .* takes 10 to 50"),
    "fal: too little guidance": ("fal", {"options": OPTIONS | {"guidance": 0.5}}, "guidance is 0.5; .* takes 1 to 20"),
    "fal: tolerance 0": ("fal", {"options": OPTIONS | {"safety_tolerance": 0}}, "safety_tolerance is 0; .* 1 to 6"),
    "Replicate: two pictures": ("Replicate", {"pictures": 2}, "Replicate \\[pro\\] takes 0 to 1"),
    "Runware: three pictures": ("Runware", {"pictures": 3}, "Runware \\[pro\\] takes 0 to 2"),
    "Runware: a free ratio": ("Runware", {"ratio": Ratio(5, 4)}, "not one of those of Runware"),
    "Runware: a LoRA by another name": (
        "Runware",
        {"model": "dev", "options": LORA | {"lora": "https://example.com/a.safetensors"}},
        "lora is 'https",
    ),
}


@pytest.mark.parametrize(("provider", "changes", "said"), NOT_TAKEN.values(), ids=NOT_TAKEN)
def test_what_a_provider_does_not_take(provider, changes, said):
    with pytest.raises(ValueError, match=said):
        PROVIDERS[provider].submit(job(provider, **changes))


SEEDS = [0, 1, 7, 2**31 - 1, 2**31, 360139647746456, 2**64 - 1, -1]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("provider", PROVIDERS.values(), ids=PROVIDERS)
def test_every_seed_is_brought_into_the_provider_s_range(provider, seed):
    """A graph-wide seed has 64 bits. Seeds of a batch stay different, and one within the range stays the same."""
    low, high = provider.seeds
    batch = [provider.seed(seed + number) for number in range(100)]
    assert all(low <= each <= high for each in batch)
    assert len(set(batch)) == 100
    assert not low <= seed <= high or batch[0] == seed


def test_a_large_picture_is_uploaded_to_replicate_and_a_small_one_is_not(service, edit):
    noise = np.random.default_rng(0).random((700, 700, 3), dtype=np.float32)
    large = pictures.to_send(noise)
    assert large.size > 1_000_000
    wanted = job("Replicate")
    assert edit(dataclasses.replace(wanted, pictures=(large,)), "Replicate").content == PICTURE
    upload, *_, prediction = service.of("POST")
    assert upload.path == "/v1/files"
    assert base64.b64decode(large.text) in upload.body
    assert json.loads(prediction.body)["input"]["input_image"].startswith("https://api.replicate.com/v1/files/")
    service.requests.clear()
    edit(job("Replicate"), "Replicate")
    assert not [request for request in service.requests if request.path == "/v1/files"]
    assert not service.refused


def test_an_upload_costs_nothing_and_is_repeated(service, edit):
    noise = np.random.default_rng(0).random((700, 700, 3), dtype=np.float32)
    wanted = dataclasses.replace(job("Replicate"), pictures=(pictures.to_send(noise),))
    service.faults["upload"] = ["500", "die", "not json"]
    assert edit(wanted, "Replicate").content == PICTURE
    assert service.accepted == {wanted.seed: 1}


def test_the_organisation_that_pays_goes_along_with_every_request(service, edit):
    edit(job("Hugging Face", options=OPTIONS | {"bill_to": "our-lab"}), "Hugging Face")
    asked = [request for request in service.requests if request.host == "router.huggingface.co"]
    assert len(asked) >= 3
    assert all(request.headers["X-HF-Bill-To"] == "our-lab" for request in asked)


def test_a_new_model_is_one_row(service, edit):
    """For example FLUX.2 [pro], which accepts eight pictures."""

    class More(type(PROVIDERS["Black Forest Labs"])):
        row = PROVIDERS["Black Forest Labs"].models["pro"]._replace(id="flux-2-pro", price=0.045, references=(0, 8))
        models = PROVIDERS["Black Forest Labs"].models | {"2 pro": row}

    call = More().submit(job(model="2 pro", pictures=8))
    assert call.url == "https://api.bfl.ai/v1/flux-2-pro"
    assert [name for name in call.json if name.startswith("input_image")][-1] == "input_image_8"


REFUSED = {  # requests that the stand-in rejects by the provider's own facts: method or header or field
    "another scheme": ("fal", "POST", "/fal-ai/flux-pro/kontext", {"Authorization": "Bearer x"}, {}, 401),
    "no scheme": ("Replicate", "POST", "/v1/models/a/b/predictions", {"Authorization": "x"}, {}, 401),
    "another header": ("Black Forest Labs", "POST", "/v1/x", {"Authorization": "Bearer x"}, {}, 403),
    "another method": ("fal", "POST", "/fal-ai/x/requests/1/cancel", {"Authorization": "Key x"}, None, 405),
    "an unknown field": ("Black Forest Labs", "POST", "/v1/x", {"x-key": "x"}, {"prompt": "x", "guidance": 3}, 422),
    "a wrong type": ("Black Forest Labs", "POST", "/v1/x", {"x-key": "x"}, {"prompt": "x", "seed": "7"}, 422),
    "a key with a download": ("Replicate", "GET", "delivery", {"Authorization": "Bearer x"}, None, 400),
    "without the queue": (
        "Hugging Face",
        "POST",
        "/fal-ai/fal-ai/flux-kontext/dev",
        {"Authorization": "Bearer x"},
        {"prompt": "x", "image_url": URI},
        404,
    ),
}


@pytest.mark.parametrize(("provider", "method", "path", "headers", "body", "status"), REFUSED.values(), ids=REFUSED)
def test_the_stand_in_takes_only_what_the_provider_takes(
    service, certificate, provider, method, path, headers, body, status
):
    host = {"Black Forest Labs": "api.bfl.ai", "fal": "queue.fal.run"}.get(provider, PROVIDERS[provider].hosts[0])
    url = f"https://{host}{path}" if path != "delivery" else "https://replicate.delivery/x.png"

    async def go():
        session = open_session(Loopback(service.port), certificate.trust)
        async with session, session.request(method, url, headers=headers, json=body) as answer:
            return answer.status

    assert asyncio.run(go()) == status


@pytest.mark.parametrize("provider", PROVIDERS.values(), ids=PROVIDERS)
def test_a_docstring_says_where_facts_come_from_and_what_is_not_verified(provider):
    text = sys.modules[type(provider).__module__].__doc__
    assert "Sources." in text
    assert "Not verified" in text


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


BAD_RATIOS = ["", "4", "4:", "4:0", "0:4", "-4:-3", "a:b", "1:2:3", "7.1:3", "3:7.1", "nan:1", "1_0:1", "٣:٢", "1/2:1"]
HUGE = ["1e999999999:1", "1e-99999999:1", "1e400:1", "1:1e999999999", "9" * 10**7 + ":1", "0." + "1" * 10**7 + ":1"]


@pytest.mark.parametrize("text", [*BAD_RATIOS, *HUGE], ids=lambda text: text[:16])
def test_bad_ratios(text):
    """None of them takes long: Fraction's computation of "1e999999999" would block all of ComfyUI for hours."""
    with pytest.raises(ValueError, match="ratio is") as caught:
        ratios.chosen(text)
    assert len(str(caught.value)) < 200


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
    "change", [{"seed": 99}, {"instruction": "y"}, {"pictures": 2}, {"options": {"region": "EU"}}], ids=str
)
def test_another_request_has_another_hash(change):
    same = job(seed=98, instruction="x").request_hash("a")
    assert same == job(seed=98, instruction="x").request_hash("a")
    assert same != job(**{"seed": 98, "instruction": "x"} | change).request_hash("a")
    assert same != job(seed=98, instruction="x").request_hash("b")


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


def test_a_mark_of_byte_order_before_the_keys_is_read_over(tmp_path):
    """Editors on Windows add a BOM."""
    (tmp_path / "keys.json").write_text(json.dumps({"A_KEY": KEY}), encoding="utf-8-sig")
    assert find_key("A_KEY", {}, tmp_path / "keys.json", ["A_KEY"]) == KEY


UNUSABLE = {
    "of another owner": lambda path, patch: patch.setattr(Path, "chmod", denied),
    "unreadable": lambda path, patch: patch.setattr(Path, "read_text", denied),
    "a folder": lambda path, patch: (path.unlink(), path.mkdir(), path.chmod(0o755)),
}


def denied(*_, **__):
    raise PermissionError(1, "Operation not permitted")


@pytest.mark.skipif(os.name == "nt", reason="no file modes")
@pytest.mark.parametrize("spoil", UNUSABLE.values(), ids=UNUSABLE)
def test_a_key_file_that_cannot_be_used_is_told(tmp_path, monkeypatch, spoil):
    path = tmp_path / "keys.json"
    path.write_text(json.dumps({"A_KEY": KEY}))
    path.chmod(0o644)
    spoil(path, monkeypatch)
    with pytest.raises(ValueError, match="belongs to the user who runs ComfyUI") as caught:
        find_key("A_KEY", {}, path, ["A_KEY"])
    assert str(path) in str(caught.value)


def test_a_folder_in_which_no_file_for_keys_can_be_made_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="the file for keys cannot be used"):
        find_key("A_KEY", {}, tmp_path / "file" / "keys.json", ["A_KEY"])


BAD_FILES = {
    "not JSON": f"A_KEY={KEY}",
    "deep": "[" * 99_999,
    "a list": f'["{KEY}"]',
    "a number": '{"A_KEY": 3}',
    "no key": '{"A_KEY": ""}',
}


@pytest.mark.parametrize("content", BAD_FILES.values(), ids=BAD_FILES)
def test_a_bad_key_file_is_told_without_its_content(tmp_path, content):
    path = tmp_path / "keys.json"
    path.write_text(content)
    with pytest.raises(ValueError, match="keys.json") as caught:
        find_key("A_KEY", {}, path, ["A_KEY"])
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("key", ["a b", "a\r\nX: y", "schlüssel", '"quoted"', "'quoted'", "***"])
def test_a_key_that_is_none_is_told_without_showing_it(tmp_path, key):
    with pytest.raises(ValueError, match="characters that no key has") as caught:
        find_key("A_KEY", {"A_KEY": key}, tmp_path / "keys.json", ["A_KEY"])
    assert key not in str(caught.value)


def test_a_batch_stops_sending_when_the_rest_is_hopeless(service, edit):
    service.faults["submit"] = lambda: "402"

    async def work(client):
        batch = Batch(client, [job() for _ in range(50)], "Black Forest Labs", asyncio.Semaphore(4))
        await batch.run()
        return batch.done

    done = edit(work=work)
    assert {outcome.case for outcome in done} == {errors.NO_CREDITS}
    assert len(service.of("POST")) <= 4


def test_long_words_of_a_provider_are_cut():
    """Some return the request with the error, including the pictures."""
    echoed = json.dumps({"detail": [{"loc": ["body", "input_image"], "msg": "bad: " + 5000 * "A"}]}).encode()
    error = PROVIDERS["Black Forest Labs"].failure(parse(422, {}, echoed, KEY), submitting=True)
    assert "body.input_image: bad" in str(error)
    assert len(str(error)) < 500


def by_model(values):
    """The table cell: the value that all models share, or each model's own value."""
    different = dict.fromkeys(values.values())
    return next(iter(different)) if len(different) == 1 else ", ".join(f"[{name}] {v}" for name, v in values.items())


def test_the_help_page_s_table_says_what_the_code_does():
    page = (ROOT / "web" / "docs" / "KontextHosted.md").read_text(encoding="utf-8")
    rows = {row.split(" | ")[0].strip("| "): row for row in page.split("\n") if row.startswith("| ")}
    assert f"in {PRICES_OF}" in page
    for title, provider in PROVIDERS.items():
        cells = [cell.strip() for cell in rows[title].strip("|").split("|")]
        prices = [provider.models[model].price if model in provider.models else "" for model in ("pro", "max", "dev")]
        expected = ["–" if price is None else price and f"${price:.4f}".rstrip("0") for price in prices]
        models = provider.models.items()
        assert cells[1:5] == [f"`{provider.key_name}`", *expected]
        pictures = {name: "{:g} to {:g}".format(*model.references) for name, model in models}
        ratios_of = {name: "any" if model.ratios is None else str(len(model.ratios)) for name, model in models}
        assert cells[5] == by_model({name: "1" if text == "1 to 1" else text for name, text in pictures.items()})
        assert cells[6] == by_model(ratios_of)
        assert cells[7] == by_model({name: str(model.active) for name, model in models})
