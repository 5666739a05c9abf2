"""Acceleration over the transformer without a host: laws that hold for any weights."""

import weakref
from itertools import pairwise

import pytest
import torch
from small_run import GRID, LONG, SIGMAS, TARGET, TEXT, TINY, conditions, noise, plain, random_model, vanilla
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from kontext_core.acceleration.active import edited_tokens, worthwhile
from kontext_core.acceleration.control import Control
from kontext_core.acceleration.forecast import Velocities, rms
from kontext_core.acceleration.modulation import ModulationTable
from kontext_core.acceleration.run import Run
from kontext_core.acceleration.settings import FIDELITIES, PRESETS, Settings, calibration, tolerance
from kontext_core.acceleration.stream import Inputs, Stream, arithmetic
from kontext_core.geometry import Geometry
from kontext_core.schedule import Part
from kontext_core.transformer import KontextTransformer, conditioning_vector

ANY = Settings(fidelity=0.0)  # accepts any error, so that as little as possible is computed


@pytest.fixture(scope="module")
def model() -> KontextTransformer:
    return random_model(0.05)


def sample(run: Run, model: KontextTransformer, inputs: Inputs, x: torch.Tensor) -> torch.Tensor:
    """Euler's method."""
    for sigma, following in zip(run.sigmas, run.sigmas[1:], strict=False):
        x = x + (following - sigma) * run.step(x, sigma, lambda x, sigma: run.evaluate("one", model, inputs, x))
    return x


def sample_vanilla(model: KontextTransformer, inputs: Inputs, x: torch.Tensor) -> torch.Tensor:
    for sigma, following in zip(SIGMAS, SIGMAS[1:], strict=False):
        x = x + (following - sigma) * vanilla(model, inputs, x, sigma)
    return x


def rows_of(inputs: Inputs, row: int) -> Inputs:
    one = slice(row, row + 1)
    references = [reference[one] for reference in inputs.references]
    assert inputs.y is not None and inputs.guidance is not None
    return inputs._replace(txt=inputs.txt[one], y=inputs.y[one], guidance=inputs.guidance[one], references=references)


# Modulation


@pytest.mark.parametrize("rows", [slice(None), slice(0, None, 2), slice(2, 3)], ids=str)
@pytest.mark.parametrize("alike", [True, False], ids=["equal rows", "own rows"])
def test_the_table_is_what_the_layers_give(model, alike, rows):
    y, guidance = noise(4, 32), torch.tensor([1.0, 2.0, 2.0, 4.0])
    if alike:
        y, guidance = y[:1].repeat(4, 1), guidance[:1].repeat(4)
    table = ModulationTable(model, SIGMAS[:-1], y, guidance, like=torch.empty(4, 0))
    assert table.rows == (1 if alike else 4)
    for sigma in SIGMAS[:-1]:
        modulation = table.at(sigma, rows)
        vec = conditioning_vector(model, torch.full((4,), sigma), y, guidance, like=torch.empty(4, 0))[rows]
        for module in (model.double_blocks[1].img_mod, model.single_blocks[0].modulation):
            for mine, theirs in zip(modulation(module), module(vec), strict=True):
                for a, b in zip(mine or (), theirs or (), strict=True):
                    torch.testing.assert_close(a.expand_as(b), b, atol=1e-5, rtol=0)
        last = model.final_layer.adaLN_modulation
        torch.testing.assert_close(modulation(last).expand(len(vec), -1), last(vec), atol=1e-5, rtol=0)


def test_a_layer_is_called_once_a_run_and_a_sigma_off_the_schedule_is_a_miss(model):
    calls = []
    handle = model.double_blocks[0].img_mod.register_forward_hook(lambda *_: calls.append(1))
    sample(Run(Settings(), SIGMAS), model, conditions(), noise(1, TARGET, 64))
    handle.remove()
    assert len(calls) == 1
    assert ModulationTable(model, SIGMAS[:-1], None, None, like=torch.empty(2, 0)).at(0.123) is None


# Everything computed


