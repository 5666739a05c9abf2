"""The shipped graphs as files: complete, readable, each with a picture for the template browser."""

import itertools
import json

import pytest
from PIL import Image

from tools import ROOT

SCHEMAS = json.loads((ROOT / "tests" / "host" / "schemas.json").read_text(encoding="utf-8"))
WORKFLOWS = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in (ROOT / "workflows").glob("*.json")}
TITLE_HEIGHT = 30  # px above a node's position

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


APPS = {name: graph["extra"]["linearData"] for name, graph in WORKFLOWS.items() if "linearData" in graph["extra"]}


@pytest.mark.parametrize("name", APPS)
def test_app_mode_shows_picture_text_and_seed_and_the_result(name):
    nodes = {node["id"]: node for node in WORKFLOWS[name]["nodes"]}
    shown = {widget: nodes[node] for node, widget in APPS[name]["inputs"]}
    assert set(shown) | {"picture", "image"} == {"picture", "image", "text", "seed"}
    for widget, node in shown.items():
        assert widget in {slot["name"] for slot in node["inputs"] if "widget" in slot}
    assert [nodes[node]["type"] for node in APPS[name]["outputs"]] == ["SaveImage"]


def test_what_has_one_picture_and_one_text_opens_as_an_app():
    assert {"A first edit", "Change the light of a photograph", "Real model with your files"} <= set(APPS)


@each_workflow
def test_a_note_says_what_to_try(name):
    (note,) = (node for node in WORKFLOWS[name]["nodes"] if node["type"] == "MarkdownNote")
    assert len(note["widgets_values"][0]) > 200


@each_workflow
def test_the_template_browser_has_a_picture(name):
    with Image.open(ROOT / "workflows" / f"{name}.jpg") as picture:
        assert picture.format == "JPEG"
        assert picture.width >= 256
