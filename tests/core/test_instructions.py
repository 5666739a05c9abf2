"""Instructions: a table of composed sentences, and of lint warnings."""

import re
import unicodedata

import pytest

from kontext_core.instructions import KINDS, compose, estimate_tokens, lint, unreadable

SENTENCES = {
    "local, change": (
        ("local", {"action": "change", "subject": "the car", "result": "bright red", "keep": "everything else"}),
        "Change the car to bright red, while keeping everything else.",
    ),
    "local, replace": (
        ("local", {"action": "replace", "subject": "the cup", "result": "a glass of water.", "keep": ""}),
        "Replace the cup with a glass of water.",
    ),
    "local, add": (
        ("local", {"action": "add", "subject": "a straw hat", "result": "on the man's head", "keep": "his face"}),
        "Add a straw hat on the man's head, while keeping his face.",
    ),
    "local, remove": (
        ("local", {"action": "remove", "subject": "the parked cars", "result": "", "keep": "the street"}),
        "Remove the parked cars, while keeping the street.",
    ),
    "global": (
        ("global", {"result": "winter with snow on the ground", "keep": "the composition"}),
        "Change the whole picture to winter with snow on the ground, while keeping the composition.",
    ),
    "text": (
        ("text", {"old": "OPEN", "new": "Closed", "keep": "the font"}),
        "Replace 'OPEN' with 'Closed', while keeping the font.",
    ),
    "text that was quoted": (
        ("text", {"old": "'OPEN'", "new": '"joe\'s"', "keep": ""}),
        "Replace 'OPEN' with \"joe's\".",
    ),
    "character": (
        (
            "character",
            {"subject": "the woman with short black hair", "scene": "reading in a library", "keep": "the same face"},
        ),
        "The woman with short black hair is now reading in a library, while keeping the same face.",
    ),
    "style in words": (
        ("style", {"style": "a watercolour painting", "traits": "soft edges", "scene": "", "keep": "the placement"}),
        "Change the picture to the style of a watercolour painting with soft edges, while keeping the placement.",
    ),
    "style of a reference": (
        ("style", {"style": "", "traits": "", "scene": "a lighthouse at night", "keep": "the placement"}),
        "Using this style, draw a lighthouse at night.",
    ),
    "background": (
        ("background", {"subject": "the man", "background": "a sunny beach", "keep": "the same position and pose"}),
        "Change the background to a sunny beach, while keeping the man in the same position and pose.",
    ),
    "background, only the subject": (
        ("background", {"subject": "the man", "background": "a beach", "keep": ""}),
        "Change the background to a beach, while keeping the man.",
    ),
}


@pytest.mark.parametrize(("given", "sentence"), SENTENCES.values(), ids=SENTENCES)
def test_sentences(given, sentence):
    assert compose(*given) == sentence
    assert lint(sentence, 20, exact=True) == []


def test_every_kind_is_in_the_table():
    assert {kind for (kind, _), _ in SENTENCES.values()} == set(KINDS)


NEEDED = {
    "local": ({"action": "change", "subject": " ", "result": "red", "keep": ""}, "subject"),
    "local, result": ({"action": "change", "subject": "the car", "result": "", "keep": ""}, "result"),
    "global": ({"result": "", "keep": "all"}, "result"),
    "text": ({"old": "OPEN", "new": "", "keep": ""}, "new"),
    "character": ({"subject": "the man", "scene": ".", "keep": ""}, "scene"),
    "style": ({"style": "", "traits": "soft", "scene": "", "keep": ""}, "style"),
    "background": ({"subject": "", "background": "a beach", "keep": "place"}, "subject"),
}


@pytest.mark.parametrize(("fields", "missing"), NEEDED.values(), ids=NEEDED)
def test_a_field_that_is_needed_is_asked_for(fields, missing, request):
    kind = request.node.callspec.id.split(",")[0]
    with pytest.raises(ValueError, match=f"^{missing} is empty. "):
        compose(kind, fields)


