"""Acceleration over the transformer standing alone: laws that hold for any weights."""

import weakref
from itertools import pairwise

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from kontext_core.acceleration import cost
from kontext_core.acceleration.forecast import Forecast
from kontext_core.acceleration.modulation import ModulationTable
from kontext_core.acceleration.plan import PRESETS, Settings, computed_steps, describe, make_plan
from kontext_core.acceleration.regions import edited_tokens, worthwhile
from kontext_core.acceleration.run import Run
from kontext_core.acceleration.stream import Inputs
from kontext_core.geometry import Geometry
from kontext_core.schedule import flow_sigmas
from kontext_core.tokens import place_references, position_ids
from kontext_core.transformer import KontextTransformer, conditioning_vector

TINY = Geometry(hidden_size=256, num_heads=2, depth=2, depth_single_blocks=2, context_in_dim=48, vec_in_dim=32)
GRID, TEXT = (4, 6), 5  # tokens of the target, and of the text
TARGET = GRID[0] * GRID[1]
SIGMAS = flow_sigmas(8, TARGET).tolist()


@pytest.fixture(scope="module")
def model() -> KontextTransformer:
    torch.manual_seed(0)
    model = KontextTransformer(TINY).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.normal_(std=0.05)
    return model


def noise(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def conditions(batch: int = 1, references: int = 1, seed: int = 1, size: tuple[int, int] = GRID) -> Inputs:
    """Every row of the batch has a text and references of its own."""
    grids = [GRID, *[size] * references]
    latents = [(2 * rows, 2 * columns) for rows, columns in grids]
    places = place_references(latents[1:], latents[0])
    ids = [position_ids(*latents[0])]
    ids += [position_ids(*latent, *place) for latent, place in zip(latents[1:], places, strict=True)]
    return Inputs(
        txt=noise(batch, TEXT, 48, seed=seed),
        y=noise(batch, 32, seed=seed + 1),
        guidance=torch.full((batch,), 2.5),
        references=[noise(batch, rows * columns, 64, seed=seed + 2 + i) for i, (rows, columns) in enumerate(grids[1:])],
        grids=grids,
        ids=torch.cat(ids)[None],
    )


def vanilla(model: KontextTransformer, inputs: Inputs, x: torch.Tensor, sigma: float, **options) -> torch.Tensor:
    img = torch.cat((x, *inputs.references), dim=1)
    txt_ids = torch.zeros(1, TEXT, 3)
    times = torch.full((len(x),), sigma)
    return model(img, inputs.ids, inputs.txt, txt_ids, times, inputs.y, inputs.guidance, **options)[:, : x.shape[1]]


def sample(run: Run, model: KontextTransformer, inputs: Inputs, x: torch.Tensor) -> torch.Tensor:
    """Euler's method."""
    for sigma, following in zip(run.sigmas, run.sigmas[1:], strict=False):
        if run.begin(sigma).kind == "forecast":
            velocity = run.forecast()
        else:
            velocity = run.finish(x, run.evaluate("one", model, lambda: inputs, x))
        x = x + (following - sigma) * velocity
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


# Plans that leave nothing out


EVERYTHING = {
    "defaults": Settings(),
    "as many computed as steps": Settings(computed=8),
    "more computed than steps": Settings(computed=99),
    "references anew in every step": Settings(refresh=1, warmup=1),
    "references kept from the last step on": Settings(refresh=0, warmup=1, keep_from=8),
    "no room to keep anything": Settings(refresh=0, warmup=1, cache_gigabytes=0),
}


@pytest.mark.parametrize("references", [0, 1, 2])
@pytest.mark.parametrize("settings", EVERYTHING.values(), ids=EVERYTHING)
def test_a_plan_that_computes_everything_is_the_model_itself(model, settings, references):
    inputs, x = conditions(2, references), noise(2, TARGET, 64)
    run = Run(settings, SIGMAS)
    expected = sample_vanilla(model, inputs, x)
    torch.testing.assert_close(sample(run, model, inputs, x), expected, atol=1e-5, rtol=0)
    assert run.kinds == {"full": 8}


def test_what_does_not_fit_is_said_once():
    run = Run(Settings(refresh=0, cache_gigabytes=1e-6), SIGMAS)
    tree = KontextTransformer(TINY)
    sample(run, tree, conditions(), noise(1, TARGET, 64))
    (note,) = run.notes
    assert "references" in note and "cache_gb" in note


def test_where_references_do_not_fit_there_are_no_regions_either(model):
    """Two references need more than the target, which alone would fit."""
    inputs, x = conditions(references=2), noise(1, TARGET, 64)
    target = 2 * 4 * TARGET * 256 * 4
    run = Run(Settings(refresh=0, warmup=1, cache_gigabytes=1.5 * target / 1000**3), SIGMAS)
    torch.testing.assert_close(sample(run, model, inputs, x), sample_vanilla(model, inputs, x), atol=1e-5, rtol=0)
    run.mask = torch.ones(1, TARGET, dtype=torch.bool)
    assert run.streams["one"].possible("region", run.mask) == "full"


# What is left out, where leaving it out changes nothing


def test_a_cached_step_at_the_same_state_is_a_full_step(model):
    inputs, x = conditions(2, references=2), noise(2, TARGET, 64)
    run = Run(Settings(refresh=0), SIGMAS)
    run.begin(SIGMAS[0])
    full = run.evaluate("one", model, lambda: inputs, x)
    stream = run.streams["one"]
    cached, kind = stream.velocity(x, SIGMAS[0], run.plan[1], None, plain)
    assert kind == run.plan[1].kind == "cached"
    torch.testing.assert_close(cached, full, atol=1e-5, rtol=0)
    elsewhere, _ = stream.velocity(x, SIGMAS[5], run.plan[1], None, plain)
    assert (elsewhere - vanilla(model, inputs, x, SIGMAS[5])).abs().max() > 1e-3  # kept keys grow stale


def plain(q, k, v):
    """Attention in two products, which torch counts on every device."""
    weights = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1)
    return (weights @ v).transpose(1, 2).flatten(2)