EVERYTHING = {
    "defaults": Settings(),
    "as many computed as steps": Settings(most=8),
    "every step named": Settings(steps=tuple(range(8))),
}


@pytest.mark.parametrize("references", [0, 1, 2])
@pytest.mark.parametrize("settings", EVERYTHING.values(), ids=EVERYTHING)
def test_settings_that_compute_everything_are_the_model_itself(model, settings, references):
    inputs, x = conditions(2, references), noise(2, TARGET, 64)
    run = Run(settings, SIGMAS)
    torch.testing.assert_close(sample(run, model, inputs, x), sample_vanilla(model, inputs, x), atol=1e-5, rtol=0)
    assert run.kinds == {"full": 8} and run.control.expected() is None


def test_a_tolerance_of_nothing_computes_every_step_and_follows_what_it_was_given():
    control = Control(PRESETS["quality"], LONG)
    control.tolerance, velocity = 0.0, torch.ones(1, TARGET, 64)  # even where a forecast would be exact
    for step in range(28):
        assert control.computes(step)
        assert control.step(step, torch.zeros(1, TARGET, 64), lambda step, x: velocity) is velocity


# Decisions


def integrate(control: Control, flow, x: torch.Tensor) -> tuple[torch.Tensor, list[int]]:
    """Euler's method with a flow (x, sigma) -> velocity; the final state and the computed steps."""
    computed = []

    def ask(step, x):
        computed.append(step)
        return flow(x, control.sigmas[step])

    for step, (sigma, following) in enumerate(zip(control.sigmas, control.sigmas[1:], strict=False)):
        x = x + (following - sigma) * control.step(step, x, ask)
    return x, computed


def straight(x, sigma):
    """Every state lies on a line to the same picture."""
    return (x - noise(*x.shape, seed=3)) / sigma


def with_a_bend_at(middle):
    """Two constant velocities with a smooth transition between them."""
    before, after = noise(1, TARGET, 64, seed=4), noise(1, TARGET, 64, seed=5)

    def flow(x, sigma):
        share = torch.sigmoid(torch.tensor((middle - sigma) / 0.08))
        return (before + share * (after - before)).expand_as(x)

    return flow


def euler(flow, x, sigmas=LONG):
    for sigma, following in zip(sigmas, sigmas[1:], strict=False):
        x = x + (following - sigma) * flow(x, sigma)
    return x


@pytest.mark.parametrize("preset", ["quality", "balanced", "fast"])
def test_a_straight_flow_is_computed_three_times(preset):
    x = noise(1, TARGET, 64)
    end, computed = integrate(Control(PRESETS[preset], LONG), straight, x)
    assert len(computed) <= 3
    torch.testing.assert_close(end, euler(straight, x), atol=1e-4, rtol=0)


@pytest.mark.parametrize("preset", ["quality", "balanced", "fast"])
@pytest.mark.parametrize("middle", [0.85, 0.65, 0.45])
def test_a_flow_with_one_bend_ends_as_near_as_the_preset_says(preset, middle):
    """The error at the end is at most the one whose expected PSNR is the preset's."""
    x, line = noise(1, TARGET, 64), calibration()["decibels"]
    allowed = 10 ** ((FIDELITIES[preset] - line["at_one"]) / line["slope"])
    end, computed = integrate(Control(PRESETS[preset], LONG), with_a_bend_at(middle), x)
    assert rms(end - euler(with_a_bend_at(middle), x)).item() < allowed
    assert len(computed) < 20


@pytest.mark.parametrize(
    ("preset", "middle"), [("quality", 0.85), ("quality", 0.65), ("quality", 0.45), ("balanced", 0.65)]
)
def test_a_flow_with_one_bend_is_computed_at_the_bend(preset, middle):
    x = noise(1, TARGET, 64)
    flow = with_a_bend_at(middle)
    _, computed = integrate(Control(PRESETS[preset], LONG), flow, x)
    near = {step for step in computed if abs(LONG[step] - middle) < 0.15}
    straight_on = integrate(Control(PRESETS[preset], LONG), straight, x)[1]
    assert len(near) > len([step for step in straight_on if abs(LONG[step] - middle) < 0.15])
    assert len(near) >= 2 and len(computed) < 20


