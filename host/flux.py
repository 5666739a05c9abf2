"""Whether a MODEL is FLUX.1: the one answer for sampling, LoRA, controls and acceleration."""

from typing import Any

from ..kontext_core.geometry import Geometry

_SIZES = ("in_channels", "out_channels", "hidden_size", "num_heads", "depth", "depth_single_blocks", "context_in_dim")
_SIZES += ("vec_in_dim", "mlp_ratio", "guidance_embed", "patch_size")
_RELATIVES = ("txt_ids_dims", "global_modulation", "mlp_silu_act", "yak_mlp", "txt_norm")  # settings of later models


def require_flux_1(model: Any) -> Geometry:
    """The sizes of a MODEL's FLUX.1, with any kind of layers. ValueError for any other model.

    The host uses the same classes for later models (FLUX.2, LongCat Image); their configuration differs.
    """
    config = model.model.model_config.unet_config
    if not _is_flux_1(config):
        raise ValueError(
            f"model is {type(model.model).__name__}; a FLUX.1 model is needed. Use Kontext Loader, or Load Diffusion "
            "Model with FLUX.1 Kontext [dev]."
        )
    return Geometry(axes_dim=tuple(config["axes_dim"]), **{name: config[name] for name in _SIZES})


def _is_flux_1(config: dict[str, Any]) -> bool:
    sizes = config.get("out_channels") == Geometry.out_channels and config.get("patch_size") == Geometry.patch_size
    named = config.get("image_model") == "flux" and bool(config.get("vec_in_dim"))
    return sizes and named and not any(config.get(name) for name in _RELATIVES)