MASKS = {
    "all": torch.ones(2, TARGET, dtype=torch.bool),
    "some": noise(2, TARGET) > 0.3,
    "of one alone": torch.stack((noise(TARGET) > 0, torch.ones(TARGET, dtype=torch.bool))),
}


@pytest.mark.parametrize("chunks", [1, 2], ids=["one conditioning", "positive and negative"])
@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_a_region_step_at_the_same_state_is_a_full_step(model, mask, chunks):
    inputs, x = conditions(2 * chunks), noise(2, TARGET, 64).repeat(chunks, 1, 1)
    run = Run(Settings(refresh=0, warmup=1), SIGMAS)
    run.begin(SIGMAS[0])
    full = run.evaluate("one", model, lambda: inputs, x)
    stream, step = run.streams["one"], run.plan[1]
    stream.before = torch.zeros_like(full)
    region, kind = stream.velocity(x, SIGMAS[0], step, mask, plain)
    assert kind == step.kind == "region"
    expected = full * mask.repeat(chunks, 1)[..., None]
    torch.testing.assert_close(region, expected, atol=1e-5, rtol=0)


def test_half_precision_keeps_half_the_bytes_and_nearly_the_numbers(model):
    inputs, x = conditions(), noise(1, TARGET, 64)
    results, sizes = [], []
    for half in (False, True):
        run = Run(Settings(refresh=0, half_precision=half), SIGMAS)
        results.append(sample(run, model, inputs, x))
        kept = run.streams["one"].references
        sizes.append(sum(part.nbytes for pair in kept.blocks for part in pair))
    assert sizes == [2 * 4 * TARGET * 256 * 4, 2 * 4 * TARGET * 256 * 2]
    torch.testing.assert_close(*results, atol=1e-2, rtol=0)


# Forecasts


@pytest.mark.parametrize("order", [0, 1, 2])
def test_a_forecast_is_exact_for_a_polynomial_of_its_order_and_no_further(order):
    def polynomial(degree, sigma):
        return noise(3, seed=degree) * sigma**degree + 1

    forecast = Forecast(order)
    off = Forecast(order)
    for sigma in (0.9, 0.8, 0.55, 0.4):
        forecast.add(sigma, polynomial(order, sigma))
        off.add(sigma, polynomial(order + 1, sigma))
    torch.testing.assert_close(forecast.at(0.3), polynomial(order, 0.3), atol=1e-5, rtol=0)
    assert (off.at(0.3) - polynomial(order + 1, 0.3)).abs().max() > 1e-4


def test_an_order_between_two_is_their_mixture():
    forecasts = {order: Forecast(order) for order in (0, 0.4, 1, 1.5, 2)}
    for seed, sigma in enumerate((0.9, 0.8, 0.55, 0.4)):
        for forecast in forecasts.values():
            forecast.add(sigma, noise(3, seed=seed))
    at = {order: forecast.at(0.3) for order, forecast in forecasts.items()}
    torch.testing.assert_close(at[0.4], 0.6 * at[0] + 0.4 * at[1])
    torch.testing.assert_close(at[1.5], 0.5 * at[1] + 0.5 * at[2])