def wave(frequency):
    """A velocity that changes direction all the time."""
    return lambda x, sigma: noise(*x.shape, seed=6) * torch.cos(torch.tensor(frequency * sigma))


def test_more_is_computed_for_more_fidelity_and_for_more_bends():
    """Faster waves than these pass unseen between two computed steps of a wide gap, or not, by chance."""
    x = noise(1, TARGET, 64)
    counts = {
        (name, frequency): len(integrate(Control(PRESETS[name], LONG), wave(frequency), x)[1])
        for name in ("quality", "balanced", "fast")
        for frequency in (1, 2, 4, 8)
    }
    for frequency in (1, 2, 4, 8):
        assert counts["quality", frequency] >= counts["balanced", frequency] >= counts["fast", frequency]
    assert counts["fast", 1] < counts["fast", 8] and counts["quality", 4] > counts["fast", 4]


@pytest.mark.parametrize("preset", ["quality", "balanced", "fast"])
@pytest.mark.parametrize("frequency", [4, 10])
def test_the_worst_picture_of_a_batch_decides(preset, frequency):
    """Beside a picture whose flow is straight, one whose flow bends is computed in the same steps as alone."""
    x, bent = noise(2, TARGET, 64), wave(frequency)

    def both(x, sigma):
        return torch.cat((straight(x, sigma)[:1], bent(x[1:], sigma)))

    end, computed = integrate(Control(PRESETS[preset], LONG), both, x)
    alone, at = integrate(Control(PRESETS[preset], LONG), bent, x[1:])
    assert set(computed) == set(at)
    errors = [(a - euler(both, x)[1:]).square().mean() for a in (end[1:], alone)]
    assert errors[0] <= errors[1] * (1 + 1e-4)


def test_a_forecast_gap_is_mended_when_the_next_velocity_is_known():
    """A velocity that is a parabola in sigma: three computed steps determine it, and the gap before stays exact."""
    start, slope, bend = (noise(1, TARGET, 64, seed=seed) for seed in (7, 8, 9))
    flow = lambda x, sigma: start + slope * sigma + bend * sigma**2  # noqa: E731
    x = noise(1, TARGET, 64)
    control = Control(Settings(steps=(0, 3, 6, *range(7, 28))), LONG)
    end, computed = integrate(control, flow, x)
    first = torch.zeros_like(x)  # the error of the first gap: there the parabola was not yet known
    for step in range(3):
        line = Velocities([(LONG[place], flow(x, LONG[place])) for place in (0, 3)])
        first += (LONG[step + 1] - LONG[step]) * (line.at(LONG[step], 1) - flow(x, LONG[step]))
    torch.testing.assert_close(end, euler(flow, x) + first, atol=1e-4, rtol=0)
    assert computed == [0, 3, 6, *range(7, 28)]


def test_named_steps_and_a_limit_are_kept():
    x = noise(1, TARGET, 64)
    assert integrate(Control(Settings(steps=(0, 2, 9)), LONG), wave(4), x)[1] == [0, 2, 9]
    assert len(integrate(Control(Settings(fidelity=40, most=5), LONG), wave(10), x)[1]) == 5
    assert integrate(Control(Settings(most=2), LONG), wave(4), x)[1] == [0, 1]


# A part of a run, as a sampler node gets it where others have the rest


def of_parts(settings, flow, x, *cuts, sigmas=LONG):
    """Each part on its own from where the one before ended; the state at the end, and the steps that were computed."""
    computed = []
    for start, end in pairwise((0, *cuts, len(sigmas) - 1)):
        control = Control(settings, sigmas[start : end + 1], Part(start, len(sigmas) - 1))
        x, asked = integrate(control, flow, x)
        computed += [start + step for step in asked]
    return x, computed


CUTS = [(14,), (7, 20), (1, 27), (10, 12)]


