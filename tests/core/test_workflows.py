"""The shipped graphs as files: complete, readable, each with a picture for the template browser."""

import itertools
import json

import numpy as np
import pytest
from PIL import Image

from tools import ROOT

SCHEMAS = json.loads((ROOT / "tests" / "host" / "schemas.json").read_text(encoding="utf-8"))
WORKFLOWS = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in (ROOT / "workflows").glob("*.json")}
TITLE_HEIGHT = 30  # px above a node's position
LETTER = 9  # px, the mean width of one in a group's title
DUTIES = ("FLUX.1 [dev] Non-Commercial License", "filter or review", "AI where the law requires it")
NO_APPS = {  # although they ask for no more: App mode shows no report
    "Hosted edit with pro or max": "the price is in the report",
    "Measure the presets": "the figures are in the report",
}

each_workflow = pytest.mark.parametrize("name", sorted(WORKFLOWS))


def box(node):
    """left, top, right, bottom with the title bar."""
    (x, y), (width, height) = node["pos"], node["size"]
    return x, y - TITLE_HEIGHT, x + width, y + height


def overlap(a, b):
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def test_every_node_is_shown_by_a_workflow():
    shown = {node["type"] for graph in WORKFLOWS.values() for node in graph["nodes"]}
    assert not SCHEMAS.keys() - shown


@each_workflow
def test_every_input_of_our_nodes_is_listed(name):
    """The frontend adds those that are missing, and the links of a blueprint then end at the wrong ones."""
    for node in WORKFLOWS[name]["nodes"]:
        inputs = SCHEMAS.get(node["type"], {}).get("inputs", ())
        always = {row["name"] for row in inputs if "." not in row["name"] and row["type"] != "COMFY_AUTOGROW_V3"}
        assert not always - {entry["name"] for entry in node["inputs"]}


@each_workflow
def test_links_agree_at_both_ends(name):
    nodes = {node["id"]: node for node in WORKFLOWS[name]["nodes"]}
    for link, origin, output, target, slot, kind in WORKFLOWS[name]["links"]:
        start, end = nodes[origin]["outputs"][output], nodes[target]["inputs"][slot]
        assert link in start["links"]
        assert end["link"] == link
        assert start["type"] == kind == end["type"]


@each_workflow
def test_nodes_do_not_overlap_and_links_run_to_the_right_or_down(name):
    nodes = {node["id"]: node for node in WORKFLOWS[name]["nodes"]}
    for a, b in itertools.combinations(nodes.values(), 2):
        assert not overlap(box(a), box(b)), (a["type"], b["type"])
    for _, origin, _, target, _, _ in WORKFLOWS[name]["links"]:
        (x, y), (to_x, to_y) = nodes[origin]["pos"], nodes[target]["pos"]
        assert to_x > x or (to_x == x and to_y > y)


@each_workflow
def test_nothing_is_below_the_loader_which_grows(name):
    """Its source "files" brings inputs and a longer report. If this fails: tools.arrange."""
    boxes = {node["id"]: (node["type"], box(node)) for node in WORKFLOWS[name]["nodes"]}
    for kind, (left, top, right, _) in boxes.values():
        if kind == "KontextLoader":
            below = (left, top + 1, right, float("inf"))
            assert [other for other, place in boxes.values() if overlap(below, place)] == [kind]


@each_workflow
def test_the_titles_of_groups_fit(name):
    for group in WORKFLOWS[name]["groups"]:
        assert len(group["title"]) * LETTER <= group["bounding"][2], group["title"]


def asked(graph, *names):
    """[node, widget] of the widgets with these names that are not linked."""
    return [
        [node["id"], slot["name"]]
        for node in graph["nodes"]
        for slot in node["inputs"]
        if "widget" in slot and slot["link"] is None and slot["name"] in names
    ]


@each_workflow
def test_what_asks_for_one_picture_one_text_and_one_seed_is_an_app(name):
    """App mode shows what `linearData` lists. With `linearMode` a template would open in it, without its notes."""
    graph = WORKFLOWS[name]
    pictures, texts = asked(graph, "picture", "image"), asked(graph, "text", "value", "instruction")
    seeds = asked(graph, "seed", "noise_seed")
    results = [node["id"] for node in graph["nodes"] if node["type"] == "SaveImage"]
    app = {"inputs": pictures + texts + seeds, "outputs": results}
    is_one = len(pictures) <= 1 and len(texts) == len(seeds) == 1 and name not in NO_APPS
    assert graph["extra"].get("linearData") == (app if is_one else None)
    assert "linearMode" not in graph["extra"]


@each_workflow
def test_a_note_says_what_to_try(name):
    (note,) = (node for node in WORKFLOWS[name]["nodes"] if node["type"] == "MarkdownNote")
    assert len(note["widgets_values"][0]) > 200


@each_workflow
def test_a_note_says_what_the_licence_of_the_real_weights_requires(name):
    """Kontext Loader's report does; the host's loaders have none."""
    types = {node["type"]: node for node in WORKFLOWS[name]["nodes"]}
    said = all(words in types["MarkdownNote"]["widgets_values"][0] for words in DUTIES)
    assert said == ("UNETLoader" in types)


@each_workflow
def test_the_template_browser_has_a_picture(name):
    with Image.open(ROOT / "workflows" / f"{name}.jpg") as picture:
        assert picture.format == "JPEG"
        assert picture.width >= 256


def test_no_two_pictures_are_alike():
    cards = {}
    for name in WORKFLOWS:
        with Image.open(ROOT / "workflows" / f"{name}.jpg") as picture:
            cards[name] = np.asarray(picture.convert("RGB"), float)
    for one, other in itertools.combinations(cards, 2):
        assert np.abs(cards[one] - cards[other]).mean() > 1, (one, other)
