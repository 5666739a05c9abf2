"""Crops around a mask, and stitching them back."""

import pytest
import torch

from kontext_core.frames import Box, frame_for
from kontext_core.regions import feathered, make_region


def picture(width, height, batch=1):
    return torch.rand(batch, height, width, 3, generator=torch.Generator().manual_seed(width))


def mask(width, height, *boxes):
    marked = torch.zeros(height, width)
    for box in boxes:
        Box(*box).of(marked[..., None]).fill_(1)
    return marked


PLACES = {  # marked box in 600x400
    "middle": (250, 180, 60, 40),
    "corner": (0, 0, 50, 50),
    "right border": (560, 100, 40, 200),
    "one pixel": (300, 200, 1, 1),
    "a wide strip": (0, 190, 600, 10),
}


@pytest.mark.parametrize("size", ["nearest trained size", "keep ratio", "as is"])
@pytest.mark.parametrize("box", PLACES.values(), ids=PLACES)
def test_a_crop_holds_what_is_marked_and_lies_in_the_picture(box, size):
    region = make_region(mask(600, 400, box), size, megapixels=0.25)
    (frame,) = region.frames
    left, top, width, height = frame.part
    assert left <= box[0] and top <= box[1]
    assert left + width >= box[0] + box[2] and top + height >= box[1] + box[3]
    assert left >= 0 and top >= 0 and left + width <= 600 and top + height <= 400
    assert frame.grid[0] % 16 == frame.grid[1] % 16 == 0
    assert region.crop(picture(600, 400)).shape == (1, frame.grid[1], frame.grid[0], 3)
    assert region.crop_masks().shape == (1, frame.grid[1], frame.grid[0])


@pytest.mark.parametrize("box", PLACES.values(), ids=PLACES)
@pytest.mark.parametrize("feather", [0, 12])
def test_outside_the_feathered_mask_every_pixel_stays(box, feather):
    original, marked = picture(600, 400), mask(600, 400, box)
    region = make_region(marked, "keep ratio", megapixels=0.1)
    stitched, new = region.stitch(original, torch.ones_like(region.crop(original)), feather)
    assert torch.equal(stitched[0][new == 0], original[0][new == 0])
    assert (stitched[0][marked > 0] > 0.99).all()
    reach = Box(box[0] - feather, box[1] - feather, box[2] + 2 * feather, box[3] + 2 * feather)
    assert (new[: max(0, reach.top)] == 0).all() and (new[:, : max(0, reach.left)] == 0).all()


def test_a_feather_wider_than_the_crop_ends_with_it():
    """Pixels outside the crop are kept, and the mask is 0 there."""
    region = make_region(mask(600, 400, (250, 180, 64, 64)), "keep ratio", context=0, megapixels=0.1)
    _, new = region.stitch(picture(600, 400), torch.ones_like(region.crop(picture(600, 400))), 50)
    inside = region.frames[0].part.of(new[..., None])
    assert inside.min() > 0 and (new > 0).sum() == inside.numel()


def test_as_is_comes_back_bit_for_bit():
    original = picture(600, 400)
    region = make_region(mask(600, 400, (100, 100, 80, 50)), "as is")
    stitched, _ = region.stitch(original, region.crop(original), 8)
    assert torch.equal(stitched, original)


@pytest.mark.parametrize("size", ["nearest trained size", "keep ratio", "as is"])
def test_a_mask_of_everything_is_the_frame_of_the_picture(size):
    original = picture(301, 207)
    region = make_region(torch.ones(207, 301), size, megapixels=0.1)
    frame = frame_for((301, 207), size, megapixels=0.1)
    assert region.frames == (frame,)
    fitted = region.crop(original)
    assert torch.equal(region.stitch(original, fitted)[0], frame.restore(fitted))


def test_islands_are_cut_apart_largest_first():
    marked = mask(600, 400, (20, 20, 30, 30), (500, 300, 60, 50))
    region = make_region(marked, "keep ratio", islands=True, megapixels=0.06)
    assert [bool(crop[300:, 500:].any()) for crop in region.masks] == [True, False]
    assert len({frame.grid for frame in region.frames}) == 1
    original = picture(600, 400)
    edited = torch.cat([torch.zeros_like(region.crop(original)[:1]), torch.ones_like(region.crop(original)[:1])])
    stitched, new = region.stitch(original, edited)
    assert (stitched[0, 300:350, 500:560] < 0.01).all() and (stitched[0, 20:50, 20:50] > 0.99).all()
    assert torch.equal(stitched[0][new == 0], original[0][new == 0])
    assert len(make_region(marked, "keep ratio").frames) == 1


def test_every_crop_has_the_size_that_suits_the_largest():
    marked = mask(600, 400, (20, 20, 30, 30), (400, 200, 150, 120))
    region = make_region(marked, "as is", islands=True, context=0)
    assert [frame.grid for frame in region.frames] == [(160, 128)] * 2


def test_islands_as_they_are_all_lie_in_their_crops():
    """The largest in area is not the widest."""
    marked = mask(600, 400, (20, 20, 200, 200), (250, 280, 300, 100))
    region = make_region(marked, "as is", islands=True, context=0)
    whole, new = region.stitch(torch.zeros(1, 400, 600, 3), torch.ones_like(region.crop(picture(600, 400))))
    assert torch.equal(new, marked) and torch.equal(whole[0, ..., 0], marked)


def test_context_widens_the_crop():
    marked = mask(600, 400, (250, 180, 60, 60))
    parts = [make_region(marked, "keep ratio", context=context).frames[0].part.width for context in (0.1, 0.5, 2)]
    assert parts == sorted(set(parts))


def test_a_feather_falls_to_nothing():
    soft = feathered(mask(60, 20, (0, 0, 20, 20)), 10)
    assert (soft[:, :20] == 1).all() and (soft[:, 30:] == 0).all()
    assert (soft[0, 19:31].diff() < 0).all()


def test_an_empty_mask_is_refused():
    with pytest.raises(ValueError, match="mask is empty"):
        make_region(torch.zeros(64, 64), "as is")


def test_another_number_of_crops_is_refused():
    region = make_region(mask(300, 200, (0, 0, 20, 20), (200, 100, 20, 20)), "as is", islands=True)
    crops = region.crop(picture(300, 200))
    with pytest.raises(ValueError, match="edited holds 1 pictures; 2 crops"):
        region.stitch(picture(300, 200), crops[:1])


@pytest.mark.parametrize("box", [(0, 0, 300, 200), (0, 0, 20, 20)], ids=["the whole picture", "a part"])
def test_an_original_of_another_size_is_refused(box):
    region = make_region(mask(300, 200, box), "as is")
    with pytest.raises(ValueError, match=r"original is 150x100 px; the region was cut from 300x200 px"):
        region.stitch(picture(150, 100), region.crop(picture(300, 200)))
