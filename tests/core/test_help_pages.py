"""The translated help pages are those that the words in locales/ and the English pages make."""

from tools.help_pages import DOCS, pages


def test_the_pages_are_as_they_would_be_written_now():
    """If this fails: python3 manage.py exec -- python -m tools.help_pages"""
    written = {path: path.read_text(encoding="utf-8") for path in DOCS.glob("*/*.md")}
    assert written == pages()
