"""Every message that a node can show has a translation: reports, notices and errors, found in the code."""

import ast
import json
import re

import pytest

from batch import ROOT
from kontext_core.hosted import errors

FOLDERS = ("host", "kontext_core", "nodes")
MESSAGES_OF = ROOT / "web" / "messages"
HOLE = r"\{\d+\}"
SQL = re.compile(r"\s*(SELECT|UPDATE|INSERT|DELETE|CREATE|PRAGMA|BEGIN|AND) ")
NOT_SHOWN = {
    *("nearest trained size", "keep ratio", "as the first picture", "give the source picture back"),  # choices
    *("next sibling", "previous sibling", "first picture"),  # commands of the history tab, part of a file's name
    *("Black Forest Labs", "Hugging Face", "Verda (DataCrunch)", "November 2026", "FLUX.1 Kontext", "SD3.5 large"),
    *("Request Moderated", "Content Moderated", "Task not found", "Moderation Reasons", "Bearer {0}"),  # of providers
    *("disk is full", "unable to open", "not a database"),  # parts of SQLite's messages
    *("private, max-age=86400, immutable", "solver {0}", "solver euler"),
    # caught where the file is read, and told there in other words
    *("metadata are texts", "a tensor of a model has a few dimensions", "this is no size", "a format is a word"),
    *("an index has a line for each tensor", "shards lie beside their table"),
    *("a pattern is for a layer or for more", "a pattern is a name with a few gaps"),
    *("an alpha or a rank is no number",),
    # what the model reads is English
    *("Change {0} to {1}", "Replace {0} with {1}", "Remove {0}", "Change the whole picture to {0}", "{0} is now {1}"),
    *("Using this style{0}, draw {1}", "Change the picture to the style of {0}{1}", "Change the background to {0}"),
    *("{0}, while keeping {1}.", "with {0}"),
    *(value for name, value in vars(errors).items() if name.isupper()),  # kinds of a provider's errors
}


def trees(path):
    """The code of a file; of a node what it does, because locales/ translates its schema."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    runs = [node for node in ast.walk(tree) if getattr(node, "name", None) == "execute"]
    return runs if path.parent.name == "nodes" else [tree]


def templates(tree):
    """Texts of several words, with {0}, {1}, ... for what varies; one for each line of a text."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            continue  # a docstring
        if isinstance(node, ast.Call) and ast.unparse(node.func).partition(".")[0] in ("logger", "re"):
            continue
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from numbered(re.sub(r"\{[\w.]*(:[^}]*)?\}", "\0", node.value))
        elif isinstance(node, ast.JoinedStr):
            parts = [part.value if isinstance(part, ast.Constant) else "\0" for part in node.values]
            yield from numbered("".join(parts))
            for part in node.values:
                yield from templates(part)
        else:
            yield from templates(node)


def numbered(text):
    for line in () if SQL.match(text) else text.splitlines():
        parts = line.strip(" ,;:").split("\0")
        key = parts[0] + "".join(f"{{{place}}}{part}" for place, part in enumerate(parts[1:]))
        if re.search("[a-z]{3}", re.sub(HOLE, "", key)) and " " in key:
            yield key


MESSAGES = {
    key: path.relative_to(ROOT)
    for folder in FOLDERS
    for path in sorted((ROOT / folder).rglob("*.py"))
    for tree in trees(path)
    for key in templates(tree)
    if key not in NOT_SHOWN
}


def test_the_code_has_messages():
    """The walk finds f-strings, formats, parts of expressions and lines of one text."""
    assert {
        "cfg is {0} but negative is not connected; connect it, or set cfg to 1.",
        "{0} forecast",
        "the rest is the original's",
        "a step costs {0} x one without it, for a target of reference 1's size; cfg costs 2 x",
    } <= MESSAGES.keys()


@pytest.mark.parametrize("language", ["ja", "ko", "zh"])
def test_every_message_is_translated(language):
    """With the same values, and no more messages than there are."""
    catalogue = json.loads((MESSAGES_OF / f"{language}.json").read_text(encoding="utf-8"))
    assert {key: path for key, path in MESSAGES.items() if key not in catalogue} == {}, "not translated"
    assert catalogue.keys() - MESSAGES.keys() == set(), "no longer in the code"
    holes = {key: (sorted(re.findall(HOLE, key)), sorted(re.findall(HOLE, text))) for key, text in catalogue.items()}
    assert {key: found for key, found in holes.items() if found[0] != found[1]} == {}
