"""Build the blueprints in subgraphs/: a template as one node, with the inputs that an artist needs.

Run it whenever one of the templates below has changed:
`python3 manage.py exec -- python -m tools.blueprints`

Format: ComfyUI's `blueprints/*.json`. The file's name is the node's name.
"""

from __future__ import annotations

import json
import sys
import uuid
from typing import Any, NamedTuple

from batch.graphs import widget_values

from . import ROOT

WORKFLOWS, BLUEPRINTS = ROOT / "workflows", ROOT / "subgraphs"
OUTSIDE = ("KontextExample", "LoadImage", "MarkdownNote", "MaskPreview", "Note", "PreviewImage", "SaveImage")
INPUT, OUTPUT = -10, -20  # ids of a subgraph's input and output nodes
ADDED = 1000  # to the ids of what comes from another template
GAP = 60  # px between branches
NAMESPACE = uuid.UUID("5f2c1f0e-4a64-4d0f-9a3b-6b0a4b4c1d52")  # of our ids, which must not collide with other packs'

Graph = dict[str, Any]


class Blueprint(NamedTuple):
    name: str
    template: str
    description: str
    pictures: tuple[str, ...]  # names of the picture inputs, in the order of their nodes
    widgets: tuple[tuple[str, ...], ...]  # exposed name, then the widgets that it sets, each with its node's type
    masks: tuple[str, ...] = ()  # names of the mask inputs
    hosted: bool = False  # whether a provider can make the picture instead


FILES: dict[str, str | None] = {  # of Kontext Loader's source "files"; the browser marks a name that it does not find
    **dict.fromkeys(("source.diffusion_model", "source.clip_l", "source.t5xxl", "source.vae")),
    "source.weight_dtype": "default",
    "source.text_length": "256",
}
OPEN = " model 'files': open the node and choose your files in Kontext Loader."
INSTRUCTION = ("instruction", "CLIPTextEncode.text")
MODEL, STEPS = ("model", "KontextLoader.source"), ("steps", "KontextSampler.steps")
SETTINGS = (MODEL, ("seed", "KontextSampler.seed"), STEPS)
ALL = (
    Blueprint(
        "Kontext Edit",
        "Edit and keep the rest",
        "Edits a picture by an instruction (FLUX.1 Kontext). The result has the picture's size and framing, and what "
        "the edit did not change is the picture's own, bit for bit." + OPEN + " hosted: FLUX.1 Kontext [pro] makes the "
        "picture at Black Forest Labs, with your key and for money; inside, Kontext Hosted has other providers and a "
        "dry run, which shows the price.",
        ("image",),
        (
            (*INSTRUCTION, "KontextHosted.instruction"),
            MODEL,
            ("hosted", "ComfySwitchNode.switch"),
            ("seed", "KontextSampler.seed", "KontextHosted.seed"),
            STEPS,
        ),
        hosted=True,
    ),
    Blueprint(
        "Kontext Edit Region",
        "Edit a small region",
        "Edits what a mask marks, at the model's full size, and puts it back: inpaint, crop and stitch "
        "(FLUX.1 Kontext)." + OPEN,
        ("image",),
        (INSTRUCTION, *SETTINGS),
        ("mask",),
    ),
    Blueprint(
        "Kontext Edit with References",
        "Two references",
        "Puts something of a second picture into the first, by an instruction: object, character, style "
        "(FLUX.1 Kontext)." + OPEN,
        ("image", "reference"),
        (INSTRUCTION, *SETTINGS),
    ),
    Blueprint(
        "Kontext Text to Image",
        "Text to image",
        "Makes a picture from text alone (FLUX.1 Kontext)." + OPEN,
        (),
        (
            ("text", "CLIPTextEncode.text"),
            *SETTINGS,
            ("width", "KontextTarget.size.width"),
            ("height", "KontextTarget.size.height"),
        ),
    ),
)


def main() -> int:
    for blueprint in ALL:
        path = BLUEPRINTS / f"{blueprint.name}.json"
        content = build(blueprint, template(blueprint.template))
        path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        print(path)
    return 0


def template(name: str) -> Graph:
    return json.loads((WORKFLOWS / f"{name}.json").read_text(encoding="utf-8"))


