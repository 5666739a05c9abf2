"""Draw the example pictures that ship with the pack: `python -m training.pictures`.

Scenes are those of the synthetic world; the photograph is a crop of scikit-image's cat (Stefan van der Walt, CC0),
which training has not seen.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

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
MASKED = "scene", 0  # the scene whose alpha channel hides (as ComfyUI masks do) the surroundings of this thing
MASK_REACH = 24  # px
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
    cat.resize((192, 192), Image.Resampling.LANCZOS).save(picture_path("photograph"), optimize=True)


if __name__ == "__main__":
    main()