@pytest.mark.parametrize("cuts", CUTS)
@pytest.mark.parametrize("preset", ["quality", "balanced", "fast"])
def test_parts_compute_where_nothing_is_known_and_where_nobody_mends(preset, cuts):
    """The first two steps of a later part, and the last one of all but the last part."""
    _, computed = of_parts(PRESETS[preset], straight, noise(1, TARGET, 64), *cuts)
    for cut, end in pairwise((*cuts, 28)):
        assert {cut - 1, cut, min(cut + 1, end - 1)} <= set(computed)
    assert len(computed) < 28


@pytest.mark.parametrize("cuts", CUTS)
@pytest.mark.parametrize("preset", ["quality", "balanced", "fast"])
@pytest.mark.parametrize("flow", [wave(1), wave(2), with_a_bend_at(0.85)], ids=["slow", "faster", "a bend"])
def test_a_run_in_parts_is_no_less_exact_than_its_tolerance(preset, cuts, flow):
    """Each part stays within the tolerance of the whole run, because no gap is left unmended at a cut."""
    x = noise(1, TARGET, 64)
    exact = euler(flow, x)
    whole, parts = (of_parts(PRESETS[preset], flow, x, *given)[0] for given in ((), cuts))
    errors = [(end - exact).square().mean().sqrt() for end in (whole, parts)]
    assert errors[1] <= max(errors[0], (len(cuts) + 1) ** 0.5 * tolerance(PRESETS[preset].fidelity))


def test_a_gap_may_be_half_of_the_whole_run_also_in_a_part():
    assert of_parts(ANY, straight, noise(1, TARGET, 64), 12)[1] == [0, 2, 11, 12, 13, 27]


def test_what_is_expected_falls_with_what_forecasts_have_moved():
    x = noise(1, TARGET, 64)
    found = []
    for frequency in (2, 6, 10):
        control = Control(Settings(steps=(0, 1, 7, 14, 21)), LONG)
        integrate(control, wave(frequency), x)
        found.append(control.expected())
    assert all(one.low < one.decibels < one.high for one in found)
    assert [one.decibels for one in found] == sorted((one.decibels for one in found), reverse=True)


class Operations(TorchDispatchMode):
    """Counts the elements of operations' outputs."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.count += result.numel()
        return result


def test_deciding_costs_less_than_a_hundredth_of_a_step():
    """At 1024 tokens and the embedded model's size: operations outside the model, relative to one evaluation."""
    x = noise(1, 1024, 64)
    flow = wave(4)
    with Operations() as given:
        for sigma in LONG[:-1]:
            flow(x, sigma)
    with Operations() as decided:
        integrate(Control(PRESETS["quality"], LONG), flow, x)
    embedded = Geometry(
        hidden_size=384, num_heads=3, depth=3, depth_single_blocks=6, context_in_dim=128, vec_in_dim=128
    )
    assert decided.count - given.count < 28 * 0.01 * arithmetic(embedded, 20 + 1024 + 1024)


def test_a_step_out_of_order_is_computed_and_nothing_before_it_counts():
    run, x, asked = Run(ANY, LONG), noise(1, TARGET, 64), []

    def model(x, sigma):
        run.left_out(TINY, 1, 60)
        asked.append(sigma)
        return straight(x, sigma)

    for sigma in (LONG[0], LONG[1], LONG[2], LONG[9], LONG[9], LONG[9] - 0.001, LONG[10]):
        run.step(x, sigma, model)
    assert asked == [LONG[0], LONG[2], LONG[9], LONG[9], LONG[9] - 0.001, LONG[10]]
    assert "6 answered by another node" in run.report()


def test_a_step_that_another_node_answered_is_counted_and_not_learned_from():
    run, x, asked = Run(ANY, LONG), noise(1, TARGET, 64), []

    def model(x, sigma):
        asked.append(sigma)
        return straight(x, sigma)

    for sigma in LONG[:4]:
        run.step(x, sigma, model)
    assert asked == LONG[:4]
    assert "4 steps: none computed here, 4 answered by another node" in run.report()


# KV cache