def test_forecasts_of_a_constant_velocity_lead_where_every_step_would(model):
    x, velocity = noise(1, TARGET, 64), noise(1, TARGET, 64, seed=9)
    run = Run(Settings(computed=3), SIGMAS)
    end = x
    for sigma, following in zip(SIGMAS, SIGMAS[1:], strict=False):
        step = run.begin(sigma)
        run.did(step.kind)
        end = end + (following - sigma) * (run.forecast() if step.kind == "forecast" else run.finish(end, velocity))
    torch.testing.assert_close(end, x - velocity, atol=1e-5, rtol=0)
    assert run.kinds == {"full": 3, "forecast": 5}


# Plans


PLANS = {
    "everything": (Settings(), "FFFFFFFF"),
    "references once": (Settings(refresh=0), "FCCCCCCC"),
    "references every third": (Settings(refresh=3), "FCCFCCFC"),
    "references kept from the third on": (Settings(refresh=0, keep_from=3), "FFFCCCCC"),
    "kept from the second, every third": (Settings(refresh=3, keep_from=2), "FFCCFCCF"),
    "kept after the regions could begin": (Settings(refresh=0, warmup=2, keep_from=4), "FFFFRCRC"),
    "half of the steps": (Settings(computed=4), "F..F.F.F"),
    "one step": (Settings(computed=1), "F......."),
    "regions": (Settings(refresh=0, warmup=2), "FCRRRCRC"),
    "regions from the first step": (Settings(refresh=0, warmup=0, smooth=0), "FRRRCRRR"),
    "regions, renewed and smoothed": (Settings(refresh=0, warmup=2, region_refresh=2, smooth=2), "FCRCRCCC"),
    "all of it": (Settings(computed=5, refresh=0, warmup=1), "F.R.R.RC"),
}


@pytest.mark.parametrize(("settings", "kinds"), PLANS.values(), ids=PLANS)
def test_plans(settings, kinds):
    letters = {"full": "F", "cached": "C", "region": "R", "forecast": "."}
    plan = make_plan(8, settings)
    assert "".join(letters[step.kind] for step in plan) == kinds
    computed = [step for step in plan if step.kind != "forecast"]
    for step, following in zip(computed, [*computed[1:], None], strict=True):
        then = following.kind if following else None
        assert step.keep_target == (step.kind != "region" and then == "region")
        assert step.keep_references == (step.kind == "full" and then in ("cached", "region"))


@pytest.mark.parametrize(
    ("weight", "kinds"),
    [(0, "FFFFFFFF"), (0.4, "FFFFFFFF"), (1, "FFFFFFFF"), (2, "FFFFFFFF"), (2.9, "FCCFCCFC"), (4, "FCCCFCCC")],
)
def test_an_open_refresh_computes_references_the_more_seldom_the_larger_they_are(weight, kinds):
    plan = make_plan(8, Settings(refresh=None), weight)
    assert "".join(step.kind[0].upper() for step in plan) == kinds
    assert Settings(refresh=None).keeps(weight) == ("C" in kinds)


@pytest.mark.parametrize(("preset", "times"), [("exact", 1), ("quality", 2.8), ("balanced", 4), ("fast", 5.5)])
def test_at_the_real_size_a_preset_saves_so_much_arithmetic(preset, times):
    text, target = 512, 4096
    step = cost.step_flops(Geometry(), 1, text, target, target, 0)
    once = cost.constants_flops(Geometry(), 1, text, target)
    plan = [one.kind for one in make_plan(28, PRESETS[preset], 1) if one.kind != "forecast"]
    assert set(plan) == {"full"}
    spent = once + len(plan) * (step + cost.conditioning_flops(Geometry()))
    assert spent * times <= 28 * cost.vanilla_flops(Geometry(), 1, text, target, target)


