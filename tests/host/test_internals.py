"""ComfyUI's private API that `host/` uses: `manage.py test host -k internals` reports what changed.

A row names the module that uses a part, why no public one does, and what to do when the check fails.
"""

import inspect
import re
from pathlib import Path
from typing import NamedTuple

import comfy.conds
import comfy.hooks
import comfy.latent_formats
import comfy.ldm.flux.layers
import comfy.ldm.flux.math
import comfy.ldm.flux.model
import comfy.lora
import comfy.model_management
import comfy.model_patcher
import comfy.patcher_extension
import comfy.quant_ops
import comfy.sample
import comfy.samplers
import comfy.sd
import comfy.sd1_clip
import comfy.supported_models_base
import comfy.taesd.taesd
import comfy.text_encoders.flux
import comfy.utils
import comfy.weight_adapter
import comfy_execution.utils
import execution
import folder_paths
import latent_preview
import pytest
import torch
from app.user_manager import UserManager
from comfy_api.latest import io
from comfy_extras import nodes_easycache
from server import PromptServer

from batch import inprocess


def takes(function, *names):
    """Whether the parameters of a function start with these."""
    return tuple(inspect.signature(function).parameters)[: len(names)] == names


def accepts(function, *names):
    """Whether a function has parameters of these names."""
    return set(names) <= set(inspect.signature(function).parameters)


def has(thing, *names):
    return all(hasattr(thing, name) for name in names)


FLUX_METHODS = ("forward", "_forward", "forward_orig", "process_img")
FLUX_BLOCKS = ("DoubleStreamBlock", "SingleStreamBlock", "LastLayer")


class Internal(NamedTuple):
    used_in: str
    why: str
    then: str  # what to do when it fails
    holds: object  # () -> bool, or of what was seen in a run


def flux_vae():
    """A VAE as the host builds it from the weights of its small autoencoder for FLUX."""
    return comfy.sd.VAE(sd=comfy.taesd.taesd.TAESD(latent_channels=16).state_dict(), dtype=torch.float32)


def is_like_flux(vae):
    scales = vae.spacial_compression_encode(), vae.spacial_compression_decode()
    return vae.latent_channels == 16 and scales == (8, 8) and vae.vae_dtype == torch.float32 and not vae.disable_offload


def is_held(vae):
    """Whether the VAE keeps network, patcher, size and memory estimates in the attributes that `load_vae` sets."""
    estimates = (
        vae.memory_used_encode((1, 3, 64, 64), torch.float32),
        vae.memory_used_decode((1, 16, 8, 8), torch.float32),
    )
    size = vae.model_size()
    vae.size = 1
    return vae.patcher.model is vae.first_stage_model and min(estimates) > 0 and size > 1 == vae.model_size()


def is_defined_in(module, *functions):
    return all(function.__code__.co_filename == module.__file__ for function in functions)


def patch_of_rows(weight):
    return weight


def patches_rows():
    """Whether the host accepts a change of a range of rows with a function applied to it."""
    cpu = torch.device("cpu")
    patcher = comfy.model_patcher.ModelPatcher(torch.nn.Linear(2, 4), cpu, cpu)
    key = ("weight", (0, 1, 2), patch_of_rows)
    taken = patcher.add_patches({key: ("diff", (torch.ones(2, 2),))}, 1.0)
    (patch,) = patcher.patches["weight"]
    changed = comfy.lora.calculate_weight([patch], torch.zeros(4, 2), "weight")
    return list(taken) == [key] and changed.sum(1).tolist() == [0, 2, 2, 0]


