"""Check from tensor shapes that a text encoder's or an autoencoder's file fits FLUX.1."""

import comfy.sd
import torch

from .latents import CHANNELS

Shapes = dict[str, tuple[int, ...]]

SUFFIXES = (".safetensors", ".sft")
_TEXT_ENCODERS = {  # role: (type that the host detects, a tensor that gives the size, its rows, an example)
    "clip_l": ("CLIP_L", "text_model.encoder.layers.0.mlp.fc1.weight", 3072, "clip_l.safetensors"),
    "t5xxl": ("T5_XXL", "shared.weight", 32128, "t5xxl_fp16.safetensors"),  # UMT5-XXL has a larger vocabulary
}


def require_text_encoder(role: str, shapes: Shapes) -> None:
    """ValueError unless the tensors are those of CLIP-L (role "clip_l") or T5-XXL (role "t5xxl")."""
    wanted, tensor, rows, example = _TEXT_ENCODERS[role]
    found = comfy.sd.detect_te_model({name: torch.empty(s, device="meta") for name, s in shapes.items()})
    if found is None:
        problem = "this is no text encoder"
    elif found.name != wanted:
        problem = f"this is a text encoder of the kind {found.name}"
    elif shapes.get(tensor, (rows,))[0] != rows:
        problem = f"this is a relative of {wanted}: {tensor} has {shapes[tensor][0]} rows, not {rows}"
    else:
        return
    raise ValueError(f"{problem}; {wanted} is needed. Choose FLUX.1's {example} or a similar file.")


def require_autoencoder(shapes: Shapes) -> None:
    """ValueError unless the tensors are those of a 2-D autoencoder with FLUX.1's 16 latent channels."""
    first = shapes.get("decoder.conv_in.weight") or shapes.get("taesd_decoder.1.weight")
    needed = f"FLUX.1 needs one with {CHANNELS} latent channels. Choose ae.safetensors."
    if first is None or len(first) != 4:
        raise ValueError(f"this is no picture autoencoder; {needed}")
    if first[1] != CHANNELS:
        raise ValueError(f"this autoencoder has {first[1]} latent channels; {needed}")
