"""The interface of the nodes: ids, inputs, outputs, tooltips, help pages, translations."""

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GOLDEN = Path(__file__).parent / "schemas.json"
FROM_FOLDERS = {"diffusion_model", "clip_l", "t5xxl", "vae", "lora"}  # their options are the user's files
NODES = tuple(json.loads(GOLDEN.read_text()))
KOREAN = json.loads((ROOT / "locales" / "ko" / "nodeDefs.json").read_text(encoding="utf-8"))


def inputs(info, prefix=""):
    """(name, type, options) of every input in widget order, including those inside a choice or a template."""
    for group in ("required", "optional"):  # what the host puts in by itself is "hidden"
        for name, (kind, options) in info.get(group, {}).items():
            yield prefix + name, kind, options
            for option in options.get("options", ()):
                if isinstance(option, dict):
                    yield from inputs(option["inputs"], f"{prefix}{name}.")
            if "template" in options:
                yield from inputs(options["template"]["input"], f"{prefix}{name}.")


def outline(info):
    """The parts that saved workflows depend on: names, types, order, defaults and choices."""
    kept = {"default", "min", "max", "prefix", "advanced"}
    rows = []
    for name, kind, options in inputs(info["input"]):
        facts = options.get("template", options)
        row = {"name": name, "type": kind} | {key: facts[key] for key in sorted(kept & facts.keys())}
        choices = [c["key"] if isinstance(c, dict) else c for c in options.get("options", ())]
        if choices and name.split(".")[-1] not in FROM_FOLDERS:
            row["options"] = choices
        rows.append(row)
    outputs = [list(pair) for pair in zip(info["output_name"], info["output"], strict=True)]
    return {"inputs": rows, "outputs": outputs}


@pytest.fixture(scope="module")
def infos(pack):
    """Our nodes as sent to the browser."""
    ours = {name: node for name, node in pack.items() if hasattr(node, "GET_NODE_INFO_V1")}
    infos = {name: json.loads(json.dumps(node.GET_NODE_INFO_V1())) for name, node in ours.items()}
    return {name: info for name, info in infos.items() if info["category"].startswith("kontext/")}


def test_the_schemas_are_those_that_workflows_were_saved_with(infos, tmp_path):
    now = {name: outline(info) for name, info in infos.items()}
    new = tmp_path / "schemas.json"
    new.write_text(json.dumps(now, indent=1) + "\n")
    assert now == json.loads(GOLDEN.read_text()), f"if saved workflows still load, copy {new} over {GOLDEN}"


@pytest.mark.parametrize("node", NODES)
def test_everything_is_explained(infos, node):
    info = infos[node]
    unexplained = [name for name, _, options in inputs(info["input"]) if not options.get("tooltip")]
    unexplained += [n for n, tip in zip(info["output_name"], info["output_tooltips"], strict=True) if not tip]
    assert not unexplained
    assert info["description"]
    assert info["display_name"]


@pytest.mark.parametrize("node", NODES)
def test_every_node_has_a_help_page_that_names_its_inputs_and_outputs(infos, node):
    page = (ROOT / "web" / "docs" / f"{node}.md").read_text(encoding="utf-8")
    names = [name.split(".")[-1] for name, _, _ in inputs(infos[node]["input"])] + infos[node]["output_name"]
    assert not [name for name in names if name not in page]


@pytest.mark.parametrize("node", NODES)
def test_every_node_speaks_korean(infos, node):
    entry = KOREAN[node]
    assert entry["display_name"]
    top = [name for name, _, _ in inputs(infos[node]["input"]) if "." not in name]
    assert not [name for name in top if not entry["inputs"][name]["name"] or not entry["inputs"][name]["tooltip"]]
    assert len(entry["outputs"]) == len(infos[node]["output"])


SEARCHED = {  # what an artist types, and the node that the search must offer
    "edit": "KontextSampler",
    "flux edit": "KontextContext",
    "character": "KontextReference",
    "style": "KontextReference",
    "upscale reference": "KontextReference",
    "outpaint": "KontextTarget",
    "inpaint": "KontextCropRegion",
    "before after": "KontextChangeMask",
}


@pytest.mark.parametrize(("word", "node"), SEARCHED.items(), ids=SEARCHED)
def test_the_words_that_artists_search_by_are_aliases(infos, word, node):
    assert word in infos[node]["search_aliases"]


def test_every_language_has_the_same_words():
    """Of the panel, the categories and the template browser."""
    paths = ROOT.glob("locales/*/main.json")
    files = {path.parent.name: json.loads(path.read_text(encoding="utf-8")) for path in paths}
    words = {language: {f"{room}.{key}" for room in file for key in file[room]} for language, file in files.items()}
    assert set(words) == {"en", "ja", "ko", "zh"}
    assert all(keys == words["en"] for keys in words.values())