def build(blueprint: Blueprint, template: Graph) -> Graph:
    """The content of a blueprint's file. Raises ValueError when the template lacks something that it names."""
    template = with_hosted(template) if blueprint.hosted else template
    outside = {node["id"]: node for node in template["nodes"] if node["type"] in OUTSIDE}
    nodes = [json.loads(json.dumps(node)) for node in template["nodes"] if node["id"] not in outside]
    links = [Link(*link) for link in template["links"]]
    inner = [link for link in links if link.origin not in outside and link.target not in outside]
    ends = Ends(blueprint, 1 + max(link.id for link in links))
    for kind, names in (("IMAGE", blueprint.pictures), ("MASK", blueprint.masks)):
        entering = [link for link in links if link.origin in outside and link.target not in outside]
        entering = [link for link in entering if link.type == kind]
        origins = sorted({link.origin for link in entering})
        if len(origins) != len(names):
            raise ValueError(f"{blueprint.template} has {len(origins)} {kind} from outside; {len(names)} are named")
        for name, origin in zip(names, origins, strict=True):
            ends.input(name, kind, [(link.target, link.slot) for link in entering if link.origin == origin])
    for name, *places in blueprint.widgets:
        found = [find(nodes, *place.split(".", 1)) for place in places]
        node, slot = found[0]
        entry = node["inputs"][slot]
        ends.input(name, entry["type"], [(node["id"], slot) for node, slot in found], value_of(node, entry["name"]))
    for node in nodes:
        if node["type"] == "KontextLoader":
            show_files(node)
    for link in links:
        if outside.get(link.target, {}).get("type") == "SaveImage":
            ends.output("image", "IMAGE", link.origin, link.origin_slot)
    connect(nodes, [*inner, *ends.links])
    return file(blueprint, nodes, [*inner, *ends.links], ends)


def with_hosted(graph: Graph) -> Graph:
    """An edit's graph with a second branch, that of *Hosted edit with pro or max*, and a switch that runs one of both.

    Both branches end with Kontext Restore Frame.
    """
    nodes, links = graph["nodes"], [Link(*link) for link in graph["links"]]
    branch = template("Hosted edit with pro or max")
    inner = [node for node in branch["nodes"] if node["type"] not in OUTSIDE]
    inner.append(only(template("Local or hosted")["nodes"], "ComfySwitchNode"))
    only(inner, "KontextHosted")["widgets_values"][-1] = False  # dry_run
    below = GAP + max(node["pos"][1] + node["size"][1] for node in nodes)
    added = [node | {"id": node["id"] + ADDED, "pos": [node["pos"][0], node["pos"][1] + below]} for node in inner]
    ids, picture = {node["id"]: node["id"] + ADDED for node in inner}, only(nodes, "KontextExample")["id"]
    for link in (Link(*link) for link in branch["links"]):
        if link.target in ids:
            origin = ids.get(link.origin, picture)
            links.append(link._replace(id=link.id + ADDED, origin=origin, target=ids[link.target]))
    local, hosted = (only(some, "KontextRestoreFrame")["id"] for some in (nodes, added))
    switch = only(added, "ComfySwitchNode")["id"]
    result = next(link for link in links if link.origin == local)
    links.remove(result)
    links.append(result._replace(target=switch, slot=0))
    links.append(Link(2 * ADDED, hosted, 0, switch, 1, "IMAGE"))
    links.append(result._replace(id=2 * ADDED + 1, origin=switch))
    return graph | {"nodes": nodes + added, "links": links}


def only(nodes: list[Graph], kind: str) -> Graph:
    (node,) = (node for node in nodes if node["type"] == kind)
    return node


def find(nodes: list[Graph], kind: str, widget: str) -> tuple[Graph, int]:
    """The first node of a type, and the slot of one of its widgets."""
    node = next(node for node in nodes if node["type"] == kind)
    return node, next(place for place, entry in enumerate(node["inputs"]) if entry["name"] == widget)


def show_files(loader: Graph) -> None:
    """Give Kontext Loader the inputs of its files: a choice outside the subgraph creates none inside."""
    loader["inputs"] += [{"name": name, "type": "COMBO", "widget": {"name": name}, "link": None} for name in FILES]
    loader["widgets_values"] = ["files", *FILES.values()]