def test_at_the_real_size_a_run_with_four_references_costs_little_more_than_with_one():
    text, target = 512, 4096

    def flops(references):
        others = references * target
        full = cost.step_flops(Geometry(), 1, text, target, others, 0)
        each = {"full": full, "cached": cost.step_flops(Geometry(), 1, text, target, 0, others)}
        plan = make_plan(28, PRESETS["balanced"], references)
        return sum(each[step.kind] for step in plan if step.kind != "forecast")

    assert flops(1) < flops(4) < 1.6 * flops(1)


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 8, 28, 50])
@pytest.mark.parametrize("count", [1, 2, 5, 16, None])
def test_so_many_steps_are_computed_the_first_among_them(steps, count):
    computed = computed_steps(steps, count)
    assert len(computed) == min(steps, count or steps)
    assert computed[0] == 0 and computed == sorted(set(computed)) and computed[-1] < steps


@pytest.mark.parametrize("count", [3, 5, 7, 10, 20])
def test_computed_steps_draw_together_and_the_last_one_is_for_fewer_steps_than_any_other(count):
    computed = computed_steps(100, count)
    gaps = [after - before for before, after in zip(computed, [*computed[1:], 100], strict=True)]
    assert all(later <= gap + 1 for gap, later in pairwise(gaps))  # but for rounding
    assert gaps[0] > 1.2 * gaps[-2] > 1.2 * gaps[-1]


def test_presets_compute_less_and_less():
    kinds = [[step.kind for step in make_plan(28, settings)] for settings in PRESETS.values()]
    forecasts = [plan.count("forecast") for plan in kinds]
    assert forecasts == sorted(forecasts) and forecasts[0] == 0
    assert all(make_plan(1, settings)[0].kind == "full" for settings in PRESETS.values())


SAID = {
    "everything": (Settings(), "every step is computed"),
    "fewer": (Settings(computed=5, order=0.4), "5 steps are computed, the others forecast (order 0.4)"),
    "once": (Settings(refresh=0), "in the first step, else kept: at most 12 GB"),
    "once, later": (Settings(refresh=0, keep_from=3), "in the first 3 computed steps, else kept"),
    "again and again": (Settings(refresh=4), "every 4 computed steps, else kept"),
    "later, again and again": (Settings(refresh=4, keep_from=3), "in the first 3 computed steps and then every 4"),
    "by their size": (PRESETS["fast"], "every n computed steps, where they are n > 2 times"),
    "regions": (Settings(refresh=0, warmup=2), "after 2 computed steps, only the part that the edit changes"),
}


@pytest.mark.parametrize(("settings", "words"), SAID.values(), ids=SAID)
def test_settings_are_said_in_words(settings, words):
    assert words in describe(settings)


# Regions


def test_the_region_is_what_differs_and_a_margin():
    reference = noise(2, TARGET, 64)
    estimate = reference * torch.linspace(0.5, 2, TARGET)[None, :, None]  # lengths do not count, directions do
    estimate[0, 8] = noise(64, seed=5)  # row 1, column 2 of 4 x 6
    mask = edited_tokens(estimate, reference, GRID).unflatten(1, GRID)
    expected = torch.zeros(2, *GRID, dtype=torch.bool)
    expected[0, 0:3, 1:4] = True
    assert torch.equal(mask, expected)
    assert worthwhile(mask.flatten(1)).tolist() == [True, False]  # nothing is edited in the second
    assert worthwhile(torch.arange(10)[None] < torch.tensor([[6], [7]])).tolist() == [True, False]


def test_on_large_grids_specks_do_not_count():
    grid = (32, 40)
    reference = noise(1, 32 * 40, 64)
    estimate = reference.unflatten(1, grid).clone()
    estimate[0, 5, 5] = noise(64, seed=5)
    estimate[0, 20:23, 10:13] = noise(3, 3, 64, seed=6)
    mask = edited_tokens(estimate.flatten(1, 2), reference, grid).unflatten(1, grid)
    assert not mask[0, :10].any()
    assert torch.equal(mask[0].nonzero().amin(0), torch.tensor([19, 9]))  # the middle is left, two tokens around it
    assert mask[0].sum() == 25


def with_region(inputs: Inputs, x: torch.Tensor, model: KontextTransformer, edited: int) -> Inputs:
    """The reference is what the first step foresees, but for some tokens: those become the region."""
    estimate = x - SIGMAS[0] * vanilla(model, inputs, x, SIGMAS[0])
    for _ in range(30):  # the estimate depends on the reference
        reference = estimate.clone()
        reference[:, :edited] = inputs.references[0][:, :edited]
        inputs = inputs._replace(references=[reference])
        estimate = x - SIGMAS[0] * vanilla(model, inputs, x, SIGMAS[0])
    return inputs


REGIONS = Settings(refresh=0, warmup=1, region_refresh=99)


