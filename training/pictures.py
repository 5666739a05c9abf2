"""Draw the example pictures that ship with the pack: `python -m training.pictures`.

Scenes are those of the synthetic world. The photograph is a crop of scikit-image's cat (Stefan van der Walt, CC0), held
out from training; its edited version has blue eyes and the side effects that editors cause elsewhere.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter

from kontext_core.embedded import picture_path
from training.photographs import photograph
from training.world import Background, Scene, Thing, centre_of, render

SCENES = {
    "scene": Scene(
        Background("striped", "yellow", "white"),
        (
            Thing("circle", "red", "large", "centre"),
            Thing("star", "blue", "large", "top right"),
            Thing("T", "purple", "large", "bottom left"),
        ),
    ),
    "scene_two": Scene(
        Background("gradient", "cyan", "purple"),
        (Thing("square", "yellow", "medium", "left"), Thing("diamond", "white", "large", "top right")),
    ),
    "style": Scene(Background("checkered", "pink", "cyan"), (Thing("ring", "black", "medium", "centre"),)),
    "character": Scene(Background("plain", "green", "green"), (Thing("star", "orange", "large", "centre"),)),
}
MASKED = "scene", 0  # picture, thing: the alpha channel masks (as in ComfyUI) everything but the thing's surroundings
MASK_REACH = 24  # px
EYES = (28, 52, 74, 88), (134, 69, 162, 103)  # px: left, top, right, bottom
ZOOMED = 1.0, 2.5, 189.0, 190.5  # px, the part of the photograph that the edited version shows
PHOTOGRAPH_CROP = 95, 8, 288, 288  # x, y, width, height


def main() -> None:
    picture_path("").parent.mkdir(exist_ok=True)
    for name, scene in SCENES.items():
        image = Image.fromarray((255 * render(scene)).round().astype(np.uint8))
        if name == MASKED[0]:
            x, y = centre_of(scene.things[MASKED[1]], *image.size)
            alpha = Image.new("L", image.size, 255)
            alpha.paste(0, (x - MASK_REACH, y - MASK_REACH, x + MASK_REACH, y + MASK_REACH))
            image.putalpha(alpha)
        image.save(picture_path(name), optimize=True)
    x, y, width, height = PHOTOGRAPH_CROP
    cat = Image.fromarray(photograph("skimage.data", "chelsea.png")).crop((x, y, x + width, y + height))
    cat = cat.resize((192, 192), Image.Resampling.LANCZOS)
    cat.save(picture_path("photograph"), optimize=True)
    edited_elsewhere(cat).save(picture_path("photograph_edited"), optimize=True)


def edited_elsewhere(cat: Image.Image) -> Image.Image:
    """The cat with blue eyes; all of it zoomed, shifted, warmer, more saturated, with more contrast, sharpened."""
    eyes = Image.new("L", cat.size, 0)
    for oval in EYES:
        ImageDraw.Draw(eyes).ellipse(oval, 255)
    grey = cat.convert("L")
    blue = Image.merge(
        "RGB", [grey.point(lambda level, gain=gain: min(255, gain * level)) for gain in (0.4, 0.95, 1.7)]
    )
    cat = Image.composite(blue, cat, eyes.filter(ImageFilter.GaussianBlur(1.2)))
    cat = cat.resize(cat.size, Image.Resampling.BICUBIC, ZOOMED)
    warm = Image.merge(
        "RGB", [c.point(lambda v, g=g: v * g) for c, g in zip(cat.split(), (1.05, 1, 0.94), strict=True)]
    )
    contrasty = ImageEnhance.Contrast(ImageEnhance.Color(warm).enhance(1.15)).enhance(1.12)
    return contrasty.filter(ImageFilter.UnsharpMask(1.0, 90, 0))


if __name__ == "__main__":
    main()
