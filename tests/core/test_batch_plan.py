"""The places of a row's values in a graph, the name of its file, and the inputs of its key."""

import json
from dataclasses import replace

import pytest
from PIL import Image

from batch import ROOT, Failure, graphs
from batch.binding import Binding, title_of
from batch.manifest import Row
from batch.plan import output_name, plan, read_graph, with_keys

TEMPLATES = sorted(path.stem for path in (ROOT / "workflows").glob("*.json"))
UNBOUND = {"Keep the rest with any editor", "What changed, as a mask", "Instruction from fields"}


@pytest.fixture
def pictures(tmp_path):
    """a.png and b.png, of different content, and clear.png, which has transparency; the outputs go to out/."""
    for name, colour in {"a": "red", "b": "blue"}.items():
        Image.new("RGB", (16, 16), colour).save(tmp_path / f"{name}.png")
    Image.new("RGBA", (16, 16)).save(tmp_path / "clear.png")
    return tmp_path


def binding(name):
    return Binding.of(read_graph(name)[0])


def bound(name, **values):
    """Prompt and faults of a row with these cells."""
    columns = {key.replace("__", "."): value for key, value in values.items()}
    return binding(name).bind(Row(1, "row 1", columns, ROOT), columns.get("seed"))


def only(prompt, class_type):
    return prompt[graphs.find(prompt, class_type)]["inputs"]


def tasks(folder, name="A first edit", rows=({"picture": "a.png"},), seeds=1, template="{name}_{seed}", out=None):
    wanted = [
        Row(i, f"row {i}", {key.replace("__", "."): v for key, v in row.items()}, folder)
        for i, row in enumerate(rows, 1)
    ]
    places = name if isinstance(name, Binding) else binding(name)
    out = out or folder / "out"
    return plan(places, wanted, seeds=seeds, name=template, suffix=".png", out=out, what="edits")


@pytest.mark.parametrize("name", sorted(set(TEMPLATES) - UNBOUND))
def test_every_template_takes_picture_instruction_and_seed(name):
    places = binding(name)
    assert places.seeds
    assert len(places.texts["instruction"]) == 1
    references = {"Text to image": 0, "Two references": 2, "Reference control": 2}.get(name, 1)
    assert list(places.pictures) == ["picture", "reference_2"][:references]


def test_values_reach_their_nodes():
    (row, faults) = bound("Negative prompt", picture="a.png", instruction="x", negative="y", seed=9)
    assert not faults
    negative = row.prompt[graphs.find(row.prompt, "KontextNegative")]["inputs"]
    texts = {row.prompt[node]["_meta"]["title"]: row.prompt[node]["inputs"]["text"]
             for node in row.prompt if row.prompt[node]["class_type"] == "CLIPTextEncode"}  # fmt: skip
    assert texts == {"Instruction": "x", "What to avoid": "y"}
    assert graphs.is_link(negative["negative"])
    assert only(row.prompt, "KontextSampler")["seed"] == 9
    assert only(row.prompt, "LoadImage") == {"image": "a.png"}
    assert not {"SaveImage", "PreviewImage", "KontextExample"} & {n["class_type"] for n in row.prompt.values()}


def test_references_come_in_the_graphs_order():
    places = binding("Two references")
    assert [title_of(places.prompt, node) for node in places.pictures.values()] == ["The object", "The scene"]


def test_a_mask_replaces_that_of_the_picture():
    row, faults = bound("Edit inside a mask", picture="a.png", mask="m.png")
    assert not faults
    assert only(row.prompt, "LoadImageMask") == {"image": "m.png", "channel": "red"}
    assert row.prompt[only(row.prompt, "SetLatentNoiseMask")["mask"][0]]["class_type"] == "LoadImageMask"


