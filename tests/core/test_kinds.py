"""The benchmark by kind of case: which cases are in which half, and what its tables say."""

import pytest

from benchmarks.cases import HALVES, KINDS, cases
from benchmarks.kinds import ASKED, table
from kontext_core.acceleration.settings import FIDELITIES


def test_rough_cases_take_part_in_no_choice():
    assert "rough" not in {case.kind for case in cases("calibration", 6)}
    assert len(cases("held out", 6, ("rough",))) == 6


@pytest.mark.parametrize("kind", KINDS)
def test_the_halves_share_no_case(kind):
    """Neither a seed, nor a text with its pictures; a picture from an empty text depends on nothing but its seed."""
    halves = [cases(half, 6, (kind,)) for half in HALVES]
    seeds = [{case.seed for case in half} for half in halves]
    requests = [
        {
            (one.text, *(float(source.sum()) for source in one.sources))
            for case in half
            for one in case.requests
            if one.sources or (one.text or "").strip()
        }
        for half in halves
    ]
    assert not seeds[0] & seeds[1] and not requests[0] & requests[1]


def rows(ways):
    """Two cases of one kind for each way: (calls, PSNR of both)."""
    return [
        {"kind": "clear edits", "number": number, "steps": 28, "way": way, "calls": calls, "psnr": psnr} | expected
        for way, (calls, found, expected) in ways.items()
        for number, psnr in enumerate(found)
    ]


WAYS = {
    "quality": (7, (44.0, 34.0), {"decibels": 41.0, "low": 36.0, "high": 46.0}),
    "balanced": (4, (32.0, 30.0), {"decibels": 40.5, "low": 35.0, "high": 45.0}),
    "fast": (2, (31.0, 29.0), {}),
    "44 dB": (8, (50.0, 36.0), {"decibels": 50.0, "low": 49.0, "high": 51.0}),
    "48 dB": (9, (52.0, 36.0), {}),
    "multistep 14": (14, (44.0, 34.0), {}),
    "multistep 7": (7, (36.0, 32.0), {}),
    "multistep 5": (5, (26.0, 24.0), {}),
}


def test_a_table_has_a_line_for_each_preset_and_kind():
    text = table(rows(WAYS))
    assert "| clear edits | 7.0 | 39.0 | 34.0 | 50% | 14.0 (2.00x) | -5.0 |" in text
    assert "| clear edits | 4.0 | 31.0 | 30.0 | 100% | 6.3 (1.56x) | - |" in text
    assert "*quality*: median 39.0 dB, 50% of 2 cases at 35 dB or more (nine of ten in 0 of 1 kinds)" in text
    assert "within 4 dB in 25%, between the two bounds told in 25%, more than 8 dB too much in 50%" in text


def test_asking_for_more_is_compared_with_what_quality_promises():
    text = table(rows(WAYS))
    assert "| aim | model calls, mean of kinds | cases at 35 dB or more, worst kind |" in text
    assert "| quality | 7.0 | 50% | 0 of 1 |\n| 44 dB | 8.0 | 100% | 1 of 1 |\n| 48 dB | 9.0 | 100% | 1 of 1 |" in text


@pytest.mark.parametrize(("rival", "said"), [("multistep 5", "more than 5.0 (0.71x)"), ("euler 10", "10.0 (1.43x)")])
def test_a_rival_that_is_less_exact_everywhere_is_a_bound(rival, said):
    given = {name: WAYS[name] for name in (*FIDELITIES, *ASKED)} | {rival: WAYS["multistep 5"]}
    if rival == "euler 10":
        given[rival] = (10, (39.0, 39.0), {})
    assert f"| 50% | {said}" in table(rows(given))


def test_kinds_are_counted_apart():
    other = [row | {"kind": "rough"} for row in rows(WAYS)]
    assert "(nine of ten in 2 of 2 kinds)" in table(rows(WAYS) + other)
