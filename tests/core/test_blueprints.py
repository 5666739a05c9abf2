"""The blueprints match the current templates."""

import json

import pytest

from tools import ROOT, blueprints

FILES = sorted((ROOT / "subgraphs").glob("*.json"))


def template(name):
    return json.loads((ROOT / "workflows" / f"{name}.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("blueprint", blueprints.ALL, ids=lambda blueprint: blueprint.name)
def test_a_blueprint_is_its_template(blueprint):
    """If this fails: python3 manage.py exec -- python -m tools.blueprints"""
    path = ROOT / "subgraphs" / f"{blueprint.name}.json"
    assert json.loads(path.read_text(encoding="utf-8")) == blueprints.build(blueprint, template(blueprint.template))


def test_no_other_file_is_a_blueprint():
    assert {path.stem for path in FILES} == {blueprint.name for blueprint in blueprints.ALL}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_link_inside_joins_what_is_there(path):
    (subgraph,) = json.loads(path.read_text(encoding="utf-8"))["definitions"]["subgraphs"]
    nodes = {node["id"]: node for node in subgraph["nodes"]}
    for link in subgraph["links"]:
        if link["origin_id"] != blueprints.INPUT:
            assert link["id"] in nodes[link["origin_id"]]["outputs"][link["origin_slot"]]["links"]
        else:
            assert link["id"] in subgraph["inputs"][link["origin_slot"]]["linkIds"]
        if link["target_id"] != blueprints.OUTPUT:
            assert nodes[link["target_id"]]["inputs"][link["target_slot"]]["link"] == link["id"]
        else:
            assert link["id"] in subgraph["outputs"][link["target_slot"]]["linkIds"]


def test_a_template_without_what_a_blueprint_names_is_refused():
    wanted = blueprints.ALL[0]._replace(pictures=("image", "another"))
    with pytest.raises(ValueError, match="has 1 IMAGE from outside; 2 are named"):
        blueprints.build(wanted, template(wanted.template))
