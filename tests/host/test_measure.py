"""KontextMeasure in the real host: comparison, report and interruption."""

import json

import pytest
import torch

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
    names = ("positive", "negative", "latent", "seed", "steps", "guidance", "cfg")
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
    assert [line.split(":")[0] for line in lines] == ["full", "balanced", "fast"]
    assert f"{STEPS} steps, " in lines[0]
    assert all("steps computed" in line and "times faster" in line and "dB" in line for line in lines[1:])
    assert told[-1] == (3 * STEPS, 3 * STEPS) and [value for value, _ in told] == sorted(value for value, _ in told)


def test_a_model_that_is_accelerated_already_is_measured_as_it_was(run_graph):
    plain, _, _ = measured(run_graph, graph(quality=False, balanced=False))
    prompt = graph(quality=False, balanced=False)
    given = prompt[graphs.find(prompt, "KontextMeasure")]["inputs"]
    accelerate = {"model": given["model"], "preset": "fast", "cache_gb": 12.0, "half_precision": False}
    prompt["accelerate"], given["model"] = {"class_type": "KontextAccelerate", "inputs": accelerate}, ["accelerate", 0]
    twice, _, _ = measured(run_graph, prompt)
    torch.testing.assert_close(twice, plain, atol=1e-5, rtol=0)


def test_a_negative_is_measured_as_the_sampler_uses_it(run_graph):
    prompt = graph(quality=False, balanced=False, fast=False, cfg=3.0)
    text = graphs.find(prompt, "CLIPTextEncode")
    prompt["avoided"] = {"class_type": "CLIPTextEncode", "inputs": prompt[text]["inputs"] | {"text": "a red star"}}
    prompt[graphs.find(prompt, "KontextMeasure")]["inputs"]["negative"] = ["avoided", 0]
    images, _, _ = measured(run_graph, prompt)
    node = sampler_in_place(prompt)
    (expected,) = run_graph(prompt).values[node]
    torch.testing.assert_close(images, expected, atol=1e-4, rtol=0)


def test_without_a_preset_there_is_the_full_run_alone(run_graph):
    images, lines, _ = measured(run_graph, graph(quality=False, balanced=False, fast=False))
    assert len(images) == len(lines) == 1


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
