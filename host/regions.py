"""IMAGE and MASK to crops at the model's size, and edited crops back into the picture."""

from typing import Any

from torch import Tensor

from ..kontext_core.regions import Region, make_region
from .frames import describe
from .images import fitted_mask, given, masks, require_size, rgb
from .trained import trained_for, warn_beyond_vae


def crop(
    image: Tensor, mask: Tensor, size: dict[str, Any], context: float, islands: bool, vae: Any = None
) -> tuple[Tensor, Tensor, Region, str]:
    """Crops around the marked parts of a mask, their masks, the region, and a report.

    image  (b, h, w, c);  mask  (m, h, w): the union of several; resized to the image if necessary
    vae    VAE of the model whose sizes apply; None: FLUX.1 Kontext

    Raises ValueError for an empty mask, for a small picture, and for several crops of several pictures.
    """
    pixels = rgb(image, "image")
    require_size("image", (pixels.shape[2], pixels.shape[1]))
    marked = fitted_mask(masks(mask, "mask"), pixels.shape[1:3]).amax(0)
    region = make_region(
        marked,
        size["size"],
        context=context,
        islands=islands,
        megapixels=size.get("megapixels", 0),
        trained=trained_for(vae),
    )
    count = len(region.frames)
    if count > 1 and len(pixels) > 1:
        raise ValueError(
            f"the mask has {count} islands and image {len(pixels)} pictures; give one picture, or set "
            "islands to 'one crop'."
        )
    warn_beyond_vae(vae, "The crop", region.frames[0].grid)
    lines = [] if count == 1 else [f"{count} crops: set the same batch size where the target is made"]
    return (
        given(region.crop(pixels)),
        given(region.crop_masks()),
        region,
        "\n".join(lines + [describe(frame) for frame in region.frames]),
    )


def stitch(original: Tensor, edited: Tensor, region: Region, feather: int) -> tuple[Tensor, Tensor, str]:
    """Edited crops blended into the original, the mask (1, h, w) of the new pixels, and a report."""
    picture, mask = region.stitch(rgb(original, "original"), rgb(edited, "edited"), feather)
    kept, count = float((mask == 0).float().mean()), len(region.frames)
    return (
        given(picture),
        given(mask[None]),
        f"{'1 crop' if count == 1 else f'{count} crops'}, {100 * kept:.1f} % of the picture kept bit for bit",
    )