def test_outside_the_region_nothing_is_computed(model):
    x = noise(1, TARGET, 64)
    inputs = with_region(conditions(), x, model, edited=1)
    run = Run(REGIONS, SIGMAS)
    result = sample(run, model, inputs, x)
    assert run.kinds == {"full": 1, "region": 6, "cached": 1}
    assert run.share == pytest.approx(4 / TARGET)  # a corner and its margin
    assert run.spent().tokens == 2 * TARGET + TARGET + 6 * 4
    assert 1e-4 < (result - sample_vanilla(model, inputs, x)).square().mean().sqrt() < 0.5
    assert "17%" in run.report() and "6 region" in run.report()


def test_outside_the_region_velocities_are_foreseen_from_the_steps_that_computed_them():
    start, slope, other = (noise(1, TARGET, 64, seed=seed) for seed in (9, 10, 11))
    run, x = Run(REGIONS, SIGMAS), noise(1, TARGET, 64)
    for sigma in SIGMAS[:2]:
        run.begin(sigma)
        run.did("cached")
        assert torch.equal(run.finish(x, start + sigma * slope), start + sigma * slope)
    run.mask = torch.arange(TARGET)[None] < 5
    run.begin(SIGMAS[2])
    run.did("region")
    velocity = run.finish(x, other)
    assert torch.equal(velocity[:, :5], other[:, :5])
    torch.testing.assert_close(velocity[:, 5:], (start + SIGMAS[2] * slope)[:, 5:], atol=1e-5, rtol=0)
    run.begin(SIGMAS[3])
    foreseen = run.forecast()
    torch.testing.assert_close(foreseen[:, 5:], (start + SIGMAS[3] * slope)[:, 5:], atol=1e-5, rtol=0)
    assert (foreseen[:, :5] - (start + SIGMAS[3] * slope)[:, :5]).abs().max() > 0.1


