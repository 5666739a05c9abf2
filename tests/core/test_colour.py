"""Perceptual spaces and colour difference against published values."""

import numpy as np
import pytest
import torch
from skimage import color
from torch.testing import assert_close

from kontext_core.colour import delta_e_2000, lab, oklab

SHARMA = (  # Sharma, Wu, Dalal 2005, table 1: pairs that reveal wrong implementations, and their difference
    ((50, 2.6772, -79.7751), (50, 0, -82.7485), 2.0425),
    ((50, 3.1571, -77.2803), (50, 0, -82.7485), 2.8615),
    ((50, -1.3802, -84.2814), (50, 0, -82.7485), 1.0),
    ((50, 0, 0), (50, -1, 2), 2.3669),
    ((50, 2.49, -0.001), (50, -2.49, 0.0009), 7.1792),
    ((50, 2.49, -0.001), (50, -2.49, 0.0011), 7.2195),
    ((50, -0.001, 2.49), (50, 0.0009, -2.49), 4.8045),
    ((50, 2.5, 0), (50, 0, -2.5), 4.3065),
    ((50, 2.5, 0), (73, 25, -18), 27.1492),
    ((60.2574, -34.0099, 36.2677), (60.4626, -34.1751, 39.4387), 1.2644),
    ((22.7233, 20.0904, -46.6940), (23.0331, 14.9730, -42.5619), 2.0373),
    ((90.8027, -2.0831, 1.4410), (91.1528, -1.6435, 0.0447), 1.4441),
    ((2.0776, 0.0795, -1.1350), (0.9033, -0.0636, -0.5514), 0.9082),
)


@pytest.mark.parametrize(("a", "b", "difference"), SHARMA)
def test_the_difference_is_that_of_the_published_table(a, b, difference):
    a, b = torch.tensor(a, dtype=torch.float64), torch.tensor(b, dtype=torch.float64)
    assert float(delta_e_2000(a, b)) == pytest.approx(difference, abs=1e-4)
    assert float(delta_e_2000(b, a)) == pytest.approx(difference, abs=1e-4)
    assert float(delta_e_2000(a, a)) == 0


def test_lab_is_that_of_scikit_image():
    picture = torch.rand(3, 20, 30, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = color.rgb2lab(np.moveaxis(picture.numpy(), 0, -1))
    assert_close(lab(picture), torch.from_numpy(expected).movedim(-1, 0), atol=0.02, rtol=0)


OKLAB = {  # sRGB, Oklab as its author's page and the CSS Color 4 specification give it
    "white": ((1, 1, 1), (1.0, 0, 0)),
    "red": ((1, 0, 0), (0.62796, 0.22486, 0.12585)),
    "lime": ((0, 1, 0), (0.86644, -0.23389, 0.17950)),
    "blue": ((0, 0, 1), (0.45201, -0.03246, -0.31153)),
}


@pytest.mark.parametrize(("rgb", "expected"), OKLAB.values(), ids=OKLAB)
def test_oklab_is_the_published_one(rgb, expected):
    colour = oklab(torch.tensor(rgb, dtype=torch.float64)[:, None, None])
    assert_close(colour.flatten(), 100 * torch.tensor(expected, dtype=torch.float64), atol=0.02, rtol=0)
