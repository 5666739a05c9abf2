"""The pictures that the stand-in returns."""

import io

import numpy as np
from PIL import Image, PngImagePlugin

SIGNATURE = b"a provenance manifest, lost when the picture is encoded anew"


def png(width=96, height=72, seed=0):
    """A PNG with a `caBX` chunk that looks signed, as in BFL's."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    marks = PngImagePlugin.PngInfo()
    marks.add(b"caBX", SIGNATURE)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG", pnginfo=marks)
    return out.getvalue()


PICTURE = png()