def test_the_region_is_found_anew_whenever_all_target_tokens_are_computed(model):
    """The second estimate differs from the reference elsewhere than the first; in the third all is edited."""
    run, inputs, x = Run(Settings(refresh=0, warmup=1, region_refresh=2), SIGMAS), conditions(), noise(1, TARGET, 64)
    (reference,) = inputs.references
    edited = (slice(0, 1), slice(TARGET - 1, TARGET), slice(0, TARGET))
    regions = []
    for step, sigma in enumerate(SIGMAS[:6]):
        kind = run.begin(sigma).kind
        velocity = run.evaluate("one", model, lambda: inputs, x)
        if kind != "region":
            estimate = reference.clone()
            estimate[:, edited[step // 2]] = noise(1, TARGET, 64, seed=40)[:, edited[step // 2]]
            velocity = (x - estimate) / sigma
        run.finish(x, velocity)
        regions.append(None if run.mask is None else run.mask[0].nonzero()[:, 0].tolist())
    rows, columns = GRID
    first, last = [0, 1, columns, columns + 1], [rows * columns - 1 - token for token in (0, 1, columns, columns + 1)]
    assert regions == [first, first, last[::-1], last[::-1], None, None]
    assert run.kinds == {"full": 1, "region": 2, "cached": 3}


NO_REGION = {
    "all is edited": (conditions(), None),
    "two references": (conditions(references=2), "one reference"),
    "another size": (conditions(size=(2, 6)), "one reference"),
    "no reference": (conditions(references=0), "one reference"),
}


@pytest.mark.parametrize(("inputs", "note"), NO_REGION.values(), ids=NO_REGION)
def test_without_a_useful_region_all_target_tokens_are_computed(model, inputs, note):
    x = noise(1, TARGET, 64)
    run, cached = Run(REGIONS, SIGMAS), Run(Settings(refresh=0), SIGMAS)
    assert torch.equal(sample(run, model, inputs, x), sample(cached, model, inputs, x))
    assert run.kinds == cached.kinds
    assert "".join(run.notes).count("one reference") == (note is not None)


def test_a_batch_is_its_pictures_one_by_one(model):
    x = noise(2, TARGET, 64)
    parts = [with_region(rows_of(conditions(2), i), x[i : i + 1], model, edited) for i, edited in enumerate((1, 7))]
    joined = conditions(2)._replace(references=[torch.cat([part.references[0] for part in parts])])
    settings = Settings(computed=6, refresh=0, warmup=1, region_refresh=3)
    single = [sample(Run(settings, SIGMAS), model, part, x[i : i + 1]) for i, part in enumerate(parts)]
    run = Run(settings, SIGMAS)
    torch.testing.assert_close(sample(run, model, joined, x), torch.cat(single), atol=1e-5, rtol=0)
    assert run.kinds["region"] > 0


# State


def test_runs_do_not_know_of_each_other(model):
    settings = Settings(computed=6, refresh=0, warmup=1)
    first, second = ((conditions(seed=seed), noise(1, TARGET, 64, seed=seed)) for seed in (1, 50))
    alone = sample(Run(settings, SIGMAS), model, *second)
    sample(Run(settings, SIGMAS), model, *first)
    assert torch.equal(sample(Run(settings, SIGMAS), model, *second), alone)


def test_a_run_leaves_nothing_behind(model):
    before = {name: set(vars(module)) for name, module in model.named_modules()}
    run = Run(Settings(refresh=0, warmup=1), SIGMAS)
    sample(run, model, conditions(), noise(1, TARGET, 64))
    stream = weakref.ref(run.streams["one"])
    del run
    assert stream() is None
    assert {name: set(vars(module)) for name, module in model.named_modules()} == before


# Calls off the schedule


def test_a_call_between_two_steps_is_computed_as_the_step_before_it(model):
    run = Run(Settings(computed=3, refresh=0), SIGMAS)
    assert [run.begin(sigma).kind for sigma in (1.0, SIGMAS[1], SIGMAS[1] - 0.001)] == ["full"] * 3
    inputs, x = conditions(), noise(1, TARGET, 64)
    velocity = run.evaluate("one", model, lambda: inputs, x)
    torch.testing.assert_close(velocity, vanilla(model, inputs, x, run.sigma), atol=1e-5, rtol=0)


# Cost


KINDS = {"full": 0, "cached": 1, "region": 2}


@pytest.mark.parametrize("kind", KINDS)
def test_arithmetic_is_what_torch_counts(model, kind):
    inputs, x = conditions(2), noise(2, TARGET, 64)
    run = Run(Settings(refresh=0, warmup=2), SIGMAS)
    run.begin(SIGMAS[0])
    run.evaluate("one", model, lambda: inputs, x)  # fills the table
    stream = run.streams["one"]
    steps = [next(step for step in run.plan if step.kind == name) for name in ("full", "cached", "region")]
    stream.velocity(x, SIGMAS[0], run.plan[1]._replace(keep_target=True), None, plain)
    mask = (torch.arange(TARGET) < 5).repeat(2, 1)
    before = stream.spent.flops
    with FlopCounterMode(display=False) as counter:
        _, done = stream.velocity(x, SIGMAS[0], steps[KINDS[kind]], mask, plain)
    assert done == kind
    assert counter.get_total_flops() == stream.spent.flops - before


def test_a_conditioning_of_half_of_the_run_counts_for_that_half(model):
    """As where a negative ends early: forecast steps had asked no more of it than computed ones do."""
    settings = Settings(computed=4)
    run, one = Run(settings, SIGMAS), Run(settings, SIGMAS)
    inputs, x = conditions(), noise(1, TARGET, 64)
    sample(one, model, inputs, x)
    for sigma in SIGMAS[:-1]:
        if run.begin(sigma).kind == "forecast":
            run.forecast()
        else:
            run.finish(x, run.evaluate("early" if sigma > SIGMAS[4] else "late", model, lambda: inputs, x))
    assert run.kinds == one.kinds == {"full": 4, "forecast": 4}
    assert run.vanilla() == one.vanilla()
    assert one.vanilla().flops == 8 * cost.vanilla_flops(TINY, 1, TEXT, TARGET, TARGET)


def test_what_the_model_itself_evaluates_is_in_the_report_too():
    run = Run(Settings(computed=2), SIGMAS)
    for sigma in SIGMAS[:-1]:
        if run.begin(sigma).kind == "forecast":
            run.forecast()
        else:
            run.left_out(TINY, 1, TEXT, TARGET, TARGET)
            run.finish(noise(1, TARGET, 64), noise(1, TARGET, 64))
    assert run.spent().tokens == 2 * 2 * TARGET
    assert "8 steps: 2 full, 6 forecast\n25% of all image tokens computed, about 25% of the arithmetic" in run.report()


def test_the_models_own_arithmetic_is_what_torch_counts(model):
    inputs, x = conditions(2), noise(2, TARGET, 64)
    with FlopCounterMode(display=False) as counter:
        vanilla(model, inputs, x, 0.7, attention=plain)
    assert counter.get_total_flops() == cost.vanilla_flops(TINY, 2, TEXT, TARGET, TARGET)
