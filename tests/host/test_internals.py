"""ComfyUI's private API that `host/` uses: `manage.py test host -k internals` reports what changed.

A row names the module that uses a part, why no public one does, and what to do when the check fails.
"""

import inspect
from typing import NamedTuple

import comfy.conds
import comfy.hooks
import comfy.latent_formats
import comfy.ldm.flux.model
import comfy.model_management
import comfy.model_patcher
import comfy.patcher_extension
import comfy.quant_ops
import comfy.sample
import comfy.samplers
import comfy.sd
import comfy.sd1_clip
import comfy.supported_models_base
import comfy.utils
import comfy.weight_adapter
import execution
import latent_preview
import pytest
import torch
from app.user_manager import UserManager
from server import PromptServer


def takes(function, *names):
    """Whether the parameters of a function start with these."""
    return tuple(inspect.signature(function).parameters)[: len(names)] == names


def accepts(function, *names):
    """Whether a function has parameters of these names."""
    return set(names) <= set(inspect.signature(function).parameters)


def has(thing, *names):
    return all(hasattr(thing, name) for name in names)


class Internal(NamedTuple):
    used_in: str
    why: str
    then: str  # what to do when it fails
    holds: object  # () -> bool


VAE_ATTRIBUTES = (
    "vae_dtype", "disable_offload", "latent_channels", "downscale_ratio", "upscale_ratio", "memory_used_encode",
    "memory_used_decode", "patcher", "first_stage_model", "size",
)  # fmt: skip


def smallest_vae():
    return comfy.sd.VAE(sd={"pixel_space_vae": torch.tensor(1.0)})


def is_scaled(latent_format):
    latent = torch.rand(1, 16, 2, 2)
    return torch.allclose(latent_format.process_out(latent_format.process_in(latent)), latent, atol=1e-6)