def test_a_cached_step_at_the_same_state_is_a_full_step(model):
    inputs, x = conditions(2, references=2), noise(2, TARGET, 64)
    stream = Stream(model, inputs, x, SIGMAS[:-1], None)
    full, _ = stream.velocity(x, SIGMAS[0], "full", True, None, plain)
    cached, kind = stream.velocity(x, SIGMAS[0], "cached", False, None, plain)
    assert kind == "cached"
    torch.testing.assert_close(cached, full, atol=1e-5, rtol=0)
    elsewhere, _ = stream.velocity(x, SIGMAS[5], "cached", False, None, plain)
    assert (elsewhere - vanilla(model, inputs, x, SIGMAS[5])).abs().max() > 1e-3  # cached keys become stale


MASKS = {
    "all": torch.ones(2, TARGET, dtype=torch.bool),
    "some": noise(2, TARGET) > 0.3,
    "of one alone": torch.stack((noise(TARGET) > 0, torch.ones(TARGET, dtype=torch.bool))),
}


@pytest.mark.parametrize("chunks", [1, 2], ids=["one conditioning", "positive and negative"])
@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_a_step_of_active_tokens_at_the_same_state_is_a_full_step(model, mask, chunks):
    inputs, x = conditions(2 * chunks), noise(2, TARGET, 64).repeat(chunks, 1, 1)
    stream = Stream(model, inputs, x, SIGMAS[:-1], None)
    full, _ = stream.velocity(x, SIGMAS[0], "full", True, None, plain)
    stream.before = torch.zeros_like(full)
    active, kind = stream.velocity(x, SIGMAS[0], "active", False, mask, plain)
    assert kind == "active"
    torch.testing.assert_close(active, full * mask.repeat(chunks, 1)[..., None], atol=1e-5, rtol=0)


def test_half_precision_keeps_half_the_bytes_and_nearly_the_numbers(model):
    inputs, x = conditions(), noise(1, TARGET, 64)
    results, sizes = [], []
    for dtype in (None, torch.float16):
        stream = Stream(model, inputs, x, SIGMAS[:-1], dtype)
        stream.velocity(x, SIGMAS[0], "full", True, None, plain)
        results.append(stream.velocity(x, SIGMAS[1], "cached", False, None, plain)[0])
        kept = (stream.references, stream.target_kept)
        sizes.append(sum(part.nbytes for one in kept for pair in one.blocks for part in pair))
    assert sizes == [stream.keeps_bytes(4), stream.keeps_bytes(2)]
    torch.testing.assert_close(*results, atol=1e-2, rtol=0)


@pytest.fixture(scope="module")
def calm() -> KontextTransformer:
    """Weights so small that the cache is as good as new."""
    return random_model(0.004)


def looked(run: Run, model: KontextTransformer, inputs: Inputs, x: torch.Tensor, every: int) -> Run:
    """A run with gaps of `every` steps: with so few computed steps, testing the shortcuts pays off."""
    control = run.control
    decide = control._decide

    def even(step):
        decide(step)
        control.next = step + every

    control._decide = even
    sample(run, model, inputs, x)
    return run


@pytest.mark.parametrize("references", [1, 3])
def test_references_are_kept_where_a_look_finds_them_near_enough(calm, references):
    run = looked(Run(PRESETS["fast"], LONG), calm, conditions(references=references), noise(1, TARGET, 64), 2)
    assert run.kinds["cached"] + run.kinds["active"] >= 5 and run.kinds["full"] >= 3
    assert "to test cached references: used here" in run.report()


def test_and_computed_where_it_finds_them_far_off(model):
    run = Run(PRESETS["quality"], LONG)
    run.control.tolerance = 1e-7  # random weights hardly attend to the references
    looked(run, model, conditions(), noise(1, TARGET, 64), 2)
    assert run.kinds["cached"] == run.kinds["active"] == 0
    assert "to test cached references: too inexact, not used" in run.report()


NEVER = {
    "no reference": (PRESETS["fast"], 0),
    "no room": (Settings(fidelity=28, cache_gigabytes=0), 2),
    "named steps": (Settings(steps=(0, 1, 5, 9, 20)), 2),
}


