"""A batch's report of a thousand rows, opened as a file."""

import pytest
from PIL import Image

from batch import report
from tools.browser import Page

ROWS = 1000
LOADED = "[...document.querySelectorAll('#rows img')].filter((img) => img.complete && img.naturalWidth).length"
SHOWN = "[...document.querySelectorAll('#rows article')].filter((article) => !article.hidden).length"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    for name, colour in {"before": "red", "after": "blue"}.items():
        Image.new("RGB", (32, 24), colour).save(folder / f"{name}.png")
    made = {"status": "done", "seconds": 2.0, "model_calls": 28, "output": "after.png", "error": ""}
    failed = {"status": "failed", "seconds": None, "model_calls": None, "output": "gone.png", "error": "it is broken"}
    lines = [
        {"row": n, "source": str(folder / "before.png"), "seed": n, "settings": {}, "key": str(n)}
        | {"labels": {"kind": f"kind {n % 4}"}, "instruction": f"make it number {n}"}
        | (failed if n % 100 == 99 else made)
        for n in range(ROWS)
    ]
    report.write(folder, lines)
    with Page(1280, 900) as opened:
        opened.open((folder / report.NAME).as_uri())
        opened.wait_for(f"{LOADED} > 0")
        yield opened
        assert not opened.messages


def test_only_pictures_near_the_screen_are_loaded(page):
    assert page.evaluate(SHOWN) == ROWS
    assert page.evaluate(LOADED) < 200
    page.evaluate("document.querySelectorAll('article')[990].scrollIntoView()")
    page.wait_for("document.querySelectorAll('article')[990].querySelector('img').naturalWidth == 32")
    assert page.evaluate(LOADED) < 400
    page.evaluate("scrollTo(0, 0)")


def test_the_slider_cuts_between_before_and_after(page):
    page.evaluate(
        "slider = document.querySelector('.pair input'); slider.value = 20; slider.dispatchEvent(new Event('input'))"
    )
    cut = "getComputedStyle(document.querySelector('.pair img + img')).clipPath"
    assert page.evaluate(cut) == "inset(0px 0px 0px 20%)"


@pytest.mark.parametrize(
    ("place", "value", "event", "rows"),
    [
        ("label:has(select) select", "failed", "change", 10),
        ("input[type=search]", "number 7", "input", 111),
        ("input[type=search]", "it is broken", "input", 10),
    ],
    ids=["failures", "words", "errors"],
)
def test_rows_are_found(page, place, value, event, rows):
    field = f"field = document.querySelector('#filters {place}')"
    ask = field + f"; field.value = '%s'; field.dispatchEvent(new Event('{event}'))"
    page.evaluate(ask % value)
    assert page.evaluate(SHOWN) == rows
    assert page.evaluate("document.getElementById('count').textContent") == f"{rows} of {ROWS} shown"
    page.evaluate(ask % "")
