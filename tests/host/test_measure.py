"""KontextMeasure in the real host: comparison, report and interruption."""

import copy
import json
import re

import pytest
import torch
from comfy.patcher_extension import WrappersMP

from batch import ROOT, graphs, inprocess
from batch.events import Interrupted

STEPS = 8


def graph(**inputs):
    prompt = graphs.to_prompt(json.loads((ROOT / "workflows/Measure the presets.json").read_text(encoding="utf-8")))
    prompt[graphs.find(prompt, "KontextMeasure")]["inputs"] |= {"steps": STEPS, "seed": 3} | inputs
    return prompt


def measured(run_graph, prompt):
    """Pictures, the lines of the table, and the reported progress."""
    node, told = graphs.find(prompt, "KontextMeasure"), []

    def watch(event):
        if event.type == "progress" and event.data["node"] == node:
            told.append((event.data["value"], event.data["max"]))

    run = run_graph(prompt, on_event=watch)
    images, table = run.values[node]
    assert run.shown[node]["text"] == [table] or run.shown[node]["text"] == (table,)
    return images, table.splitlines(), told


def sampler_in_place(prompt, preset=None):
    """The same edit with Kontext Sampler and VAE Decode, optionally accelerated."""
    node = graphs.find(prompt, "KontextMeasure")
    given = prompt[node]["inputs"]
    model = given["model"]
    if preset:
        accelerate = {"model": model, "preset": preset, "cache_gb": 12.0, "half_precision": False}
        prompt["accelerate"], model = {"class_type": "KontextAccelerate", "inputs": accelerate}, ["accelerate", 0]
    names = {"positive", "negative", "latent", "seed", "steps", "guidance"}
    names |= {"cfg", "cfg_start", "cfg_end", "cfg_rescale"}
    sampler = {name: given[name] for name in names if name in given} | {
        "model": model,
        "solver": "euler",
        "denoise": 1.0,
    }
    prompt["sampler"] = {"class_type": "KontextSampler", "inputs": sampler}
    prompt[node] = {"class_type": "VAEDecode", "inputs": {"samples": ["sampler", 0], "vae": given["vae"]}}
    return node


def test_the_full_run_and_each_preset_are_those_of_the_sampler(run_graph):
    images, lines, told = measured(run_graph, graph(quality=False))
    assert len(images) == 3
    for row, preset in enumerate((None, "balanced", "fast")):
        prompt = graph()
        node = sampler_in_place(prompt, preset)
        (expected,) = run_graph(prompt).values[node]
        torch.testing.assert_close(images[row : row + 1], expected, atol=1e-4, rtol=0)
    assert [line.split(":")[0] for line in lines] == ["seed 3", "full", "balanced", "fast"]
    assert f"{STEPS} steps, " in lines[1]
    assert all("steps computed" in line and "times faster" in line for line in lines[2:])
    assert all(re.search(r" \d+\.\d dB \(expected \d+, \d+ to \d+\)$", line) for line in lines[2:])
    assert told[-1] == (3 * STEPS, 3 * STEPS) and [value for value, _ in told] == sorted(value for value, _ in told)


def test_a_model_that_is_accelerated_already_is_measured_as_it_was(run_graph):
    plain, _, _ = measured(run_graph, graph(quality=False, balanced=False))
    prompt = graph(quality=False, balanced=False)
    given = prompt[graphs.find(prompt, "KontextMeasure")]["inputs"]
    accelerate = {"model": given["model"], "preset": "fast", "cache_gb": 12.0, "half_precision": False}
    prompt["accelerate"], given["model"] = {"class_type": "KontextAccelerate", "inputs": accelerate}, ["accelerate", 0]
    twice, _, _ = measured(run_graph, prompt)
    torch.testing.assert_close(twice, plain, atol=1e-5, rtol=0)


@pytest.mark.parametrize("details", [{}, {"cfg_end": 0.5, "cfg_rescale": 0.7}], ids=["cfg alone", "its details"])
def test_a_negative_is_measured_as_the_sampler_uses_it(run_graph, details):
    prompt = graph(quality=False, balanced=False, fast=False, cfg=3.0, **details)
    text = graphs.find(prompt, "CLIPTextEncode")
    prompt["avoided"] = {"class_type": "CLIPTextEncode", "inputs": prompt[text]["inputs"] | {"text": "a red star"}}
    prompt[graphs.find(prompt, "KontextMeasure")]["inputs"]["negative"] = ["avoided", 0]
    images, _, _ = measured(run_graph, prompt)
    node = sampler_in_place(prompt)
    (expected,) = run_graph(prompt).values[node]
    torch.testing.assert_close(images, expected, atol=1e-4, rtol=0)