@pytest.mark.parametrize(("settings", "references"), NEVER.values(), ids=NEVER)
def test_nothing_is_kept_without_a_reference_a_tolerance_and_room(calm, settings, references):
    run = Run(settings, LONG)
    sample(run, calm, conditions(references=references), noise(1, TARGET, 64))
    assert not run._looked and set(run.kinds) <= {"full", "forecast"}
    assert any("cache_gb" in note for note in run.notes) == (settings.cache_gigabytes == 0)


def test_a_conditioning_that_comes_late_and_finds_no_room_ends_the_caches(calm):
    """As with cfg that starts within the run: only then both are evaluated together."""
    one, both = conditions(references=3), conditions(batch=2, references=3)
    need = Stream(calm, one, noise(1, TARGET, 64), LONG[:-1], None).keeps_bytes(4)
    run, x = Run(Settings(fidelity=28, cache_gigabytes=1.5 * need / 1e9), LONG), noise(1, TARGET, 64)

    def velocity(x, sigma):
        late = run._step >= 14
        return run.evaluate(late, calm, both if late else one, x.repeat(2, 1, 1) if late else x)[:1]

    for sigma, following in pairwise(LONG):
        x = x + (following - sigma) * run.step(x, sigma, velocity)
    assert any("KV cache needs" in note for note in run.notes)
    assert all(stream.references is None for stream in run.streams.values())
    assert set(kind for step, kind in run.done.items() if step >= 15) <= {"full", "forecast"}


def test_an_expectation_outlives_the_tensors_of_its_run(model):
    run = Run(PRESETS["fast"], LONG)
    sample(run, model, conditions(), noise(1, TARGET, 64))
    expected = run.control.expected()
    run.close()
    assert expected is not None and run.control.expected() == expected and not len(run.control._seen.velocities)


def test_a_run_that_another_node_has_shortened_does_not_say_that_all_was_computed(model):
    run, x = Run(Settings(fidelity=400.0), LONG), noise(1, TARGET, 64)
    for sigma in LONG[:-1:2]:
        run.step(x, sigma, lambda x, sigma: run.evaluate("one", model, conditions(), x))
    assert "answered by another node" in run.report() and "every step was computed" not in run.report()


def test_a_run_of_many_steps_has_a_table_of_the_first(model, monkeypatch):
    monkeypatch.setattr("kontext_core.acceleration.run.MOST_TABLED", 5)
    inputs, x = conditions(), noise(1, TARGET, 64)
    run = Run(Settings(), SIGMAS)
    torch.testing.assert_close(sample(run, model, inputs, x), sample_vanilla(model, inputs, x), atol=1e-5, rtol=0)
    assert [run.streams["one"].table.at(sigma) is not None for sigma in SIGMAS[:-1]] == [True] * 5 + [False] * 3


def test_a_conditioning_that_changes_is_seen(model):
    inputs, x = conditions(), noise(1, TARGET, 64)
    run = Run(Settings(), SIGMAS)
    assert not run.changed("one", inputs)
    run.step(x, SIGMAS[0], lambda x, sigma: run.evaluate("one", model, inputs, x))
    assert not run.changed("one", conditions()) and run.changed("one", conditions(seed=2))
    inputs.txt.add_(1)  # in place, as another node may do
    assert run.changed("one", inputs)


# Regions


def test_active_tokens_are_what_differs_and_a_margin():
    reference = noise(2, TARGET, 64)
    estimate = reference * torch.linspace(0.5, 2, TARGET)[None, :, None]  # only directions count, not lengths
    estimate[0, 8] = noise(64, seed=5)  # row 1, column 2 of 4 x 6
    mask = edited_tokens(estimate, reference, GRID).unflatten(1, GRID)
    expected = torch.zeros(2, *GRID, dtype=torch.bool)
    expected[0, 0:3, 1:4] = True
    assert torch.equal(mask, expected)
    assert worthwhile(mask.flatten(1)).tolist() == [True, False]  # the second has no edit
    assert worthwhile(torch.arange(10)[None] < torch.tensor([[6], [7]])).tolist() == [True, False]