def passes_the_area():
    """Whether `process_cond` of a conditioning's values receives the area of the call."""
    told = []

    class Told(comfy.conds.CONDConstant):
        def process_cond(self, batch_size, **options):
            told.append(options["area"])
            return self

    conds = {"model_conds": {"ours": Told(1)}, "area": (2, 3, 1, 0), "uuid": "one"}
    comfy.samplers.get_area_and_mult(conds, torch.zeros(1, 16, 4, 4), torch.ones(1))
    return [tuple(area) for area in told] == [(2, 3, 1, 0)]


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
        "flux.require_flux_1, known",
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
        "known._METHODS, known._replaced",
        "other packs replace them, and then our forward must not run",
        "name the methods and functions that run now",
        lambda: (
            is_defined_in(
                comfy.ldm.flux.model,
                *(getattr(comfy.ldm.flux.model.Flux, name) for name in FLUX_METHODS),
            )
            and is_defined_in(
                comfy.ldm.flux.layers,
                *(getattr(comfy.ldm.flux.layers, name).forward for name in FLUX_BLOCKS),
            )
            and is_defined_in(comfy.ldm.flux.math, comfy.ldm.flux.layers.attention)
        ),
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
        "see comfy/conds.py: process_cond, and comfy/samplers.py: get_area_and_mult",
        lambda: (
            takes(comfy.conds.CONDConstant.process_cond, "self", "batch_size")
            and has(comfy.conds, "CONDRegular")
            and passes_the_area()
        ),
    ),
    "the embedded VAE": Internal(
        "autoencoder.load_vae",
        "the host builds a VAE from a state dict of a known architecture only",
        "let the host build another FLUX autoencoder, and put our patcher and network where it has its own",
        lambda: is_like_flux(flux_vae()) and is_held(flux_vae()),
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
    "FLUX.1's tokenizer": Internal(
        "text_length: tokens are counted on their way",
        "the CLIP does not say how long a text is, and one of our own would not be the host's",
        "see comfy/sd.py: CLIP.tokenize",
        lambda: (
            takes(comfy.text_encoders.flux.FluxTokenizer.tokenize_with_weights, "self", "text")
            and "self.tokenizer.tokenize_with_weights(text" in inspect.getsource(comfy.sd.CLIP.tokenize)
        ),
    ),
    "a copy on another device": Internal(
        "autoencoder, loading, text_encoder: cached_patcher_init",
        "the host loads a model again for a copy, such as one without dynamic memory",
        "see comfy/model_patcher.py: cached_patcher_init",
        lambda: (
            has(
                comfy.model_patcher.ModelPatcher(torch.nn.Linear(1, 1), torch.device("cpu"), torch.device("cpu")),
                "cached_patcher_init",
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
    "changes of rows": Internal(
        "adapters._target",
        "a LoRA of q, k or v changes a range of the rows of one weight, and some tools swap halves",
        "bring the keys of the patches into the form that ModelPatcher.add_patches reads",
        patches_rows,
    ),
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
        lambda: (
            {"CLIP_L", "T5_XXL"} <= {kind.name for kind in comfy.sd.TEModel} and comfy.sd.detect_te_model({}) is None
        ),
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
        lambda: flux_vae().spacial_compression_encode() == 8,
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
    "a node's schema": Internal(
        "inputs.require",
        "the host checks only the constants of widgets",
        "see comfy_api/latest/_io.py: Input, DynamicCombo, Autogrow",
        lambda: (
            io.Float.Input("x").get_io_type() == "FLOAT"
            and has(io.DynamicCombo.Option("key", []), "key", "inputs")
            and has(io.Autogrow.TemplatePrefix(io.Image.Input("x"), prefix="x", min=0, max=1), "input")
            and not io.Float.Input("x").optional
        ),
    ),
    "the running node": Internal(
        "notices, users, sessions",
        "a notice is for the node that runs, and only the executor knows which",
        "see comfy_execution/utils.py: get_executing_context",
        lambda: has(comfy_execution.utils.ExecutionContext("prompt", "node", None), "prompt_id", "node_id"),
    ),
    "a private folder": Internal(
        "hosted, sessions",
        "keys, journal and sessions must not be served",
        "see folder_paths.py: get_system_user_directory",
        lambda: takes(folder_paths.get_system_user_directory, "name"),
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
    assert not has(flux_vae(), "no such attribute")
    assert not is_defined_in(comfy.ldm.flux.model, comfy.ldm.flux.layers.attention)
    assert not is_like_flux(comfy.sd.VAE(sd={"pixel_space_vae": torch.tensor(1.0)}))


# In a run


class Seen(NamedTuple):
    """What wrappers saw of one run of the host's guider and sampler with the embedded model."""

    guider: comfy.samplers.CFGGuider
    attributes: set[str]  # of the guider, in a step
    outer: tuple
    condition: dict
    prepare: tuple
    predict: tuple
    executor: comfy.patcher_extension.WrapperExecutor
    call: tuple
    options: dict


@pytest.fixture(scope="module")
def seen(pack):
    model, clip, _ = pack["KontextLoader"].execute({"source": "embedded"}).result
    calls, kinds = {}, comfy.patcher_extension.WrappersMP

    def watched(kind):
        def wrapper(executor, *args, **options):
            condition = getattr(executor.class_obj, "conds", {}).get("positive", [{}])[0]
            attributes = set(vars(executor.class_obj)) if executor.class_obj is not None else set()
            calls.setdefault(kind, (executor, args, options, dict(condition), attributes))
            return executor(*args, **options)

        return wrapper

    for kind in (kinds.OUTER_SAMPLE, kinds.PREPARE_SAMPLING, kinds.PREDICT_NOISE, kinds.DIFFUSION_MODEL):
        model.add_wrapper_with_key(kind, "seen", watched(kind))
    guider = comfy.samplers.CFGGuider(model)
    guider.inner_set_conds({"positive": clip.encode_from_tokens_scheduled(clip.tokenize("make the circle red"))})
    guider.set_cfg(1.0)
    noise = torch.zeros(1, 16, 4, 4)
    sampler = comfy.samplers.sampler_object("euler")
    guider.sample(noise, noise, sampler, torch.tensor([1.0, 0.5, 0.0]), disable_pbar=True)
    _, outer, _, condition, _ = calls[kinds.OUTER_SAMPLE]
    executor, call, options, *_ = calls[kinds.DIFFUSION_MODEL]
    _, predict, *_, attributes = calls[kinds.PREDICT_NOISE]
    return Seen(
        guider, attributes, outer, condition, calls[kinds.PREPARE_SAMPLING][1], predict, executor, call, options
    )


def replaced_cfg(model):
    """The options that a MODEL has when a node has replaced how positive and negative are combined."""
    changed = model.clone()
    changed.set_model_sampler_cfg_function(lambda args: args["cond"], disable_cfg1_optimization=True)
    return changed.model_options.keys() - model.model_options.keys()


def names(values):
    """The names of the values that are neither None nor empty."""
    return {name for name, value in values.items() if value is not None and value not in ({}, [], ())}


IN_A_RUN = {
    "the wrapper of a run": Internal(
        "acceleration._sample, controls._start",
        "sampler and sigmas are found by their places, and the conditionings are changed where the guider has them",
        "see comfy/samplers.py: CFGGuider.outer_sample",
        lambda seen: (
            isinstance(seen.outer[2], comfy.samplers.KSAMPLER)
            and seen.outer[3].tolist() == [1.0, 0.5, 0.0]
            and {"conds", "model_options", "model_patcher", "inner_model", "cfg"} <= seen.attributes
            and {"model_conds", "cross_attn"} <= seen.condition.keys()
        ),
    ),
    "the sampler euler": Internal(
        "acceleration._no_euler",
        "only plain Euler steps may be forecast, and a sampler does not say what it is",
        "see comfy/samplers.py: ksampler",
        lambda seen: seen.outer[2].sampler_function.__name__ == "sample_euler" and seen.outer[2].extra_options == {},
    ),
    "the wrapper of the loading": Internal(
        "acceleration._prepare",
        "the host reserves memory for latents only",
        "see comfy/sampler_helpers.py: prepare_sampling, and comfy/model_base.py: memory_required",
        lambda seen: (
            list(seen.prepare[1]) == [1, 16, 4, 4]
            and seen.prepare[0].model.memory_required([1, 16, 4, 4]) > 0
            and set(seen.prepare[2]) == {"positive"}
        ),
    ),
    "the wrapper of a prediction": Internal(
        "acceleration._predict, finite.watching, sampling._RangedGuider",
        "a step's noise level and the run's are only here",
        "see comfy/samplers.py: CFGGuider.predict_noise",
        lambda seen: (
            seen.predict[1].tolist() == [1.0]
            and seen.predict[2]["transformer_options"]["sample_sigmas"].tolist() == [1.0, 0.5, 0.0]
        ),
    ),
    "the wrapper of an evaluation": Internal(
        "forward.Call, forward.run_instead",
        "our forward runs in place of FLUX's, inside the wrappers after ours",
        "see comfy/ldm/flux/model.py: forward, and comfy/patcher_extension.py: WrapperExecutor",
        lambda seen: (
            isinstance(seen.executor.class_obj, comfy.ldm.flux.model.Flux)
            and len(seen.call) == 8
            and seen.executor.wrappers[seen.executor.idx] is not None
        ),
    ),
    "options of an evaluation": Internal(
        "known._CARRIED, controls._asked, acceleration._key",
        "an option that is not known makes every accelerated step run in full, and controls fail",
        "read what the new option does, then add it to known._CARRIED",
        lambda seen: (
            {"uuids", "sigmas", "sample_sigmas"} <= seen.call[7].keys()
            and names(seen.call[7]) <= inprocess.pack_module("host.known")._CARRIED
            and not names(seen.options)
        ),
    ),
    "a model's sizes": Internal(
        "flux.require_flux_1, loading._report",
        "a MODEL does not say which of the models with FLUX's classes it is",
        "see comfy/model_detection.py: the keys of unet_config",
        lambda seen: (
            {"image_model", "depth", "depth_single_blocks", "hidden_size", "num_heads", "axes_dim", "context_in_dim"}
            <= seen.guider.model_patcher.model.model_config.unet_config.keys()
        ),
    ),
    "the model's own shift": Internal(
        "schedule.run_fractions",
        "a part of a run may lie on the schedule that the MODEL carries",
        "see comfy/model_sampling.py: percent_to_sigma",
        lambda seen: 0 < seen.guider.model_patcher.get_model_object("model_sampling").percent_to_sigma(0.5) < 1,
    ),
    "another node's cfg": Internal(
        "sampling.rescaled, sampling._report",
        "two nodes that combine positive and negative would replace each other",
        "see comfy/model_patcher.py: set_model_sampler_cfg_function",
        lambda seen: replaced_cfg(seen.guider.model_patcher) == {"sampler_cfg_function", "disable_cfg1_optimization"},
    ),
    "the cause of NaN": Internal(
        "finite._cause",
        "a run that fails names the weight, the LoRA or the dtype",
        "see comfy/model_patcher.py: patches, and comfy/model_base.py: get_dtype_inference",
        lambda seen: (
            seen.guider.model_patcher.patches == {}
            and seen.guider.model_patcher.model.get_dtype_inference() == torch.float32
        ),
    ),
    "the host's own caches": Internal(
        "acceleration: two caches at once",
        "the errors of EasyCache and ours add up, and it says so nowhere",
        "see comfy_extras/nodes_easycache.py",
        lambda seen: has(nodes_easycache, "EasyCacheHolder", "LazyCacheHolder"),
    ),
}


@pytest.mark.parametrize("name", IN_A_RUN)
def test_internals_in_a_run(seen, name):
    internal = IN_A_RUN[name]
    assert internal.holds(seen), f"host/ {internal.used_in}: {internal.why}. What to do: {internal.then}."


def test_every_internal_names_a_file_of_host():
    """`used_in` begins with a module, so that a reader finds the place."""
    modules = {path.stem for path in (Path(__file__).parents[2] / "host").glob("*.py")}
    for name, internal in {**INTERNALS, **IN_A_RUN}.items():
        assert re.split(r"\W", internal.used_in)[0] in modules, name