@pytest.mark.parametrize(
    ("column", "value", "expected"),
    [
        ("Kontext Sampler__steps", "12", 12),
        ("KontextSampler__steps", 12, 12),
        ("kontext sampler__steps", 12, 12),
        ("9__steps", 12, 12),
        ("KontextSampler__guidance", "3", 3.0),
        ("KontextSampler__solver", "heun", "heun"),
    ],
)
def test_any_input_can_be_set_by_title_type_or_id(column, value, expected):
    row, faults = bound("A first edit", **{column: value})
    assert not faults
    found = only(row.prompt, "KontextSampler")[column.split("__")[1]]
    assert found == expected
    assert type(found) is type(expected)


def test_a_choice_may_bring_inputs_that_the_graph_lacks():
    row, faults = bound("A first edit", KontextReference__size="keep ratio", KontextReference__size__megapixels="0.016")
    assert not faults
    assert only(row.prompt, "KontextReference")["size.megapixels"] == 0.016


@pytest.mark.parametrize(
    ("name", "column", "value", "message"),
    [
        ("Text to image", "picture", "a.png", "picture: the graph has no place for it"),
        (
            "A first edit",
            "reference_2",
            "a.png",
            r"reference_2: the graph has no place for it, it has picture \(Example",
        ),
        ("A first edit", "mask", "m.png", "mask: the graph reads no mask"),
        ("A first edit", "negative", "x", "negative: the graph has no negative prompt"),
        ("A first edit", "Nothing__steps", 3, "no node has this title; the graph has CLIPTextEncode|Example picture"),
        ("A first edit", "KontextSampler__step", 3, "KontextSampler has no input 'step', only cfg"),
        ("A first edit", "KontextSampler__model", "x", "it is connected to KontextLoader"),
        ("A first edit", "KontextSampler__steps", "many", "it is 'many'; a number is needed, as 28"),
        ("A first edit", "KontextSampler__solver", 3, "it is 3; text is needed, as 'euler'"),
        ("Two references", "KontextReference__fit", "crop", "2 nodes have this title"),
    ],
)
def test_what_the_graph_lacks_is_said(name, column, value, message):
    _, faults = bound(name, **{column: value})
    assert len(faults) == 1
    with pytest.raises(ValueError, match=message):
        raise ValueError(faults[0])


@pytest.mark.parametrize(
    ("kinds", "message"),
    [
        ((), "has no output"),
        (("SaveImage", "SaveImage"), "has 2 nodes SaveImage"),
        (("PreviewImage",) * 2, "2 nodes Prev"),
    ],
    ids=["none", "two", "two previews"],
)
def test_a_graph_needs_one_result(kinds, message):
    prompt = {"x": graphs.node("KontextExample", picture="scene")}
    prompt |= {str(i): graphs.node(kind, images=["x", 0]) for i, kind in enumerate(kinds)}
    with pytest.raises(ValueError, match=message):
        Binding.of(prompt)


def test_several_unordered_pictures_are_not_guessed(pictures):
    prompt = {
        "a": graphs.node("LoadImage", image="a") | {"_meta": {"title": "Left"}},
        "b": graphs.node("LoadImage", image="b") | {"_meta": {"title": "Right"}},
        "join": graphs.node("ImageStitch", first=["a", 0], second=["b", 0]),
        "save": graphs.node("SaveImage", images=["join", 0]),
    }
    places = Binding.of(prompt)
    _, faults = places.bind(Row(1, "row 1", {"picture": "a.png"}, ROOT), None)
    assert "Use columns such as 'Left.image', 'Right.image'" in faults[0]
    row, faults = places.bind(Row(1, "row 1", {"Left.image": "a.png"}, ROOT), None)
    assert (faults, row.files) == ([], {("a", "image"): "Left.image"})


@pytest.mark.parametrize(
    ("cells", "template", "expected"),
    [
        ({"picture": "a.png"}, "{name}_{seed}", "a_1"),
        ({"picture": "a.png", "seed": "5"}, "{name}_{seed}", "a_5"),
        ({"name": "cats/tom", "picture": "a.png"}, "{name}_{seed}", "cats/tom_1"),
        ({"instruction": "red?", "label.kind": "x/y"}, "{kind}/{row}: {instruction}", "x_y/1_ red_"),
        ({}, "{name}", "row_1"),
    ],
)
def test_names_of_outputs(cells, template, expected):
    row = Row(1, "row 1", cells, ROOT)
    assert output_name(row, int(cells.get("seed", 1)), template) in (expected, expected.removesuffix("_"))


