"""The translated help pages: tables made from locales/, and the other sections of the English page, translated."""

import re

import pytest

from tools.help_pages import DOCS, WORDS, english, mark, pages, translated

NODES = sorted(path.stem for path in DOCS.glob("Kontext*.md"))
PARTS = {  # what a translation has as often as its English text
    "headings": r"^#{2,3} ",
    "items": r"^ *(?:[-*]|\d+\.) ",
    "cells": r" \|",
    "links": r"\]\([^)]+\)",
    "code": r"`[^`]+`",
    "bold": r"\*\*.+?\*\*",
}


def test_the_pages_are_as_they_would_be_written_now():
    """If this fails: python3 manage.py exec -- python -m tools.help_pages"""
    written = {path: path.read_text(encoding="utf-8") for path in DOCS.glob("*/*.md")}
    assert written == pages()


@pytest.mark.parametrize("language", WORDS)
@pytest.mark.parametrize("node", NODES)
def test_a_page_translates_all_sections_of_the_english_one(node, language):
    """If this fails, translate what has changed, then put the expected comment above it."""
    text, translation = english(node), translated(DOCS / node / f"{language}.md")
    first, _, translation = translation.partition("\n")
    assert first == (mark(text) if text else "")
    assert counts(translation) == counts(text)


def counts(text):
    return {name: len(re.findall(pattern, text, re.MULTILINE)) for name, pattern in PARTS.items()}