def test_on_large_grids_specks_do_not_count():
    grid = (32, 40)
    reference = noise(1, 32 * 40, 64)
    estimate = reference.unflatten(1, grid).clone()
    estimate[0, 5, 5] = noise(64, seed=5)
    estimate[0, 20:23, 10:13] = noise(3, 3, 64, seed=6)
    mask = edited_tokens(estimate.flatten(1, 2), reference, grid).unflatten(1, grid)
    assert not mask[0, :10].any()
    assert torch.equal(mask[0].nonzero().amin(0), torch.tensor([19, 9]))  # the middle remains, and two tokens around it
    assert mask[0].sum() == 25


# State


def test_runs_do_not_know_of_each_other(model):
    first, second = ((conditions(seed=seed), noise(1, TARGET, 64, seed=seed)) for seed in (1, 50))
    alone = sample(Run(PRESETS["fast"], LONG), model, *second)
    sample(Run(PRESETS["fast"], LONG), model, *first)
    assert torch.equal(sample(Run(PRESETS["fast"], LONG), model, *second), alone)


def test_a_run_leaves_nothing_behind(model):
    before = {name: set(vars(module)) for name, module in model.named_modules()}
    run = Run(PRESETS["fast"], LONG)
    sample(run, model, conditions(), noise(1, TARGET, 64))
    stream = weakref.ref(run.streams["one"])
    run.close()
    assert stream() is None
    assert {name: set(vars(module)) for name, module in model.named_modules()} == before


# Arithmetic


@pytest.mark.parametrize("kind", ["full", "cached", "active"])
def test_arithmetic_is_what_torch_counts_but_for_the_ends(kind):
    """At a size where the blocks dominate; the last block skips the references."""
    geometry = Geometry(hidden_size=512, num_heads=4, depth=4, depth_single_blocks=8, context_in_dim=48, vec_in_dim=32)
    model = KontextTransformer(geometry).eval().requires_grad_(False)
    inputs, x = conditions(2), noise(2, TARGET, 64)
    stream = Stream(model, inputs, x, SIGMAS[:-1], None)
    stream.velocity(x, SIGMAS[0], "full", True, None, plain)
    mask = (torch.arange(TARGET) < 6).repeat(2, 1)
    with FlopCounterMode(display=False) as counter:
        stream.velocity(x, SIGMAS[0], kind, False, mask, plain)
    assert counter.get_total_flops() == pytest.approx(stream.arithmetic(kind, 6 / TARGET), rel=0.06)


def test_the_report_counts_kinds_and_arithmetic(model):
    run = Run(Settings(steps=(0, 1, 2, 9)), LONG)
    sample(run, model, conditions(), noise(1, TARGET, 64))
    assert run.kinds == {"full": 4, "forecast": 24}
    assert run.report().startswith("28 steps: 4 full, 24 forecast\nabout 14% of the arithmetic\n")
    assert " dB to the full run expected, " in run.report()


def test_where_every_step_had_to_be_computed_the_report_says_so():
    run = Run(PRESETS["quality"], SIGMAS)

    def model(x, sigma):
        run.left_out(TINY, 1, TEXT + 2 * TARGET)
        return noise(1, TARGET, 64, seed=round(1000 * sigma))

    for sigma in SIGMAS[:-1]:
        run.step(noise(1, TARGET, 64), sigma, model)
    assert "8 steps: 8 full" in run.report() and "every step was computed: forecasts would have" in run.report()


def test_a_step_that_was_computed_twice_is_in_the_report():
    run = Run(Settings(fidelity=50), LONG)
    flow = lambda x, sigma: noise(1, TARGET, 64, seed=4 if sigma > 0.75 else 5)  # noqa: E731

    def model(x, sigma):
        run.left_out(TINY, 1, TEXT + 2 * TARGET)
        return flow(x, sigma)

    x = noise(1, TARGET, 64)
    for sigma, following in zip(LONG, LONG[1:], strict=False):
        x = x + (following - sigma) * run.step(x, sigma, model)
    assert "computed a second time, where the flow bent" in run.report()
    assert run.asked > len(run.done) - run.kinds["forecast"]