@pytest.mark.parametrize(
    ("cells", "template"), [({"name": "../a"}, "{name}"), ({"name": "/a"}, "{name}"), ({}, "{nothing}")]
)
def test_names_that_lead_elsewhere_are_refused(cells, template):
    with pytest.raises(ValueError, match="name"):
        output_name(Row(1, "row 1", cells, ROOT), 1, template)


def test_two_rows_may_not_write_one_file(pictures):
    with pytest.raises(Failure, match=r"row 2: its output a_1.png is that of row 1"):
        tasks(pictures, rows=[{"picture": "a.png"}, {"picture": "a.png", "instruction": "x"}])
    with pytest.raises(Failure, match="row 2: its output A_1.png is that of row 1"):
        tasks(pictures, rows=[{"picture": "a.png"}, {"picture": "b.png", "name": "A"}])


OVERWRITING = {  # the row's name, in a folder with a.png, b.png and a link to elsewhere.png
    "its own picture": "a",
    "another row's": "b",
    "on a file system that ignores case": "B",
    "what a link leads to": "elsewhere",
}


@pytest.mark.parametrize("name", OVERWRITING.values(), ids=OVERWRITING)
def test_no_output_replaces_a_picture_that_is_read(pictures, name):
    Image.new("RGB", (16, 16)).save(pictures / "elsewhere.png")
    (pictures / "link.png").symlink_to(pictures / "elsewhere.png")
    rows = [{"picture": f"{each}.png", "name": f"{each}_edit"} for each in ("b", "link")]
    rows.insert(0, {"picture": "a.png", "name": name})
    with pytest.raises(Failure, match=r"row 1: its output would overwrite .*which row \d reads; give another --out"):
        tasks(pictures, rows=rows, template="{name}", out=pictures)
    assert len(tasks(pictures, rows=rows, template="{name}")) == 3
    assert len(tasks(pictures, rows=rows, template="{name}_{seed}", out=pictures)) == 3


def test_no_output_replaces_a_mask_that_is_read(pictures):
    rows = [{"picture": "a.png", "mask": "b.png", "name": "b"}]
    with pytest.raises(Failure, match="row 1: its output would overwrite .*b.png, which row 1 reads"):
        tasks(pictures, "Edit inside a mask", rows, template="{name}", out=pictures / "sub" / "..")


def test_a_row_of_several_seeds_counts_from_its_own(pictures):
    found = tasks(pictures, rows=[{"picture": "a.png", "seed": "7"}, {"picture": "b.png"}], seeds=2)
    assert [task.output for task in found] == ["a_7.png", "a_8.png", "b_1.png", "b_2.png"]


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "is not a picture"), (b"no picture", "is not a picture")],
    ids=["empty", "text"],
)
def test_a_broken_picture_is_an_error_before_the_start(pictures, content, message):
    (pictures / "broken.png").write_bytes(content)
    with pytest.raises(Failure, match=f"row 2: picture: .*broken.png {message}"):
        tasks(pictures, rows=[{"picture": "a.png"}, {"picture": "broken.png"}])


def test_a_graph_that_reads_the_pictures_own_mask_needs_one(pictures):
    with pytest.raises(Failure, match="has no transparency; give a column mask"):
        tasks(pictures, "Edit inside a mask")
    assert tasks(pictures, "Edit inside a mask", [{"picture": "clear.png"}])
    assert tasks(pictures, "Edit inside a mask", [{"picture": "a.png", "mask": "b.png"}])


def mask_graph(channel, **more):
    """An edit that reads its mask from a LoadImageMask."""
    prompt, _ = read_graph("Edit inside a mask")
    (reader,) = (node for node, content in prompt.items() if content["class_type"] == "SetLatentNoiseMask")
    prompt[reader]["inputs"]["mask"] = ["mask", 0]
    prompt["mask"] = graphs.node("LoadImageMask", image="m.png", channel=channel) | {"_meta": {"title": "The mask"}}
    return Binding.of(prompt | more)


