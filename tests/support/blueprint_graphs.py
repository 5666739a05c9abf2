"""A blueprint in API format, as the browser sends its node."""

import json

from batch import ROOT, graphs
from tools.blueprints import INPUT


def prompt_of(name, **given):
    """The nodes inside; `given` are links for the pictures, and values in place of those of its widgets."""
    file = json.loads((ROOT / "subgraphs" / f"{name}.json").read_text(encoding="utf-8"))
    (subgraph,), (node,) = file["definitions"]["subgraphs"], file["nodes"]
    names = [end["name"] for end in subgraph["inputs"]]
    values = graphs.widget_values(node) | given
    links = [list(link.values()) for link in subgraph["links"]]
    prompt = graphs.to_prompt({"nodes": [*subgraph["nodes"], {"id": INPUT, "type": "inputs"}], "links": links})
    del prompt[str(INPUT)]
    for content in prompt.values():
        for key, value in content["inputs"].items():
            if graphs.is_link(value) and value[0] == str(INPUT):
                content["inputs"][key] = values[names[value[1]]]
    return prompt