DOUBTS = {
    "a pronoun": ("she is now in a library", ["'she'"]),
    "two pronouns, once each": ("give him a hat and them coats, give him a bag", ["'him', 'them'"]),
    "whose": ("make his shirt red and her hat green", ["'his', 'her'"]),
    "whose face is kept": ("replace the man's hat with a cap, while keeping his face and her hand", []),
    "who is kept": ("make the sky red, while keeping him", ["'him'"]),
    "the last word": ("put a hat on her", ["'her'"]),
    "it for the picture": ("make it night", []),
    "it for a thing": ("paint the car and move it", ["'it'"]),
    "bare transform": ("transform the man into a viking", ["'transform'"]),
    "transform that keeps": ("transform the man into a viking, keeping his face", []),
    "unquoted text": ("change the text to closed", ["'text'"]),
    "a sign that says": ("make the sign that says open green", ["'says'"]),
    "quoted text": ("replace the word 'no' with \"it's\"", []),
    "an apostrophe is no quote": ("the dog's title and the cat's caption", ["'title'"]),
    "negation": ("a street without people, and don't add cars", ["'without', 'don't'"]),
    "no negation": ("keep the knot and the nonsense unchanged", []),
}


@pytest.mark.parametrize(("text", "words"), DOUBTS.values(), ids=DOUBTS)
def test_lint(text, words):
    found = lint(text, 20, exact=True)
    assert [line[: len(word)] for line, word in zip(found, words, strict=True)] == words


@pytest.mark.parametrize(("exact", "said"), [(True, "has 513 tokens"), (False, "has about 513 tokens")])
def test_more_tokens_than_in_training(exact, said):
    (line,) = lint("make it night", 513, exact)
    assert said in line
    assert not lint("make it night", 512, exact)


@pytest.mark.parametrize(
    ("text", "tokens"), [("", 1), ("make it night", 6), ("replace 'OPEN' with 'CLOSED'.", 12)], ids=["none", "3", "4"]
)
def test_the_estimate_counts_words_and_signs(text, tokens):
    assert estimate_tokens(text) == tokens


UNREADABLE = {  # text, unreadable characters, total, listed ones, advice
    "English": ("Change the sky to “deep red” — it's 5 o'clock; don't (please) use [any] & £5 |", None),
    "German and French": ("Größe, Straße, façade, où, cœur", ("1 of 27", "œ", "in English")),
    "Romanian": ("roșu și țara", None),
    "Korean": (
        "배경을 빨간색으로 바꿔 주세요",
        ("13 of 13", "배, 경, 을, 빨, 간, 색, 으, 로 and 5 more", "in English"),
    ),
    "Korean, decomposed": (unicodedata.normalize("NFD", "색 바꿔"), ("3 of 3", "색, 바, 꿔", "in English")),
    "Chinese": ("把背景换成红色", ("7 of 7", "把, 背, 景, 换, 成, 红, 色", "in English")),
    "Japanese": ("背景を red に", ("4 of 7", "背, 景, を, に", "in English")),
    "Arabic": ("لون أحمر", ("7 of 7", "ل, و, ن, أ, ح, م, ر", "in English")),
    "Cyrillic": ("фон красный", ("3 of 10", "ф, ы, й", "in English")),
    "emoji": ("make it happy 😀😀", ("2 of 13", "😀", "Leave them out")),
    "Korean and an emoji": ("빨강 😀", ("3 of 3", "빨, 강, 😀", "in English")),
    "braces": ("a {b} <c> ~", ("4 of 8", "{, }, <, ~", "Leave them out")),
    "wide letters": ("ＲＥＤ ①", None),
    "escaped brackets": (r"a sign \(open\)", None),
    "a backslash": (r"a \ b", ("1 of 3", r"\\", "Leave them out")),
    "nothing": (" \n\t\u200b", None),
}


@pytest.mark.parametrize(("text", "said"), UNREADABLE.values(), ids=UNREADABLE)
def test_what_t5_cannot_read_is_said(text, said):
    lines = unreadable(text)
    assert len(lines) == (said is not None)
    if said:
        count, which, advice = said
        pattern = re.escape(f"cannot read {count} letters and signs (") + which + re.escape("): they have no effect. ")
        assert re.search(f"{pattern}.*{advice}", lines[0])


@pytest.mark.parametrize("quote", list("“‘\"'"))
def test_many_opening_quotes_are_read_in_one_pass(quote):
    """The search used to run from each quote to the end of the text: hours for a text of this length."""
    assert isinstance(lint(quote * 500_000, 5, True), list)
    assert lint(f"put the word {quote * 1000} 'OPEN' on it", 5, True) == lint("put the word 'OPEN' on it", 5, True)
