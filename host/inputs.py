"""Validate a node's inputs against its schema before it runs.

The host validates only the constants of widgets. From a prompt that a program wrote, a constant in a socket, a choice
that does not exist and NaN reach the node.
"""

import functools
import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from comfy_api.latest import io

from ..kontext_core.frames import Frame
from ..kontext_core.regions import Region
from .sessions import Place


def _is_latent(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("samples"), torch.Tensor)


def _is_conditioning(value: Any) -> bool:
    pairs = isinstance(value, list) and all(isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in value)
    return pairs and all(isinstance(text, torch.Tensor) and isinstance(said, dict) for text, said in value)


def _is_tensor(value: Any) -> bool:
    return isinstance(value, torch.Tensor)


def _has(*names: str) -> Callable[[Any], bool]:
    """Duck typing: other packs' objects may replace the host's."""
    return lambda value: all(hasattr(value, name) for name in names)


_SOCKETS: dict[str, Callable[[Any], bool]] = {
    "IMAGE": _is_tensor,
    "MASK": _is_tensor,
    "SIGMAS": _is_tensor,
    "LATENT": _is_latent,
    "CONDITIONING": _is_conditioning,
    "MODEL": _has("clone", "model_options"),
    "CLIP": _has("tokenize", "encode_from_tokens"),
    "VAE": _has("encode", "decode"),
    "KONTEXT_FRAME": lambda value: isinstance(value, Frame),
    "KONTEXT_REGION": lambda value: isinstance(value, Region),
    "KONTEXT_SESSION": lambda value: isinstance(value, Place),
}


def checked(node: type[io.ComfyNode]) -> type[io.ComfyNode]:
    """The node with validation: an invalid input is reported with its name, its value and what is needed."""
    execute = node.execute
    names = tuple(inspect.signature(execute).parameters)

    def check(arguments: Sequence[Any], inputs: dict[str, Any]) -> None:
        given = dict(zip(names, arguments, strict=False)) | inputs
        require(node.define_schema().inputs, given)

    if inspect.iscoroutinefunction(execute):

        @functools.wraps(execute)
        async def run_async(cls: type, *arguments: Any, **inputs: Any) -> Any:
            check(arguments, inputs)
            return await execute.__func__(cls, *arguments, **inputs)

        node.execute = classmethod(run_async)  # type: ignore[method-assign]
        return node

    @functools.wraps(execute)
    def run(cls: type, *arguments: Any, **inputs: Any) -> Any:
        check(arguments, inputs)
        return execute.__func__(cls, *arguments, **inputs)

    node.execute = classmethod(run)  # type: ignore[method-assign]
    return node


def require(inputs: Sequence[io.Input], given: dict[str, Any]) -> None:
    """ValueError unless `given` satisfies a schema's inputs; inputs of choices are in nested dictionaries."""
    for each in inputs:
        value = given.get(each.id)
        if value is None:
            if not each.optional:
                raise ValueError(_missing(each))
        elif isinstance(each, io.DynamicCombo.Input):
            _require_choice(each, value)
        elif isinstance(each, io.Autogrow.Input):
            for name, one in value.items():
                _require_value(each.template.input.get_io_type(), name, one)
        else:
            _require_value(each.get_io_type(), each.id, value)


def _require_choice(choice: io.DynamicCombo.Input, value: Any) -> None:
    options = {option.key: option.inputs for option in choice.options}
    chosen = value.get(choice.id) if isinstance(value, dict) else value
    if not isinstance(value, dict) or chosen not in options:
        raise ValueError(f"{choice.id} is {chosen!r}; choose one of {', '.join(options)}.")
    require(options[chosen], value)


def _require_value(kind: str, name: str, value: Any) -> None:
    if kind in ("FLOAT", "INT") and not (isinstance(value, (int, float)) and math.isfinite(value)):
        raise ValueError(f"{name} is {value}; a number is needed. Look at the node that gives it.")
    fits = _SOCKETS.get(kind)
    if fits is not None and not fits(value):
        raise ValueError(
            f"{name} is {_shown(value)}; {kind} is needed. Connect an output of that kind: a socket takes no constant."
        )


def _missing(each: io.Input) -> str:
    if isinstance(each, io.DynamicCombo.Input):
        keys = ", ".join(option.key for option in each.options)
        return f"{each.id} is missing or unknown; choose one of {keys}."
    return f"{each.id} is missing. Connect it, or give it a value."


def _shown(value: Any) -> str:
    text = repr(value)
    return f"{text if len(text) < 40 else text[:37] + '...'} ({type(value).__name__})"
