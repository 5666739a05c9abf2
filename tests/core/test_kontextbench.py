"""KontextBench's layout, and the measurements of an edit."""

import json
import random

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFont

from batch import Failure, kontextbench, metrics
from benchmarks.kontextbench import CATEGORY, write_folder
from training.photographs import texture

LOCAL = "Instruction Editing - Local"


@pytest.fixture(scope="module")
def picture():
    """A textured picture, (3, 192, 256)."""
    return torch.from_numpy(texture(random.Random(1), 256, 192)).permute(2, 0, 1).float().contiguous()


def with_square(picture, colour=(1.0, 0.0, 0.0)):
    edited = picture.clone()
    edited[:, 60:120, 80:140] = torch.tensor(colour)[:, None, None]
    return edited


def test_the_synthetic_folder_has_all_five_categories_and_every_answer(tmp_path):
    write_folder(tmp_path, 2)
    rows, answers = kontextbench.read_benchmark(tmp_path, {}, small=True)
    assert len(rows) == 2 * len(CATEGORY)
    assert {row.labels["category"] for row in rows} == set(kontextbench.CATEGORIES)
    for row in rows:
        answer = answers[row.number]
        right, *wrong = (metrics.load(answer["folder"] / name) for name in (answer["right"], *answer["wrong"]))
        assert wrong
        assert metrics.correct(right, right, wrong)
        assert not metrics.correct(wrong[0], right, wrong)
        assert "KontextReference.size" not in row.values


def test_large_pictures_are_given_to_the_embedded_model_as_small_copies(tmp_path):
    for name, side in (("small", 128), ("large", 1024)):
        Image.new("RGB", (side, 64)).save(tmp_path / f"{name}.png")
    lines = [
        {"file_name": f"{name}.png", "key": name, "category": LOCAL, "instruction": "x"} for name in ("small", "large")
    ]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    for small, expected in ((True, [False, True]), (False, [False, False])):
        rows, _ = kontextbench.read_benchmark(tmp_path, {"KontextSampler.steps": 4}, small)
        assert ["KontextReference.size" in row.values for row in rows] == expected
        assert rows[0].values["KontextSampler.steps"] == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"category": "Local"}, "row 1 .*category is 'Local'; one of Instruction Editing - Local"),
        ({"file_name": "gone.png"}, "row 1 .*gone.png"),
        ({"instruction": None}, "there is no 'instruction'"),
    ],
    ids=["category", "picture", "instruction"],
)
def test_a_faulty_line_is_named(tmp_path, change, message):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    line = {"file_name": "a.png", "key": "a", "category": LOCAL, "instruction": "x"} | change
    (tmp_path / "metadata.jsonl").write_text(json.dumps({k: v for k, v in line.items() if v is not None}))
    with pytest.raises(Failure, match=message):
        kontextbench.read_benchmark(tmp_path, {}, small=True)


def test_a_folder_without_the_data_says_how_to_get_it(tmp_path):
    with pytest.raises(Failure, match="hf download black-forest-labs/kontext-bench"):
        kontextbench.read_benchmark(tmp_path, {}, small=True)


def test_an_unchanged_picture_is_kept(picture):
    values = metrics.kept(picture, picture.clone())
    assert values["size_kept"] and values["framing_kept"]
    assert (values["changed"], values["drift"], values["outside_db"]) == (0, 0, 100)


def test_a_change_is_found_and_what_is_outside_it_is_compared(picture):
    values = metrics.kept(picture, with_square(picture))
    assert values["changed"] == pytest.approx(60 * 60 / (192 * 256), rel=0.15)
    assert values["outside_db"] == 100
    drifted = metrics.kept(picture, (with_square(picture) * 0.97 + 0.01).clamp(0, 1))
    assert 0.3 < drifted["drift"] < 3
    assert 30 < drifted["outside_db"] < 50


def test_another_size_or_framing_is_seen(picture):
    smaller = metrics.sized(picture, torch.empty(3, 96, 128))
    assert not metrics.kept(picture, smaller)["size_kept"]
    moved = torch.roll(picture, (0, 6), (1, 2))
    assert metrics.kept(picture, moved)["framing_kept"] is False


def test_a_movement_behind_a_new_background_is_seen():
    """Compared as a whole the pictures do not fit, so the part that stayed is looked at alone."""
    before, after = new_background()
    values = metrics.kept(before, after)
    assert values["framing_kept"] is False
    assert values["changed"] == pytest.approx(0.6, abs=0.05)


def new_background():
    """A plain thing with strokes, and the same before a busy background, moved by four pixels: (3, 256, 256) each."""
    strokes, thing = torch.zeros(256, 256), torch.zeros(256, 256, dtype=torch.bool)
    strokes[60:200:25, 60:150] = strokes[100:190, 60:200:35] = 1
    thing[48:210, 48:210] = True
    before = (0.55 - 0.3 * strokes).expand(3, -1, -1)
    busy = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(1)).repeat_interleave(4, 1)
    return before, torch.where(thing, before, busy.repeat_interleave(4, 2)).roll(4, 2)


