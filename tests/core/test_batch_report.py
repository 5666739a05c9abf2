"""The report: one self-contained page, whatever the rows' texts are; results in the manifest's order."""

import json
import re
import struct
import zlib

import pytest
from PIL import Image

from batch import report
from batch.progress import duration


@pytest.fixture
def folder(tmp_path):
    Image.new("RGB", (800, 400), "red").save(tmp_path / "before.png")
    Image.new("RGB", (800, 400), "blue").save(tmp_path / "after.png")
    return tmp_path


def line(folder, number=1, status="done", **more):
    cells = {"row": number, "output": "after.png", "status": status, "source": str(folder / "before.png"), "seed": 7}
    made = {"seconds": 2.0, "model_calls": 28} if status == "done" else {"seconds": None, "model_calls": None}
    return cells | made | {"labels": {}, "settings": {}, "key": str(number), "instruction": "make it blue"} | more


def data_of(folder):
    page = (folder / report.NAME).read_text(encoding="utf-8")
    (text,) = re.findall(r'<script id="data" type="application/json">(.*?)</script>', page, re.DOTALL)
    return page, json.loads(text)


def test_the_page_holds_before_and_after_and_needs_nothing_else(folder):
    report.write(folder, [line(folder)])
    page, data = data_of(folder)
    assert all(data["rows"][0][name].startswith("data:image/webp;base64,") for name in ("before", "after"))
    assert not re.findall(r'(?:src|href)="(?!#)[^"]+"|https?://', page)
    assert data["about"][0] == "1 done"
    assert data["rows"][0]["lines"][0] == "seed 7, 2.0 s, 28 model calls"


def test_no_text_of_a_row_becomes_part_of_the_page(folder):
    evil = "</script><script>alert(1)</script>"
    report.write(folder, [line(folder, status="failed", instruction=evil, error=evil, labels={evil: evil})])
    page, data = data_of(folder)
    assert data["rows"][0]["instruction"] == evil == data["rows"][0]["error"]
    assert evil not in page


def test_columns_with_several_values_can_be_filtered(folder):
    rows = [line(folder, i, labels={"kind": str(i % 2), "same": 1, "own": i}) for i in range(60)]
    report.write(folder, [*rows, line(folder, 60, "failed", error="x")])
    _, data = data_of(folder)
    assert {each["name"]: each["values"] for each in data["filters"]} == {
        "status": ["done", "failed"],
        "kind": ["0", "1"],
    }


def test_a_picture_that_has_gone_leaves_the_rest(folder):
    report.write(folder, [line(folder, source=str(folder / "gone.png")), line(folder, 2, "missing")])
    _, data = data_of(folder)
    assert [(bool(row["before"]), bool(row["after"])) for row in data["rows"]] == [(False, True), (True, False)]


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(*chunks, side=8):
    """A black picture with further chunks before its pixels."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(bytes(8 * (1 + 3 * 8)))) + chunk(b"IEND", b"")
    return b"".join([b"\x89PNG\r\n\x1a\n", header, *chunks, pixels])


ORIENTATION = bytes.fromhex("0112 0003 00000001 0006 0000")  # turned by 90 degrees
UNKNOWN = bytes.fromhex("0107 0002 00000001 00000000")  # text where a number belongs
TEXT = b"name\0\0" + zlib.compress(bytes(1 << 21))
DAMAGED = {  # the error of Pillow
    "SyntaxError": png(chunk(b"eXIf", b"no EXIF")),
    "ValueError": png(chunk(b"zTXt", TEXT)),
    "struct.error": png(chunk(b"eXIf", b"MM\0*\0\0\0\x08\0\x02" + UNKNOWN + ORIENTATION + bytes(4))),
    "DecompressionBombError": png(side=50_000),
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_picture_leaves_the_rest(folder, content):
    (folder / "damaged.png").write_bytes(content)
    report.write(folder, [line(folder, source=str(folder / "damaged.png")), line(folder, 2)])
    _, data = data_of(folder)
    assert all(data["rows"][number][name] for number, name in ((0, "after"), (1, "before"), (1, "after")))


def test_a_page_that_would_be_too_large_says_what_it_leaves_out(folder, monkeypatch):
    monkeypatch.setattr(report, "MOST_ROWS", 2)
    report.write(folder, [line(folder, number) for number in range(3)])
    _, data = data_of(folder)
    assert len(data["rows"]) == 2
    assert "first 2 rows" in data["about"][-1]


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0 s"), (59, "59 s"), (185, "3 min 5 s"), (7830, "2 h 10 min")])
def test_durations(seconds, text):
    assert duration(seconds) == text