INTERNALS = {
    "FLUX's call": Internal(
        "forward.Call",
        "wrappers of DIFFUSION_MODEL get positional arguments",
        "bring the fields of `Call` into the new order",
        lambda: takes(
            comfy.ldm.flux.model.Flux._forward,
            *("self", "x", "timestep", "context", "y", "guidance", "ref_latents", "control", "transformer_options"),
        ),
    ),
    "FLUX's parameters": Internal(
        "forward: is this FLUX.1?",
        "models of other layouts use the same class",
        "look for the flags that tell FLUX.1 from its successors",
        lambda: (
            {
                "global_modulation",
                "yak_mlp",
                "mlp_silu_act",
                "txt_norm",
                "txt_ids_dims",
                "vec_in_dim",
                "patch_size",
                "default_ref_method",
            }
            <= set(comfy.ldm.flux.model.FluxParams.__dataclass_fields__)
        ),
    ),  # fmt: skip
    "FLUX's methods": Internal(
        "forward: another node's forward",
        "other packs replace them, and then our forward must not run",
        "name the methods that run now",
        lambda: has(comfy.ldm.flux.model.Flux, "_forward", "forward_orig"),
    ),
    "wrappers": Internal(
        "acceleration, controls, forward.run_instead",
        "they are the host's way to stand around a run",
        "see comfy/patcher_extension.py",
        lambda: (
            has(
                comfy.patcher_extension.WrappersMP,
                "OUTER_SAMPLE",
                "PREPARE_SAMPLING",
                "PREDICT_NOISE",
                "DIFFUSION_MODEL",
            )
            and takes(
                comfy.patcher_extension.WrapperExecutor.new_class_executor, "original", "class_obj", "wrappers", "idx"
            )
        ),
    ),
    "a sampling run": Internal(
        "acceleration and controls: OUTER_SAMPLE",
        "a wrapper finds sampler and sigmas by their places",
        "bring args[...] of the wrappers into the new order",
        lambda: takes(
            comfy.samplers.CFGGuider.outer_sample,
            *("self", "noise", "latent_image", "sampler", "sigmas", "denoise_mask", "callback"),
        ),
    ),
    "preparing a run": Internal(
        "acceleration: memory for what is kept",
        "the estimate of memory knows latents only",
        "see comfy/sampler_helpers.py: prepare_sampling",
        lambda: takes(comfy.sampler_helpers.prepare_sampling, "model", "noise_shape", "conds"),
    ),
    "a guider's state": Internal(
        "controls and sampling",
        "what was said in a CONDITIONING is read when a run starts",
        "see comfy/samplers.py: CFGGuider",
        lambda: (
            accepts(comfy.samplers.CFGGuider.predict_noise, "x", "timestep", "model_options", "seed")
            and has(comfy.samplers.CFGGuider, "inner_set_conds", "set_cfg")
            and accepts(comfy.samplers.sampling_function, "model", "x", "timestep", "uncond", "cond", "cond_scale")
        ),
    ),
    "kinds of hooks": Internal(
        "acceleration: weights that change in a run",
        "what is held constant must not change",
        "add new kinds that change the model",
        lambda: (
            {kind.name for kind in comfy.hooks.EnumHookType}
            == {"Weight", "ObjectPatch", "AdditionalModels", "TransformerOptions", "Injections"}
        ),
    ),
    "hooks of a conditioning": Internal(
        "controls: a hook brings our wrappers into any run",
        "there is no other way without a patched MODEL",
        "see comfy/hooks.py: TransformerOptionsHook, HookGroup",
        lambda: (
            accepts(comfy.hooks.TransformerOptionsHook, "transformers_dict")
            and has(comfy.hooks.HookGroup, "add", "remove", "contains", "clone", "clone_and_combine")
        ),
    ),
    "values of a conditioning": Internal(
        "controls: data of ours reaches each call",
        "conditionings become calls through these classes",
        "see comfy/conds.py: process_cond",
        lambda: takes(comfy.conds.CONDConstant.process_cond, "self", "batch_size") and has(comfy.conds, "CONDRegular"),
    ),
    "the embedded VAE": Internal(
        "autoencoder.load_vae",
        "the host builds a VAE from a state dict of a known architecture only",
        "set what the new VAE reads in place of these attributes",
        lambda: has(smallest_vae(), *VAE_ATTRIBUTES),
    ),
    "the embedded CLIP": Internal(
        "text_encoder.load_clip",
        "the host builds a CLIP from a target of tokenizer and model",
        "see comfy/sd.py: CLIP.__init__ and comfy/supported_models_base.py: ClipTarget",
        lambda: (
            accepts(comfy.sd.CLIP.__init__, "target", "parameters", "state_dict", "model_options", "disable_dynamic")
            and accepts(comfy.supported_models_base.ClipTarget, "tokenizer", "clip")
        ),
    ),
    "prompt weights": Internal(
        "text_encoder: brackets and numbers",
        "the embedded tokenizer has to read them as the host's do",
        "see comfy/sd1_clip.py",
        lambda: comfy.sd1_clip.token_weights(comfy.sd1_clip.escape_important("a (b:2) \\(c\\)"), 1.0)[1] == ("b", 2.0),
    ),
    "T5's length": Internal(
        "text_length.set_text_length",
        "the reference pads to 512 tokens, the host to 256",
        "see comfy/sd.py: CLIP.set_tokenizer_option",
        lambda: takes(comfy.sd.CLIP.set_tokenizer_option, "self", "option_name", "value"),
    ),
    "a copy on another device": Internal(
        "autoencoder, loading, text_encoder: cached_patcher_init",
        "the host loads a model again for a copy, such as one without dynamic memory",
        "see comfy/model_patcher.py: cached_patcher_init",
        lambda: (
            has(
                comfy.model_patcher.ModelPatcher(torch.nn.Linear(1, 1), torch.device("cpu"), torch.device("cpu")),
                "cached_patcher_init",
                "is_dynamic",
                "clone",
            )
            and has(comfy.model_patcher, "CoreModelPatcher")
            and has(comfy.sd, "load_vae_patcher")
        ),
    ),  # fmt: skip
    "LoRA's matrices": Internal(
        "adapters._patch",
        "the host's weight adapters take a tuple whose order they define",
        "bring the tuples into the order of comfy/weight_adapter/*.py: calculate_weight",
        lambda: all(
            takes(adapter.__init__, "self", "loaded_keys", "weights")
            and accepts(adapter.calculate_weight, "weight", "key", "strength", "strength_model", "offset", "function")
            for adapter in (
                comfy.weight_adapter.LoRAAdapter,
                comfy.weight_adapter.LoHaAdapter,
                comfy.weight_adapter.LoKrAdapter,
            )
        ),
    ),  # fmt: skip
    "quantised formats": Internal(
        "loading: formats that this host knows",
        "a file of another format would be loaded as noise",
        "see comfy/quant_ops.py",
        lambda: "float8_e4m3fn" in comfy.quant_ops.QUANT_ALGOS,
    ),
    "kinds of text encoders": Internal(
        "files.require_text_encoder",
        "a wrong encoder gives a wall of key names",
        "see comfy/sd.py: detect_te_model, TEModel",
        lambda: {"CLIP_L", "T5_XXL"} <= {kind.name for kind in comfy.sd.TEModel},
    ),
    "FLUX's latent format": Internal(
        "autoencoder.embedded_latent_format",
        "previews go through a function of ours",
        "see latent_preview.py: Latent2RGBPreviewer",
        lambda: (
            is_scaled(comfy.latent_formats.Flux())
            and accepts(latent_preview.Latent2RGBPreviewer, "latent_rgb_factors", "latent_rgb_factors_reshape")
        ),
    ),
    "an empty latent": Internal(
        "sampling.sample",
        "the host gives an empty latent the model's channels",
        "see comfy/sample.py: fix_empty_latent_channels",
        lambda: takes(
            comfy.sample.fix_empty_latent_channels,
            *("model", "latent_image", "downscale_ratio_spacial", "downscale_ratio_temporal"),
        ),
    ),
    "the bar on the console": Internal(
        "sampling.integrate",
        "samplers of the host show one",
        "use tqdm.trange",
        lambda: has(comfy.utils, "model_trange", "PROGRESS_BAR_ENABLED"),
    ),
    "a VAE's scale": Internal(
        "references: is this FLUX.1's autoencoder?",
        "a VAE does not say what it is for",
        "see comfy/sd.py: VAE.spacial_compression_encode",
        lambda: smallest_vae().spacial_compression_encode() == 1,
    ),
    "devices and dtypes between nodes": Internal(
        "images, latents, sampling",
        "flags of the command line decide",
        "see comfy/model_management.py",
        lambda: (
            comfy.model_management.intermediate_dtype() in (torch.float16, torch.float32)
            and comfy.model_management.intermediate_device().type in ("cpu", "cuda", "mps", "xpu")
        ),
    ),
    "whose prompt it is": Internal(
        "users",
        "with --multi-user a node is not told who runs it",
        "see server.py: post_prompt, and app/user_manager.py",
        lambda: (
            has(execution.PromptQueue, "get_current_queue_volatile")
            and takes(UserManager.get_request_user_id, "self", "request")
            and has(PromptServer, "add_on_prompt_handler", "trigger_on_prompt")
        ),
    ),
}


@pytest.mark.parametrize("name", INTERNALS)
def test_internals(name):
    internal = INTERNALS[name]
    assert internal.holds(), f"host/ {internal.used_in}: {internal.why}. What to do: {internal.then}."


def test_internals_are_looked_for():
    """A row fails if its part is missing."""
    assert not takes(comfy.samplers.CFGGuider.outer_sample, "self", "sigmas")
    assert not accepts(comfy.sd.CLIP.__init__, "no such parameter")
    assert not has(smallest_vae(), "no such attribute")
