"""The embedded text encoder behind the host's CLIP interface, for CLIPTextEncode."""

import json
from functools import partial
from typing import Any

import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.sd
import comfy.supported_models_base
import torch
from comfy.sd1_clip import escape_important, token_weights, unescape_important

from ..kontext_core.embedded import load_text_encoder
from ..kontext_core.embedded.text_encoder import TextEncoder, Vocabulary
from ..kontext_core.instructions import shorten
from .notices import notify

Section = list[tuple]  # (id, weight) or (id, weight, word number), 20 of them


class Tokenizer:
    """The host's tokenizer interface over the closed vocabulary."""

    def __init__(self, vocabulary: Vocabulary, embedding_directory: Any = None, tokenizer_data: Any = None):
        self.vocabulary = vocabulary

    def read(self, text: str) -> tuple[list[int], list[str]]:
        """The ids of a text, and warnings about unreadable parts, one line each."""
        pieces = token_weights(escape_important(text), 1.0)
        plain = unescape_important("".join(piece for piece, _ in pieces))
        ids, _, dropped = self.vocabulary.encode(plain)
        weighted = any(weight != 1.0 for _, weight in pieces)
        return ids, _problems(plain, self.vocabulary.unread(plain), dropped, weighted)

    def tokenize_with_weights(self, text: str, return_word_ids: bool = False, **_: Any) -> dict[str, list[Section]]:
        """`text` under the names of FLUX.1's two encoders. Unreadable parts are shown on the node."""
        ids, problems = self.read(text)
        if problems:
            notify("\n".join(problems))
        section = [(id, 1.0, word) if return_word_ids else (id, 1.0) for word, id in enumerate(ids)]
        return {"l": [section], "t5xxl": [section]}

    def untokenize(self, token_weight_pair: Section) -> list[tuple]:
        """Each token with its word; padding and end have none."""
        words = ("", "", *self.vocabulary.words)
        return [(token, words[token[0]]) for token in token_weight_pair]

    def state_dict(self) -> dict:
        return {}


class Encoder(TextEncoder):
    """The embedded text encoder with the methods that the host calls."""

    def __init__(self, vocabulary_size: int, device: Any, dtype: torch.dtype, model_options: dict):
        super().__init__(vocabulary_size, comfy.ops.manual_cast, device, dtype)
        self.dtypes = {dtype}
        self.reset_clip_options()

    def set_clip_options(self, options: dict) -> None:
        self.execution_device = options.get("execution_device", self.execution_device)

    def reset_clip_options(self) -> None:
        self.execution_device = None

    def encode_token_weights(self, tokens: dict[str, list[Section]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Context (1, 20, 128) and pooled (1, 128). Of CLIPTextEncodeFlux's two texts only T5's is used."""
        ids = torch.tensor(
            [[token[0] for token in section] for section in tokens["t5xxl"]], device=self.execution_device
        )
        context, pooled = self(ids)
        device = comfy.model_management.intermediate_device()
        return context.to(device), pooled.to(device)

    def load_sd(self, sd: dict) -> Any:
        return self.load_state_dict(sd, strict=False, assign=getattr(self, "can_assign_sd", False))


def load_clip(disable_dynamic: bool = False) -> comfy.sd.CLIP:
    """The embedded text encoder in float32."""
    weights, metadata = load_text_encoder()
    vocabulary = Vocabulary(json.loads(metadata["vocabulary"]))
    target = comfy.supported_models_base.ClipTarget(partial(Tokenizer, vocabulary), partial(Encoder, len(vocabulary)))
    clip = comfy.sd.CLIP(
        target,
        parameters=sum(weight.numel() for weight in weights.values()),
        state_dict=[{name: weight.float() for name, weight in weights.items()}],
        model_options={"dtype": torch.float32},
        disable_dynamic=disable_dynamic,
    )
    clip.patcher.cached_patcher_init = (load_clip_patcher, ())
    return clip


def load_clip_patcher(disable_dynamic: bool = False) -> comfy.model_patcher.ModelPatcher:
    """The embedded text encoder's patcher; the host calls it for a copy on another device."""
    return load_clip(disable_dynamic).patcher


def _problems(text: str, unread: tuple[list[str], list[str], int], dropped: int, weighted: bool) -> list[str]:
    unknown, signs, count = unread
    problems = []
    if not text.strip():
        problems.append("The text is empty: the model is given no instruction.")
    if unknown:
        words = f"{len(unknown)} of {count} words ({shorten(unknown)})"
        problems.append(f"The embedded model does not know {words}: they have no effect.")
    if signs:
        problems.append(f"The embedded model reads no signs: {shorten(signs)} have no effect.")
    if dropped:
        problems.append(f"The text is too long: its last {dropped} words have no effect.")
    if weighted:
        problems.append("The embedded model has no prompt weights: brackets and numbers have no effect.")
    return problems
