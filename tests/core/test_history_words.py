"""The words of the Kontext History tab."""

import json
import re

from tools import ROOT

WORDS = {
    language: json.loads((ROOT / "locales" / language / "main.json").read_text(encoding="utf-8"))["kontextHistory"]
    for language in ("en", "ko", "ja", "zh")
}


def test_every_language_has_every_word():
    for words in WORDS.values():
        assert words.keys() == WORDS["en"].keys()
        for key, text in words.items():
            assert set(re.findall(r"\{\w+\}", text)) == set(re.findall(r"\{\w+\}", WORDS["en"][key])), key


def test_every_command_has_a_name_in_every_language():
    defined = re.findall(r'command\("(\w+)"', (ROOT / "web" / "history.js").read_text(encoding="utf-8"))
    assert defined
    for language in ("ko", "ja", "zh"):
        named = json.loads((ROOT / "locales" / language / "commands.json").read_text(encoding="utf-8"))
        assert named.keys() == {f"KontextHistory_{name}" for name in defined}
        assert all(each["label"] for each in named.values())
