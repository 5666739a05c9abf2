"""The sizes that a model was trained for, told by its VAE or its transformer, and a notice about larger pictures."""

import math

import comfy.sd

from ..kontext_core.embedded.autoencoder import Autoencoder
from ..kontext_core.embedded.text_encoder import WIDTH as TEXT_WIDTH
from ..kontext_core.geometry import Geometry
from ..kontext_core.resolutions import EMBEDDED, KONTEXT, MEGAPIXEL, Trained
from .notices import notify


def trained_for(vae: comfy.sd.VAE | None) -> Trained:
    """The training sizes of the model that a VAE belongs to; without a VAE those of FLUX.1 Kontext."""
    return EMBEDDED if vae is not None and isinstance(vae.first_stage_model, Autoencoder) else KONTEXT


def trained_for_model(geometry: Geometry) -> Trained:
    """The sizes that a model was trained for: the embedded model is recognised by the width of its text encoder."""
    return EMBEDDED if geometry.context_in_dim == TEXT_WIDTH else KONTEXT


def warn_beyond(trained: Trained, what: str, size: tuple[int, int]) -> None:
    """A notice if a picture of this size in px exceeds the sizes that the model was trained for."""
    width, height = size
    if width * height <= trained.largest * MEGAPIXEL:
        return
    usual, largest = (round(math.sqrt(area * MEGAPIXEL)) for area in (trained.usual, trained.largest))
    notify(
        f"{what} has {width}x{height} px; {trained.name} was trained for about {usual}x{usual} px, and above "
        f"{largest}x{largest} px pictures may fall apart. Set size to 'nearest trained size', or its numbers to 0"
        " (with the vae connected, where the node has that input)."
    )


def warn_beyond_vae(vae: comfy.sd.VAE | None, what: str, size: tuple[int, int]) -> None:
    """`warn_beyond` for the model that a VAE belongs to; without a VAE the model is not known."""
    if vae is not None:
        warn_beyond(trained_for(vae), what, size)
