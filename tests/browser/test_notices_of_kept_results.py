"""Notices of results that the server keeps from earlier prompts and gives again, although no node runs."""

import pytest
from canvas import Canvas, node

from batch.comfyui import CPU
from tools import frontend
from tools.server import Server

TEXT, SAMPLER, ACCELERATE = map(node, ("CLIPTextEncode", "KontextSampler", "KontextAccelerate"))


@pytest.fixture(scope="module")
def keeping(tmp_path_factory):
    """A ComfyUI that keeps them until 1 GB of memory is left; by default it is all of it, 128 GB at most."""
    arguments = (*CPU, "--disable-api-nodes", "--cache-ram", "1", "1", *frontend.arguments())
    with Server(tmp_path_factory.mktemp("keeping"), arguments=arguments) as running:
        yield running


@pytest.fixture
def canvas(page, server, keeping, load):
    """The template Edit several times faster, with few steps and one seed."""
    keeping.ask("/settings", {"Comfy.TutorialCompleted": True})
    page.open(keeping.url)
    page.wait_for_workflow(900)
    load("Edit several times faster")
    canvas = Canvas(page)
    canvas.set(SAMPLER, "steps", 4)
    canvas.set(SAMPLER, "control_after_generate", "fixed")
    yield canvas
    page.open(server.url)
    page.wait_for_workflow(900)


def test_what_was_accelerated_is_said_of_the_result_that_it_made(canvas):
    """Off, on, off, on: the third and fourth results are the first and second."""
    sampler = canvas.page.evaluate(f"{SAMPLER}.id.toString()")
    ran, said = [], []
    for bypassed in (True, False, True, False):
        canvas.bypass(ACCELERATE, bypassed)
        ran.append(sampler in canvas.run())
        said.append("Kontext Accelerate: " in (canvas.notice(SAMPLER) or ""))
    assert ran == [True, True, False, False]
    assert said == [False, True, False, True]


def test_an_unknown_word_is_named_again_when_it_is_typed_again(canvas):
    text, said, ran = canvas.page.evaluate(f"{TEXT}.id.toString()"), [], []
    for word in ("glimmery", "blue", "glimmery"):
        canvas.set(TEXT, "text", f"make the circle {word}")
        ran.append(text in canvas.run())
        said.append(word in (canvas.notice(TEXT) or ""))
    assert ran == [True, True, False]
    assert said == [True, False, True]