def test_where_all_has_changed_nothing_is_said_of_the_rest(picture):
    values = metrics.kept(picture, 1 - picture)
    assert (values["changed"], values["drift"], values["outside_db"]) == (1, None, None)


def test_differences_do_not_wrap_around():
    """Equal uint8 pictures do, and no picture falls below 27.9 dB then."""
    assert metrics.psnr(torch.zeros(3, 8, 8), torch.full((3, 8, 8), 255 / 255)) == 0
    assert metrics.psnr(torch.zeros(3, 8, 8), torch.full((3, 8, 8), 0.1)) == pytest.approx(20)


@pytest.mark.parametrize(
    ("instruction", "wanted"),
    [
        ('Replace "OPEN" with "CLOSED"', "CLOSED"),
        ("turn 'b' into 'k'", "k"),
        ("Replace \u201cA\u201d by \u201cB C\u201d", "B C"),
        ("make the dog's coat red", None),
        ('The sign says "OPEN"', "OPEN"),
        ('Change the colour of "SALE" to red', "SALE"),
        # words that shall go
        ('Remove the text "SALE"', None),
        ('remove the sign that says "SALE"', None),
        ('Remove the board with "SALE" on it', None),
        ('Delete the words "A" and "B"', None),
        ("erase \u201cA\u201d", None),
        ('Take the word "A" away', None),
        ('Take away "A"', None),
        ('The text "A" should be removed', None),
        ('Replace "A" with a heart', None),
        # others in their place, or beside them
        ('Put "B" in place of "A"', "B"),
        ('Use "B" instead of "A"', "B"),
        ('Write "B", replacing "A"', "B"),
        ('Instead of "A" it should say "B"', "B"),
        ('Remove "A" and write "B"', "B"),
        ('Erase "A", adding "B" in its place', "B"),
        ('Remove the "S" so that it reads "ALES"', "ALES"),
        ('Replace "A" and "C" with "B"', "B"),
        ('Replace the sign that says "A" with one that says "B"', "B"),
        ('Write "B" and remove "A"', "B"),
        ('Make the sign say "OPEN" and remove the dog', "OPEN"),
        ('Write "REMOVE"', "REMOVE"),
    ],
)
def test_the_wanted_words_are_the_last_in_quotes_that_shall_be_there(instruction, wanted):
    assert metrics.wanted_text(instruction) == wanted


@pytest.mark.parametrize("quote", ["\u201c", "\u2018", '"', "'"])
def test_a_long_run_of_opening_quotes_is_read_in_one_pass(quote):
    """Eight minutes when each was read to the end of the text."""
    assert metrics.wanted_text(200_000 * quote + " 'OPEN'") in ("OPEN", None)


@pytest.mark.parametrize(
    ("wanted", "read", "found"),
    [("CLOSED", "we are closed!", 1), ("CLOSED", "CL0SED", 5 / 6), ("abc", "", 0), ("Go", "x", 0), ("a b", "xabx", 1)],
)
def test_text_found(wanted, read, found):
    assert metrics.text_found(wanted, read) == pytest.approx(found)


def test_ssim_is_one_for_equal_pictures_and_falls_with_noise(picture):
    ssim, why = metrics.structural_similarity()
    assert why == ""
    noise = torch.randn(picture.shape, generator=torch.manual_seed(1))
    values = [ssim(picture, (picture + spread * noise).clamp(0, 1)) for spread in (0, 0.02, 0.1)]
    assert values[0] == pytest.approx(1)
    assert values[0] > values[1] > values[2] > 0


def test_lpips_reads_the_backbone_that_is_on_the_disk(tmp_path, monkeypatch, picture):
    pytest.importorskip("lpips", reason="an optional extra: pip install lpips")
    from torchvision.models import alexnet

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    backbone = tmp_path / "hub" / "checkpoints" / metrics.ALEXNET
    assert metrics.perceptual_distance()[1] == f"LPIPS: {backbone} is not there"
    backbone.parent.mkdir(parents=True)
    weights = alexnet().state_dict()
    small = {n: w if n.startswith("features") else torch.zeros(1).expand(w.shape) for n, w in weights.items()}
    torch.save(small, backbone)
    distance, why = metrics.perceptual_distance()
    assert why == ""
    assert distance(picture, picture) == 0
    assert 0 < distance(picture, with_square(picture)) < distance(picture, 1 - picture)