@pytest.mark.parametrize("column", ["mask", "The mask.image"])
def test_a_mask_without_transparency_is_not_read_as_transparency(pictures, column):
    """It would be empty."""
    alpha, rows = mask_graph("alpha"), [{"picture": "a.png", column: "b.png"}]
    with pytest.raises(
        Failure, match=f"row 1: {column}: .*b.png has no transp.* channel of The mask is alpha.* to red"
    ):
        tasks(pictures, alpha, rows)
    assert tasks(pictures, alpha, [rows[0] | {"The mask.channel": "red"}])
    assert tasks(pictures, alpha, [rows[0] | {column: "clear.png"}])
    assert tasks(pictures, mask_graph("red"), rows)


@pytest.mark.parametrize("column", ["mask", "The mask.image"])
def test_a_broken_mask_is_an_error_before_the_start(pictures, column):
    (pictures / "broken.png").write_bytes(b"no picture")
    with pytest.raises(Failure, match=f"row 1: {column}: .*broken.png is not a picture"):
        tasks(pictures, mask_graph("red"), [{"picture": "a.png", column: "broken.png"}])


def test_rows_that_load_the_same_are_done_together(pictures):
    rows = [{"picture": "a.png", "name": str(i), "KontextLora__lora": f"{i % 2}.safetensors"} for i in range(6)]
    order = [task.models for task in tasks(pictures, "Real model with a LoRA", rows)]
    assert len({*order}) == 2
    assert order == sorted(order)


def test_a_key_depends_on_all_that_decides_the_picture(pictures):
    def key(row=None, graph="A first edit", models=None, settings="png 1"):
        (task,) = tasks(pictures, graph, [row or {"picture": "a.png"}])
        (task,) = with_keys([task], {task.variant: models or {}}, settings)
        return task.key

    Image.new("RGB", (16, 16), "red").save(pictures / "same.png")
    first = key()
    assert key({"picture": "same.png"}) == first == key({"picture": "a.png", "label.kind": "x", "name": "other"})
    others = [
        key({"picture": "b.png"}),
        key({"picture": "a.png", "seed": 2}),
        key({"picture": "a.png", "instruction": "x"}),
        key({"picture": "a.png", "KontextSampler__steps": 4}),
        key(graph="Edit several times faster"),
        key(models={"x.safetensors": "1"}),
        key(models={"x.safetensors": "2"}),
        key(settings="webp 1"),
    ]
    assert len({first, *others}) == 1 + len(others)


def test_the_embedded_workflow_shows_the_rows_values():
    prompt, workflow = read_graph("A first edit")
    row, _ = Binding.of(prompt).bind(Row(1, "row 1", {"picture": "a.png", "instruction": "x", "seed": 5}, ROOT), 5)
    shown = graphs.to_prompt(graphs.with_prompt_values(workflow, row.prompt))
    assert {node: shown[node] for node in row.prompt} == row.prompt
    assert json.dumps(workflow) == json.dumps(read_graph("A first edit")[1])


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "Expecting"), ("[1]", "is no workflow"), ('{"a": 1}', "is no workflow"), ("{}", "is no workflow")],
)
def test_what_is_no_graph_is_refused(tmp_path, content, message):
    (tmp_path / "graph.json").write_text(content)
    with pytest.raises(Failure, match=message):
        read_graph(str(tmp_path / "graph.json"))
    with pytest.raises(Failure, match="or a template: A first edit"):
        read_graph("nothing")


def test_an_exported_graph_gives_the_same_tasks(tmp_path, pictures):
    (tmp_path / "api.json").write_text(json.dumps(read_graph("A first edit")[0]))
    saved, exported = (tasks(pictures, name) for name in ("A first edit", str(tmp_path / "api.json")))
    assert [replace(task, key="") for task in saved] == exported