class Link(NamedTuple):
    id: int
    origin: int
    origin_slot: int
    target: int
    slot: int
    type: str

    def entry(self) -> Graph:
        names = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
        return dict(zip(names, self, strict=True))


class Ends:
    """The exposed inputs and outputs of a subgraph, and the links from them to its nodes."""

    def __init__(self, blueprint: Blueprint, first_link: int):
        self.name, self.next = blueprint.name, first_link
        self.links: list[Link] = []
        self.inputs: list[Graph] = []
        self.outputs: list[Graph] = []
        self.values: dict[str, Any] = {}  # widget values

    def input(self, name: str, kind: str, targets: list[tuple[int, int]], *value: Any) -> None:
        links = [self._link(INPUT, len(self.inputs), *target, kind) for target in targets]
        self.inputs.append(self._end(name, kind, links))
        self.values.update({name: value[0]} if value else {})

    def output(self, name: str, kind: str, origin: int, slot: int) -> None:
        link = self._link(origin, slot, OUTPUT, len(self.outputs), kind)
        self.outputs.append(self._end(name, kind, [link]))

    def _link(self, origin: int, origin_slot: int, target: int, slot: int, kind: str) -> int:
        self.links.append(Link(self.next, origin, origin_slot, target, slot, kind))
        self.next += 1
        return self.next - 1

    def _end(self, name: str, kind: str, links: list[int]) -> Graph:
        return {"id": str(uuid.uuid5(NAMESPACE, f"{self.name} {name}")), "name": name, "type": kind, "linkIds": links}


def value_of(node: Graph, widget: str) -> Any:
    return widget_values(node)[widget]


def connect(nodes: list[Graph], links: list[Link]) -> None:
    """Write the links into the nodes' slots."""
    for node in nodes:
        for place, slot in enumerate(node.get("inputs", [])):
            slot["link"] = next((link.id for link in links if (link.target, link.slot) == (node["id"], place)), None)
        for place, slot in enumerate(node.get("outputs", [])):
            slot["links"] = [link.id for link in links if (link.origin, link.origin_slot) == (node["id"], place)]


def file(blueprint: Blueprint, nodes: list[Graph], links: list[Link], ends: Ends) -> Graph:
    id = str(uuid.uuid5(NAMESPACE, blueprint.name))
    lefts = [node["pos"][0] for node in nodes]
    subgraph = {
        "id": id,
        "version": 1,
        "state": {"lastGroupId": 0, "lastNodeId": max(node["id"] for node in nodes), "lastLinkId": ends.next - 1,
                  "lastRerouteId": 0},
        "revision": 0,
        "config": {},
        "name": blueprint.name,
        "inputNode": {"id": INPUT, "bounding": [min(lefts) - 250, 100, 150, 40 + 20 * len(ends.inputs)]},
        "outputNode": {"id": OUTPUT, "bounding": [max(lefts) + 350, 100, 120, 60]},
        "inputs": ends.inputs,
        "outputs": ends.outputs,
        "widgets": [],
        "nodes": nodes,
        "groups": [],
        "links": [link.entry() for link in links],
        "extra": {},
        "category": "Image generation and editing/Edit image",
        "description": blueprint.description,
    }  # fmt: skip
    node = {
        "id": 1,
        "type": id,
        "pos": [0, 0],
        "size": [320, 260],
        "flags": {},
        "order": 0,
        "mode": 0,
        "inputs": [_slot(end, ends.values) for end in ends.inputs],
        "outputs": [{"name": end["name"], "type": end["type"], "links": []} for end in ends.outputs],
        "title": blueprint.name,
        "properties": {"proxyWidgets": [["-1", name] for name in ends.values]},
        "widgets_values": list(ends.values.values()),
    }
    return {
        "revision": 0,
        "last_node_id": 1,
        "last_link_id": 0,
        "nodes": [node],
        "links": [],
        "version": 0.4,
        "definitions": {"subgraphs": [subgraph]},
        "extra": {},
    }


def _slot(end: Graph, values: dict[str, Any]) -> Graph:
    slot = {"name": end["name"], "type": end["type"], "link": None}
    return slot | {"widget": {"name": end["name"]}} if end["name"] in values else slot


if __name__ == "__main__":
    sys.exit(main())