def test_words_in_a_picture_are_read():
    pytest.importorskip("rapidocr_onnxruntime", reason="an optional extra: pip install rapidocr-onnxruntime")
    sign = Image.new("RGB", (320, 120), "white")
    ImageDraw.Draw(sign).text((20, 20), "CLOSED", fill="black", font=ImageFont.load_default(64))
    read, _ = metrics.reader_of_text()
    pixels = torch.from_numpy(np.asarray(sign, np.float32) / 255).permute(2, 0, 1)
    assert metrics.text_found("CLOSED", read(pixels)) == 1


def test_what_cannot_be_measured_is_named():
    lines = [line | {"labels": {"category": name}} for name in kontextbench.CATEGORIES for line in lines_of("x")]
    tools, left_out = kontextbench._tools(lines, True, (None, "identity: --faces names no face model"))
    assert "identity: --faces names no face model" in left_out
    named = {"text": "text read back", "identity": "identity", "ssim": "SSIM", "lpips": "LPIPS"}
    missing = {name for name, words in named.items() if any(why.startswith(f"{words}: ") for why in left_out)}
    assert missing == named.keys() - tools.keys()


def test_identity_is_measured_of_characters_alone(tmp_path):
    Image.new("RGB", (8, 8), "red").save(tmp_path / "a.png")
    line = {"source": str(tmp_path / "a.png"), "instruction": "x", "seconds": 1.0}
    tools = {"identity": lambda before, after: float(before.shape == after.shape) / 2}
    for category in kontextbench.CATEGORIES:
        row = line | {"labels": {"category": category}}
        values = kontextbench._values(tmp_path / "a.png", row, {}, None, tools)
        assert values.get("identity") == (0.5 if category == kontextbench.CHARACTER else None)


def test_intervals_hold_their_mean_and_shrink():
    values = [float(value) for value in np.random.default_rng(0).normal(5, 1, 400)]
    few, many = (metrics.interval(values[:count], share=False) for count in (25, 400))
    assert few[1] < few[0] < few[2]
    assert many[2] - many[1] < few[2] - few[1]
    assert many[2] - many[1] == pytest.approx(2 * 1.96 / 20, rel=0.2)
    assert metrics.interval([1.0] * 10, share=True) == pytest.approx((1, 0.722, 1), abs=1e-3)
    with pytest.raises(ValueError, match="at least one"):
        metrics.interval([], share=False)


def lines_of(*names):
    labels = [{"category": LOCAL, "key": name} for name in names]
    return [{"output": each["key"], "key": "work", "status": "done", "labels": each} for each in labels]


def test_rows_of_equal_work_have_their_own_numbers(tmp_path):
    """They have the same key, and another file."""
    for name in ("a", "b"):
        Image.new("RGB", (32, 32), "red").save(tmp_path / f"{name}.png")
    lines = [
        lines_of("key")[0] | {"row": row, "output": f"{name}.png", "source": str(tmp_path / "a.png")}
        | {"instruction": "x", "seconds": float(row), "model_calls": 28}
        for row, name in enumerate(("a", "b"), 1)
    ]  # fmt: skip
    values, _ = kontextbench.measure(tmp_path, lines, {1: {}, 2: {}}, None, (None, ""))
    found = kontextbench.summarise(lines, values)["all"]["seconds"]
    assert (found["rows"], found["mean"]) == (2, 1.5)


def test_only_what_was_computed_is_shown():
    values = {"a": {"seconds": 1.0, "correct": True, "drift": None}, "b": {"seconds": None, "correct": False}}
    summary = kontextbench.summarise(lines_of("a", "b", "failed"), values)
    assert list(summary) == [LOCAL, "all"]
    table = kontextbench.table(summary)
    assert table["head"] == ["", "rows", "seconds", "correct (strict rule)"]
    assert table["body"][0][:2] == [LOCAL, "2"]
    assert table["body"][0][2] == "1.0 (1 of them)"


def test_the_ten_worst_come_from_the_bad_side():
    names = [f"{number:02}" for number in range(30)]
    values = {name: {"drift": float(name), "outside_db": float(name), "size_kept": True} for name in names}
    found = {ten["title"]: ten["rows"][0] for ten in kontextbench.extremes(lines_of(*names), values)}
    assert found["The worst by dE2000 outside"][0] == 29
    assert found["The worst by dB outside"][0] == 0
    assert found["The best by dB outside"] == [29, "dB outside: 29.0"]
    assert len(found) == 4


@pytest.mark.parametrize(
    ("model", "graph"),
    [
        (None, "A first edit"),
        ("files", "Real model with your files"),
        ("hosted:fal", "Hosted edit with pro or max"),
        ("mine", None),
    ],
)
def test_models_are_graphs(model, graph):
    options = type("Options", (), {"graph": None, "model": model})
    if graph is None:
        with pytest.raises(Failure, match="it is embedded, files, or hosted:PROVIDER/MODEL"):
            kontextbench.chosen_graph(options)
    else:
        assert kontextbench.chosen_graph(options)[0] == graph
