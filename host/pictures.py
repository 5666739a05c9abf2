"""The bundled example pictures as the host's IMAGE and MASK."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..kontext_core.embedded import picture_path
from .images import given


def load_picture(name: str) -> tuple[Tensor, Tensor]:
    """A picture (1, h, w, 3) in 0..1 and its mask (1, h, w): 1 where the file is transparent."""
    with Image.open(picture_path(name)) as file:
        pixels = torch.from_numpy(np.asarray(file.convert("RGBA"), dtype=np.float32) / 255)[None]
    return given(pixels[..., :3]), given(1 - pixels[..., 3])
