"""The embedded autoencoder as an ordinary host VAE, for VAEEncode, VAEDecode and their tiled forms."""

import comfy.latent_formats
import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.sd
import torch
from comfy.taesd.taesd import TAESD

from ..kontext_core.embedded import load_autoencoder
from ..kontext_core.embedded.autoencoder import Autoencoder
from .latents import CHANNELS, PIXELS

# Values alive at once per pixel: 17 and 33 were measured at 2048x2048 px, the rest is a device's workspace.
_ENCODE_VALUES, _DECODE_VALUES = 32, 64


def load_vae() -> comfy.sd.VAE:
    """The embedded autoencoder in float32, offloaded and tiled by the host like any other.

    The host only builds VAEs of architectures that it knows. So this starts with the host's small autoencoder for FLUX,
    which has the right channels and scale, and replaces its network and patcher, as the host's SelectVAEDevice does.
    """
    vae = comfy.sd.VAE(sd=TAESD(latent_channels=CHANNELS).state_dict(), dtype=torch.float32)
    vae.patcher = load_vae_patcher()
    vae.first_stage_model = vae.patcher.model
    vae.size = vae.patcher.model_size()
    vae.memory_used_encode = lambda shape, dtype: _ENCODE_VALUES * shape[2] * shape[3] * dtype.itemsize
    vae.memory_used_decode = lambda shape, dtype: _DECODE_VALUES * shape[2] * shape[3] * PIXELS**2 * dtype.itemsize
    return vae


def embedded_latent_format() -> comfy.latent_formats.Flux:
    """FLUX's latent format, with live previews through the embedded decoder.

    The host's usual linear map from channels to colours is off by a quarter of the range on this autoencoder; a decoder
    of 0.8 M parameters takes two fifths of a step of this model at 256x256 px. The host applies `latent_rgb_factors` to
    the result of `latent_rgb_factors_reshape`, so the factors are the identity.
    """
    weights, _ = load_autoencoder()
    network = Autoencoder().eval().requires_grad_(False)
    network.load_state_dict({name: weight.float() for name, weight in weights.items()})
    latent_format = comfy.latent_formats.Flux()
    latent_format.latent_rgb_factors = torch.eye(3).tolist()
    latent_format.latent_rgb_factors_bias = None
    latent_format.latent_rgb_factors_reshape = lambda latent: network.decoder(latent[:1].float().cpu())
    latent_format.taesd_decoder_name = None  # taef1 expects FLUX's channels
    return latent_format


def load_vae_patcher(disable_dynamic: bool = False) -> comfy.model_patcher.ModelPatcher:
    """The embedded autoencoder's patcher; the host calls it again for a copy on another device."""
    weights, _ = load_autoencoder()
    network = Autoencoder(operations=comfy.ops.disable_weight_init, dtype=torch.float32).eval().requires_grad_(False)
    network.load_state_dict({name: weight.float() for name, weight in weights.items()})
    kind = comfy.model_patcher.ModelPatcher if disable_dynamic else comfy.model_patcher.CoreModelPatcher
    patcher = kind(network, comfy.model_management.vae_device(), comfy.model_management.vae_offload_device())
    patcher.cached_patcher_init = (load_vae_patcher, ())
    return patcher
