"""Registration, colour fit, change mask and paste-back, on pictures with a known true change."""

import math
import random

import pytest
import torch
from torch.nn.functional import interpolate
from torch.testing import assert_close

from kontext_core.colour import delta_e_2000, fit_colours, lab
from kontext_core.looks import fit_look
from kontext_core.preservation import MATCH, find_change, join, latent_evidence, preserve
from kontext_core.registration import Similarity, blur, register, warp
from training.evaluate import as_tensor
from training.photographs import texture
from training.world import Background, Scene, Thing

SIDE = 256


def textured(seed, side=SIDE):
    generator = torch.Generator().manual_seed(seed)
    clouds = torch.from_numpy(texture(random.Random(seed), side, side)).permute(2, 0, 1)
    grain = interpolate(torch.rand(1, 1, side // 4, side // 4, generator=generator), (side, side), mode="bicubic")[0]
    return (clouds + 0.25 * (grain - 0.5)).clamp(0, 1)


def square(share=0.1, side=SIDE):
    """A mask of a square in the middle."""
    mask = torch.zeros(side, side, dtype=torch.bool)
    half = int(side * math.sqrt(share) / 2)
    mask[side // 2 - half : side // 2 + half, side // 2 - half : side // 2 + half] = True
    return mask


def edit_of(original, mask, noise=0.01, seed=7):
    """The original with other content inside the mask, noise everywhere, and slightly changed colours."""
    other = 1 - textured(seed)
    edited = torch.where(mask, other, original)
    edited = edited * torch.tensor([1.03, 0.98, 0.96])[:, None, None] + 0.015
    return (edited + noise * torch.randn(edited.shape, generator=torch.Generator().manual_seed(seed))).clamp(0, 1)


def inverse(similarity):
    """The inverse of a similarity without rotation."""
    return Similarity(-similarity.x / similarity.scale, -similarity.y / similarity.scale, 1 / similarity.scale)


MOVEMENTS = {
    "none": Similarity(),
    "a fraction": Similarity(0.4, -0.3),
    "far": Similarity(-24.0, 31.0),
    "smaller": Similarity(3.0, 2.0, 0.95),
    "larger": Similarity(-5.5, 7.25, 1.05),
}


@pytest.mark.parametrize("true", MOVEMENTS.values(), ids=MOVEMENTS)
def test_a_known_movement_is_found_with_a_third_changed(true):
    original = textured(1)
    edited = torch.where(square(0.3), 1 - textured(2), original)
    found = register(original, warp(edited, inverse(true))[0].clamp(0, 1))
    assert found.accepted
    assert math.hypot(found.similarity.x - true.x, found.similarity.y - true.y) < 0.1
    assert abs(found.similarity.scale - true.scale) < 0.0005


@pytest.mark.parametrize("shift", [2, 7, 9])
def test_a_shift_far_below_a_pixel_of_the_copy_is_exact(shift):
    """The resampling kernel has no phase error: on a copy of 768 px it would shift by 0.03 px."""
    original = interpolate(textured(1)[None], (1536, 2048), mode="bicubic")[0].clamp(0, 1)
    found = register(original, original.roll(shift, 2)).similarity
    assert found.x == pytest.approx(shift, abs=0.03)


def test_a_rotation_is_found_when_it_is_looked_for():
    original, angle = textured(1), math.radians(2)
    found = register(original, warp(original, Similarity(angle=-angle))[0].clamp(0, 1), rotation=True)
    assert found.similarity.angle == pytest.approx(angle, abs=1e-4)
    assert register(original, original).similarity == Similarity()


UNFIT = {
    "unrelated": (textured(1), textured(2)),
    "plain": (torch.full((3, 200, 300), 0.5), torch.full((3, 200, 300), 0.6)),
}


@pytest.mark.parametrize(("original", "edited"), UNFIT.values(), ids=UNFIT)
def test_pictures_without_anything_in_common_are_not_aligned(original, edited):
    assert not register(original, edited).accepted


def test_colours_are_fitted_where_nothing_changed():
    """A drift that varies over the picture is reduced from a mean dE2000 of 5 to below 1, whatever was edited."""
    original, changed = textured(3), square(0.3)
    x = torch.linspace(-1, 1, SIDE)
    y = x[:, None]
    drift = torch.stack([0.05 * x + 0.05 * y.square(), 0.15 * (x * y).square(), -0.06 * x.square() + 0 * y])
    edited = (torch.where(changed, 1 - original, original) * 0.93 + drift).clamp(0, 1)
    fitted = fit_colours(original, edited, (~changed).float()).over(edited).clamp(0, 1)
    before, after = (delta_e_2000(lab(original), lab(one))[~changed].mean() for one in (edited, fitted))
    assert before > 4
    assert after < 1


def test_colours_inside_the_mask_have_no_say_in_the_fit():
    original, mask = textured(3), square(0.55)
    recoloured = original * torch.tensor([1.0, 0.8, 0.6])[:, None, None] + torch.tensor([0, 0.1, 0.2])[:, None, None]
    edited = (torch.where(mask, recoloured, original) * 0.95 + 0.02).clamp(0, 1)
    before, after = preserve(original, edited, mask.float(), match=["tone"]).look.colour_error
    assert before > 0.5
    assert after < 0.1


def test_a_colour_that_nothing_unchanged_has_stays_as_it_is():
    """A fit on two colours leaves a third one alone; those two are mapped equally inside and outside the edit."""
    level = (torch.arange(SIDE) // 20 % 2).float().expand(SIDE, SIDE)
    original, changed = between(level, (0.9, 0.6, 0.1), (0.6, 0.1, 0.1)), square(0.1)
    edited = original + between(level, (0.03, -0.03, 0.0), (-0.03, 0.03, 0.0))
    new = changed & square(0.05)
    edited[:, new] = torch.tensor([0.1, 0.2, 0.9])[:, None]
    moved = (fit_colours(original, edited, (~changed).float()).over(edited) - edited).norm(dim=0)
    assert moved[new].max() < 0.002
    for seen in (~changed, changed & ~new):
        assert_close(moved[seen].mean(), torch.tensor(0.03 * 2**0.5), atol=0.005, rtol=0)


def test_a_fit_moves_no_colour_farther_than_those_that_it_has_seen():
    """A drift that grows over the unchanged half is extrapolated into the other half only up to its observed range."""
    x = torch.linspace(-1, 1, SIDE)
    original, left = textured(3), (x < 0).expand(SIDE, SIDE)
    edited = original - 0.1 * (x + 1).square()
    moved = (fit_colours(original, edited, left.float()).over(edited) - edited).norm(dim=0)
    assert 0.15 < moved[left].max() < 0.2
    assert moved[~left].max() <= moved[left].max() + 1e-4


def test_a_part_of_a_picture_is_mapped_like_the_whole():
    original, edited = textured(3), edit_of(textured(3), square())
    colours = fit_colours(original, edited, (~square()).float())
    part = colours.over(edited[:, 50:200, 30:90], left=30, top=50, size=(SIDE, SIDE))
    assert_close(part, colours.over(edited)[:, 50:200, 30:90])


def test_nothing_unchanged_means_no_colour_fit():
    edited = edit_of(textured(3), square())
    assert torch.equal(fit_colours(textured(3), edited, torch.zeros(SIDE, SIDE)).over(edited), edited)


@pytest.mark.parametrize("share", [0.02, 0.1, 0.3])
def test_the_change_is_found_under_noise_and_drift(share):
    truth = square(share)
    found = find_change(textured(4), edit_of(textured(4), truth))
    assert not found.is_global
    assert (found.core & truth).sum() / (found.core | truth).sum() > 0.9


def test_a_weak_change_is_found_under_a_drift_that_no_fit_of_low_order_follows():
    original = torch.full((3, SIDE, SIDE), 0.5)
    weak = square(0.01)
    waves = 0.04 * torch.sin(torch.linspace(0, 4 * math.pi, SIDE))
    edited = original + waves + 0.08 * weak
    core = find_change(original, edited).core
    assert (core & weak).sum() > 0.8 * (core | weak).sum()


def test_colours_that_only_the_edit_has_are_a_change():
    """Without a prior the colour fit could map them back, since no unchanged pixel determines them."""
    truth, x = square(0.3), torch.linspace(-1, 1, SIDE)
    y = x[:, None]
    original = between(textured(4).mean(0), (0.75, 0.5, 0.1), (0.5, 0.9, 0.15))
    other = between(textured(9).mean(0), (0.2, 0.2, 0.6), (0.2, 0.5, 0.7))
    drift = torch.stack([0.1 * x.square() + 0 * y, 0.08 * x * y, 0.12 * (y.square() - 0.3) + 0 * x])
    edited = (edit_of(torch.where(truth, other, original), truth & False) + drift).clamp(0, 1)
    found = find_change(original, edited).core
    assert (found & truth).sum() / (found | truth).sum() > 0.9


def between(level, first, second):
    """Colours on the line between two, mixed by a map (h, w) in 0..1."""
    return torch.stack([low + (high - low) * level for low, high in zip(first, second, strict=True)])


def test_what_is_weak_is_found_beside_what_is_strong_as_well_as_alone():
    original = torch.full((3, SIDE, SIDE), 0.5) + 0.02 * (textured(4) - 0.5)
    edited = original.clone()
    edited[:, 50:100, 50:80] += 0.25
    edited[:, 50:100, 84:120] += 0.06
    edited[:, 180:230, 180:220] += 0.06
    core = find_change(original, edited, smallest=0).core
    assert core[52:98, 52:118].float().mean() > 0.95
    assert core[184:226, 184:216].float().mean() > 0.95


def test_pieces_near_each_other_are_one_change_without_holes():
    original = torch.full((3, SIDE, SIDE), 0.5) + 0.02 * (textured(4) - 0.5)
    edited = original.clone()
    edited[:, 60:120, 60:120] += 0.3
    edited[:, 80:104, 84:108] = original[:, 80:104, 84:108]  # a hole
    edited[:, 60:120, 66:70] = original[:, 60:120, 66:70]  # and a gap
    assert find_change(original, edited).core[62:118, 62:118].all()


def test_strokes_farther_from_each_other_are_not():
    original, bars = torch.full((3, 768, 768), 0.5), torch.zeros(768, 768)
    bars[300:400, 340:370] = bars[300:400, 394:424] = 0.3
    core = find_change(original, original + bars).core
    assert core[350, 355] and core[350, 409]
    assert not core[350, 376:388].any()


def test_a_thing_that_grows_by_three_pixels_is_found_where_its_edge_is_soft():
    small = Scene(Background("gradient", "purple", "yellow"), (Thing("star", "orange", "small", "left"),))
    before, after = (as_tensor(scene, 128, 128) for scene in (small, small.with_thing(0, size="medium")))
    truth = (before - after).abs().amax(0) > 0.04
    core = find_change(before, blur(after, 0.8)).core
    assert (core & truth).sum() > 0.5 * (core | truth).sum()


def test_an_island_below_the_smallest_share_is_noise():
    original, truth = textured(4), torch.zeros(SIDE, SIDE, dtype=torch.bool)
    truth[100:114, 100:114] = True
    edited = edit_of(original, truth)
    assert find_change(original, edited).core[truth].any()
    assert not find_change(original, edited, smallest=0.01).core.any()


def test_noise_is_measured_where_the_original_has_edges():
    """An autoencoder errs along edges: a difference that is visible on plain ground is noise there."""
    original, generator = torch.full((3, SIDE, SIDE), 0.5), torch.Generator().manual_seed(0)
    original[:, :, 128:] = interpolate((torch.rand(1, 3, 64, 32, generator=generator)), (SIDE, 128))[0]
    noise = interpolate(torch.randn(1, 3, SIDE // 2, SIDE // 2, generator=generator), (SIDE, SIDE), mode="bicubic")[0]
    edited = original + noise * torch.where(torch.arange(SIDE) >= 128, 0.1, 0.03)
    edited[:, 40:80, 40:80] += 0.15
    core = find_change(original, edited.clamp(0, 1)).core
    assert core[42:78, 42:78].all()
    assert core[:, 128:].float().mean() < 0.01


def test_noise_and_drift_alone_are_no_change():
    found = find_change(textured(4), edit_of(textured(4), square() & False))
    assert found.share == 0


def test_a_strong_drift_over_the_picture_is_no_change():
    x = torch.linspace(-1, 1, SIDE)
    original = 0.2 + 0.6 * textured(4)
    drift = 0.2 * torch.stack([x * x[:, None], x + 0 * x[:, None], -x * x[:, None]])
    assert find_change(original, original + drift).share == 0


EVERYTHING = {
    "another picture": lambda picture: 1 - textured(9),
    "night": lambda picture: picture * torch.tensor([0.30, 0.34, 0.52])[:, None, None],
    "negative": lambda picture: 1 - picture,
}


@pytest.mark.parametrize("change", EVERYTHING.values(), ids=EVERYTHING)
def test_an_edit_of_everything_is_global_and_goes_on_as_it_is(change):
    original = textured(4)
    edited = change(original)
    kept = preserve(original, edited)
    assert kept.is_global
    assert torch.equal(kept.picture, edited)
    assert kept.mask.min() == 1


def sharpened(picture, amount=1.0):
    return picture + amount * (picture - blur(picture, 1.2))


def warmer(picture):
    return picture * torch.tensor([1.06, 1.0, 0.94])[:, None, None]


def contrasty(picture):
    luma = picture.mean(0, keepdim=True)
    return (luma + 1.2 * (picture - luma) - 0.5) * 1.15 + 0.5


def grainy(picture, sigma=4 / 255):
    return picture + sigma * torch.randn(picture.shape, generator=torch.Generator().manual_seed(3))


def ramp(picture):
    """Brighter on the left than on the right."""
    return picture * torch.linspace(1.08, 0.92, picture.shape[2])


def returned(picture, *drifts):
    """As an editor returns it: after drifts, in 8 bits."""
    for drift in drifts:
        picture = drift(picture)
    return (picture.clamp(0, 1) * 255).round() / 255


DRIFTS = {
    "shift": lambda picture: warp(picture, Similarity(-4.0, 2.5))[0],
    "zoom": lambda picture: warp(picture, Similarity(scale=1.02))[0],
    "stretch": lambda picture: warp(picture, Similarity(stretch=0.988))[0],
    "rotation": lambda picture: warp(picture, Similarity(angle=math.radians(0.7)))[0],
    "warm": warmer,
    "contrast": contrasty,
    "curve": lambda picture: picture.clamp(min=0) ** 0.85,
    "light": ramp,
    "sharp": sharpened,
    "soft": lambda picture: blur(picture, 1.2),
    "local contrast": lambda picture: picture + 0.3 * (picture - blur(picture, SIDE / 40)),
    "grain": grainy,
}
BLURRING = {"sharp", "soft", "local contrast", "grain"}  # they lose information that cannot be restored
TOGETHER = {
    "zoom, contrast, sharp": ("zoom", "contrast", "sharp"),
    "shift, warm, soft": ("shift", "warm", "soft"),
    "rotation, curve, grain": ("rotation", "curve", "grain"),
}
ALL_DRIFTS = {**{name: (name,) for name in DRIFTS}, **TOGETHER}


@pytest.mark.parametrize("names", ALL_DRIFTS.values(), ids=ALL_DRIFTS)
def test_a_picture_with_drift_alone_comes_back_as_the_original(names):
    original = textured(5)
    kept = preserve(original, returned(original, *(DRIFTS[name] for name in names)))
    assert torch.equal(kept.picture, original)


@pytest.mark.parametrize("names", ALL_DRIFTS.values(), ids=ALL_DRIFTS)
def test_an_edit_is_found_under_drift_and_looks_as_without(names):
    """Inside, more than half of the drift in geometry or colour is removed, and some of the other drifts."""
    original, truth = textured(5), square()
    clean = torch.where(truth, textured(6), original)
    edited = returned(clean, *(DRIFTS[name] for name in names))
    kept = preserve(original, edited)
    core = kept.change.core
    assert (core & truth).sum() / (core | truth).sum() > 0.85
    left, made = ((picture - clean).abs()[:, truth].mean() for picture in (kept.picture, edited))
    assert left < (made if BLURRING & set(names) else max(0.5 * made, 0.01))


def test_the_order_of_drifts_does_not_matter():
    original, truth = textured(5), square()
    clean = torch.where(truth, textured(6), original)
    first, second = (
        find_change(original, returned(clean, *drifts)).core for drifts in ((warmer, sharpened), (sharpened, warmer))
    )
    assert (first & second).sum() / (first | second).sum() > 0.97


@pytest.mark.parametrize("drifts", [(), (sharpened,), (contrasty, grainy)], ids=["none", "sharp", "contrast and grain"])
def test_a_bigger_edit_is_never_found_smaller(drifts):
    """Neither a mask that contains a smaller one, nor one with a strong change beside it."""
    original, other = textured(5), textured(6)
    weak = torch.where(square(0.03), original * 0.85, original)
    strong = weak.clone()
    strong[:, 10:50, 10:60] = torch.tensor([1.0, 0.0, 1.0])[:, None, None]
    for small, large in (
        (torch.where(square(0.05), other, original), torch.where(square(0.2), other, original)),
        (weak, strong),
    ):
        inner, outer = (find_change(original, returned(picture, *drifts)).core for picture in (small, large))
        assert inner.any()
        assert (inner & ~outer).sum() < 0.01 * inner.sum()


def test_where_half_of_the_picture_is_new_what_is_found_is_uncertain():
    original = textured(5)
    edited = torch.where(torch.arange(SIDE) < 0.55 * SIDE, textured(6), original)
    change = find_change(original, edited)
    assert change.is_uncertain and not change.is_global
    assert change.share == pytest.approx(0.55, abs=0.05)
    assert not find_change(original, torch.where(square(), textured(6), original)).is_uncertain


@pytest.mark.parametrize("part", ["tone", "sharpness"])
def test_each_part_of_the_look_can_be_left_as_it_is(part):
    original, mask = textured(5), square()
    clean = torch.where(mask, textured(6), original)
    edited = returned(clean, warmer, sharpened)
    whole, without = (
        (preserve(original, edited, mask.float(), match=match).picture - clean).abs()[:, mask].mean()
        for match in (MATCH, [name for name in MATCH if name != part])
    )
    assert whole < 0.97 * without


def test_a_smooth_edit_in_a_grainy_picture_gets_its_grain():
    original, mask = returned(0.5 + 0 * textured(5), grainy), square(0.2)
    edited = torch.where(mask, torch.tensor(0.7), blur(original, 1.5))
    rough, smooth = (
        preserve(original, edited, mask.float(), match=match).picture[:, mask].std() for match in (["grain"], [])
    )
    assert smooth < 0.1 / 255
    assert rough == pytest.approx(4 / 255, rel=0.2)


def test_a_part_of_a_picture_gets_the_look_that_the_whole_gets():
    original = textured(5, 512)
    look = fit_look(returned(original, warmer, sharpened), original, torch.ones(512, 512) > 0, ["tone", "sharpness"])
    box = (200, 180, 330, 300)
    part = look.over(original, (0, 0, 512, 512))[:, 200:330, 180:300]
    assert_close(look.over(original, box), part, atol=2e-3, rtol=0)


def test_outside_the_mask_the_picture_is_the_original_bit_for_bit():
    original, truth = textured(5), square()
    kept = preserve(original, edit_of(original, truth))
    outside = kept.mask == 0
    assert torch.equal(kept.picture[:, outside], original[:, outside])
    assert outside[~truth].float().mean() > 0.9
    assert (kept.picture - original).abs()[:, truth].mean() > 0.1
    assert kept.look.colour_error[1] < kept.look.colour_error[0]


def test_a_moved_edit_is_moved_back():
    original, truth = textured(5), square()
    edited = warp(edit_of(original, truth, noise=0), Similarity(-6.0, 4.0, 1.02))[0].clamp(0, 1)
    kept = preserve(original, edited)
    assert kept.moved
    assert (kept.mask[~truth] == 0).float().mean() > 0.9


def test_with_a_mask_only_what_lies_outside_it_is_registered():
    """Most of the picture moved differently from the rest: without `unchanged`, the majority would win."""
    original, mask = textured(5), square(0.6)
    edited = torch.where(mask, original.roll((5, -9), (1, 2)), original.roll((-2, 3), (1, 2)))
    found = preserve(original, edited, mask.float()).registration.similarity
    assert (found.x, found.y) == pytest.approx((3, -2), abs=0.1)
    assert register(original, edited).similarity.x == pytest.approx(-9, abs=0.1)


def test_beyond_the_border_of_a_moved_picture_a_change_goes_on_and_the_rest_is_kept():
    """The edited picture has no pixels there: its last ones are repeated where the mask is."""
    original, mask, gap = textured(5), torch.zeros(SIDE, SIDE), 6
    mask[:60, :60] = 1
    edited = torch.where(mask > 0, 0.3, original).roll(-gap, 2)
    edited[:, :, -gap:] = 0
    kept = preserve(original, edited, mask, match=["geometry"])
    assert kept.moved
    assert torch.equal(kept.picture[:, 60:], original[:, 60:])
    torch.testing.assert_close(kept.picture[:, :60, :57], torch.full((3, 60, 57), 0.3), atol=0.01, rtol=0)


def test_a_background_that_was_replaced_and_moved_leaves_no_strip_of_the_old_one():
    original, thing = textured(5), square(0.5)
    edited = torch.where(thing, original, textured(6) * 0.3 + 0.6).roll(-8, 2)
    edited[:, :, -8:] = edited[:, :, -9:-8]
    kept = preserve(original, edited)
    assert kept.moved and not kept.is_global
    assert kept.mask[:, :16].min() > 0.99 and kept.mask[:, -16:].min() > 0.99


@pytest.mark.parametrize("drift", ["shift", "zoom", "rotation"])
def test_a_new_background_is_aligned_by_what_is_left_of_the_picture(drift):
    """Compared as a whole, nearly nothing fits: the new background has most of the details."""
    strokes, thing = torch.zeros(1, SIDE, SIDE), square(0.4)
    strokes[:, 60:200:25, 60:150] = strokes[:, 100:190, 60:200:35] = 1
    original = 0.55 + 0.1 * (blur(textured(5), 12.0) - 0.5) - 0.3 * blur(strokes, 1.0)
    clean = torch.where(thing, original, (1.6 * textured(6) - 0.5).clamp(0, 1))
    edited = returned(clean, DRIFTS[drift])
    assert not register(original, edited).accepted
    kept = preserve(original, edited)
    assert kept.moved
    left, made = ((picture - clean).abs().mean() for picture in (kept.picture, edited))
    assert left < 0.2 * made
    assert (kept.change.core == ~thing).float().mean() > 0.99


@pytest.mark.parametrize("drift", ["shift", "zoom"])
def test_a_new_background_of_similar_colours_is_aligned_by_what_was_not_found_to_change(drift):
    """Its colours do not tell it from drift; its details do."""
    strokes, thing = torch.zeros(1, SIDE, SIDE), square(0.4)
    strokes[:, 60:200:25, 60:150] = strokes[:, 100:190, 60:200:35] = 1
    original = 0.5 + 0.1 * (blur(textured(5), 12.0) - 0.5) - 0.3 * blur(strokes, 1.0)
    new = 0.5 + 0.7 * (textured(6) - blur(textured(6), 6.0)) + 0.08 * (blur(textured(7), 12.0) - 0.5)
    clean = torch.where(thing, original, new.clamp(0, 1))
    edited = returned(clean, DRIFTS[drift])
    kept = preserve(original, edited)
    assert kept.moved
    assert (kept.picture - clean).abs().mean() < 0.3 * (edited - clean).abs().mean()


def test_a_new_background_beside_details_that_stay_is_no_global_edit():
    """The window in which details are compared reaches into the new background, whose colours are far away."""
    original, new = 0.8 + 0.1 * (blur(textured(5), 12.0) - 0.5), torch.zeros(SIDE, SIDE, dtype=torch.bool)
    original[:, :, 100:110], original[:, 100:108, :110], new[:, 110:] = 0.2, 0.2, True
    edited = returned(torch.where(new, 0.35 + 0.1 * (blur(textured(6), 12.0) - 0.5), original), warmer)
    kept = preserve(original, edited)
    assert not kept.is_global
    assert torch.equal(kept.change.core, new)


def test_noise_is_measured_beside_a_large_change():
    """A weak part of a new background is found, although two thirds of the picture differ by far more."""
    thing, strip = square(0.3), (torch.arange(SIDE) >= 200) & (torch.arange(SIDE) < 235)
    original = torch.where(thing, textured(5), 0.45 + 0.2 * (blur(textured(5), 8.0) - 0.5))
    new = torch.where(strip, original.mean(0, keepdim=True) + 0.115, (1.6 * textured(6) - 0.5).clamp(0, 1))
    core = find_change(original, returned(torch.where(thing, original, new), warmer)).core
    assert core[:, strip][~thing[:, strip]].float().mean() > 0.95
    assert core[thing].float().mean() < 0.01


@pytest.mark.parametrize("slope", [0.8, 1.2])
def test_a_smooth_area_of_other_colours_is_found_where_nothing_has_details(slope):
    """Colours that vary over the picture could explain it all as drift."""
    original = 0.2 + 0.1 * blur(textured(4), 10.0)
    change = (slope * (torch.linspace(-1, 1, SIDE).abs() - 0.3).clamp(min=0)).expand(SIDE, SIDE)
    core = find_change(original, returned(original + change, warmer)).core
    assert core[change > 0.08].float().mean() > 0.97
    assert not core[change == 0].any()


def test_a_picture_that_does_not_fit_is_not_moved():
    original, mask = textured(5), square(0.2).float()
    kept = preserve(original, textured(6), mask)
    assert not kept.registration.accepted
    assert not kept.moved
    assert torch.equal(kept.picture[:, mask == 0], original[:, mask == 0])


def test_lines_in_one_direction_do_not_stretch_the_picture():
    """Such lines do not determine a stretch along them, so what changed around them could."""
    strokes, thing = torch.zeros(1, SIDE, SIDE), square(0.4)
    strokes[:, 60:200:20, 60:200] = 1
    original = 0.55 + 0.1 * (blur(textured(5), 12.0) - 0.5) - 0.3 * blur(strokes, 1.0)
    clean = torch.where(thing, original, (1.6 * textured(6) - 0.5).clamp(0, 1))
    found = preserve(original, returned(clean, DRIFTS["shift"])).registration
    assert abs(found.similarity.stretch - 1) < 0.03
    assert found.similarity.y == pytest.approx(-2.5, abs=0.1)


@pytest.mark.parametrize("stretch", [0.94, 0.965, 1.035])
def test_a_large_stretch_is_undone_where_the_picture_determines_it(stretch):
    edited = returned(textured(5), lambda picture: warp(picture, Similarity(stretch=stretch))[0])
    assert register(textured(5), edited).similarity.stretch == pytest.approx(1 / stretch, abs=1e-3)


def test_a_good_alignment_is_not_replaced_by_a_worse_one():
    """What stayed has lines in one direction only; what changed its colours has the details that align it."""
    original = 0.5 + 0.1 * (blur(textured(8), 12.0) - 0.5)
    original[:, :, ::12] -= 0.2
    part = (torch.arange(SIDE) < 0.6 * SIDE).expand(SIDE, SIDE)
    original = torch.where(part, textured(5), original)
    edited = returned(torch.where(part, 0.35 * original, original), DRIFTS["shift"])
    found = preserve(original, edited).registration.similarity
    assert (found.x, found.y) == pytest.approx((4, -2.5), abs=0.1)


def test_a_movement_that_fits_only_a_part_is_not_undone():
    """It reduces the error of the strongest details, but too few blocks agree."""
    part, weak = square(0.2), 0.5
    original = torch.where(part, textured(5), 0.5 + weak * (textured(6) - 0.5))
    edited = torch.where(part, textured(5), 0.5 + weak * (textured(7) - 0.5)).roll(5, 2)
    kept = preserve(original, edited, torch.zeros(SIDE, SIDE))
    assert kept.registration.similarity.x == pytest.approx(5, abs=0.5)
    assert not kept.moved


def test_a_mask_is_used_as_it_is():
    original, mask = textured(5), square(0.2).float() * 0.5
    kept = preserve(original, edit_of(original, square()), mask, match=[])
    assert torch.equal(kept.mask, mask)
    expected = torch.lerp(original, edit_of(original, square()), 0.5)
    assert_close(kept.picture[:, mask > 0], expected[:, mask > 0])


def test_with_everything_off_nothing_happens():
    edited = edit_of(textured(5), square())
    kept = preserve(textured(5), edited, match=[], paste=False)
    assert torch.equal(kept.picture, edited)


def test_latents_outvote_pixels_that_only_look_changed():
    original, truth = textured(4), square(0.1)
    wrong = torch.zeros_like(truth)
    wrong[10:40, 10:40] = True
    edited = edit_of(original, truth | wrong)
    reference = torch.randn(16, SIDE // 8, SIDE // 8, generator=torch.Generator().manual_seed(0))
    result = reference + 0.05 * torch.randn(reference.shape, generator=torch.Generator().manual_seed(1))
    result[:, 11:21, 11:21] += 1
    found = find_change(original, edited, evidence=latent_evidence(reference, result)).core
    assert find_change(original, edited).core[wrong].float().mean() > 0.8
    assert found[wrong].float().mean() < 0.05
    assert found[truth].float().mean() > 0.8


WRONG = {
    "sizes": (lambda: preserve(textured(1), textured(1, 128)), "edited is 128x128 px, original 256x256 px"),
    "latents": (lambda: latent_evidence(torch.zeros(16, 4, 4), torch.zeros(16, 4, 6)), "must be equal"),
    "join": (lambda: join(torch.zeros(2, 2) > 0, torch.zeros(2, 2), "both"), "'both'.*union"),
}


@pytest.mark.parametrize(("do", "message"), WRONG.values(), ids=WRONG)
def test_what_does_not_fit_is_refused(do, message):
    with pytest.raises(ValueError, match=message):
        do()