def test_without_a_preset_there_is_the_full_run_alone(run_graph):
    images, lines, _ = measured(run_graph, graph(quality=False, balanced=False, fast=False))
    assert len(images) == 1 and [line.split(":")[0] for line in lines] == ["seed 3", "full"]


def test_it_can_be_stopped_in_a_later_run(run_graph):
    prompt, seen = graph(), []
    node = graphs.find(prompt, "KontextMeasure")

    def stop(event):
        if event.type == "progress" and event.data["node"] == node:
            seen.append(event.data["value"])
            if event.data["value"] == STEPS + 2:
                inprocess.interrupt()

    with pytest.raises(Interrupted):
        run_graph(prompt, on_event=stop)
    assert seen[-1] <= STEPS + 3


def test_the_worst_picture_of_a_batch_counts(pack):
    full = torch.zeros(2, 8, 8, 3)
    ours = full.clone()
    ours[1] += 0.1
    psnr = inprocess.pack_module("host.measure").psnr
    assert (psnr(ours, full), psnr(full, full)) == ("20.0 dB", "the same picture")


@pytest.fixture
def measure():
    return inprocess.pack_module("host.measure")


@pytest.fixture
def run_measure(pack, measure):
    """`run_measure(presets, change)`: the result for a small edit with the embedded model, which `change` may patch."""
    model, clip, vae = pack["KontextLoader"].execute({"source": "embedded"}).result
    positive = clip.encode_from_tokens_scheduled(clip.tokenize("make the circle red"))

    def run(presets, change=lambda model, vae: None):
        given, decoder = model.clone(), copy.copy(vae)
        change(given, decoder)
        options = {"positive": positive, "negative": None, "guidance": 2.5, "cfg": 1.0, "denoise": 1.0, "seed": 3}
        return measure.measure(given, decoder, {"samples": torch.zeros(1, 16, 8, 8)}, presets, steps=STEPS, **options)

    return run


def test_pictures_are_decoded_after_all_runs(run_measure):
    """On a small card decoding unloads the model, and the next run's time would include loading it again."""
    order = []

    def watch(model, vae):
        decode = vae.decode

        def sampled(executor, *args, **options):
            order.append("sampled")
            return executor(*args, **options)

        def decoded(samples):
            order.append("decoded")
            return decode(samples)

        model.add_wrapper(WrappersMP.OUTER_SAMPLE, sampled)
        vae.decode = decoded

    run_measure(["balanced", "fast"], watch)
    assert order == 4 * ["sampled"] + 3 * ["decoded"]  # the first run loads the model


def answered(model, vae):
    """Another node's forward in place of the model's."""
    model.add_object_patch("diffusion_model.forward", lambda x, *args, **options: x * 0.1)


def half_answered(model, vae):
    """A node that answers in the second half of a run."""

    def answer(executor, x, timestep, options, *args):
        sigmas = options["transformer_options"]["sample_sigmas"]
        return x * 0.5 if timestep[0] < sigmas[len(sigmas) // 2] else executor(x, timestep, options, *args)

    model.add_wrapper(WrappersMP.PREDICT_NOISE, answer)


def patched(model, vae):
    """A patch that only the host's own forward knows."""
    model.set_model_patch(lambda q, k, v, **_: {"v": v * 0.9}, "attn1_patch")


NOTED = {
    "another node answers": (answered, "  nothing was accelerated: another node is between the sampler and the model"),
    "a patch": (patched, "  another node's attn1_patch patch: such steps are computed in full"),
}


@pytest.mark.parametrize(("change", "note"), NOTED.values(), ids=NOTED)
def test_what_could_not_be_done_is_in_the_table(run_measure, measure, change, note):
    lines = measure.table(run_measure(["fast"], change), STEPS, 3).splitlines()
    assert lines[-1] == note and lines[-2].startswith("fast: ")


def test_nothing_is_expected_of_steps_that_another_node_answered(run_measure, measure):
    found = run_measure(["fast"], half_answered)
    assert found[1].run.elsewhere and found[1].run.control.expected()
    assert "expected" not in measure.table(found, STEPS, 3)
