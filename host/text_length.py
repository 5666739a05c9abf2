"""How many tokens T5 reads: the reference pads every text to 512, the host to 256."""

from collections.abc import Callable
from typing import Any

import comfy.sd

from ..kontext_core.instructions import TRAINED_TOKENS
from .notices import notify

LENGTHS = ("256", "512")
_PADDING = 0  # T5's token


def set_text_length(clip: comfy.sd.CLIP, length: int) -> None:
    """Pad T5's texts to `length` tokens, and tell on the node when one is longer than FLUX.1 was trained on.

    `clip` is the host's for FLUX.1 and is changed in place, so give one that was just loaded.
    """
    clip.set_tokenizer_option("t5xxl_min_length", length)
    clip.tokenizer.tokenize_with_weights = _counting(clip.tokenizer.tokenize_with_weights)


def _counting(tokenize: Callable[..., dict[str, list]]) -> Callable[..., dict[str, list]]:
    def tokenize_with_weights(text: str, *arguments: Any, **options: Any) -> dict[str, list]:
        tokens = tokenize(text, *arguments, **options)
        count = _count(tokens)
        if count > TRAINED_TOKENS:
            notify(
                f"The text has {count} tokens; FLUX.1 was trained on {TRAINED_TOKENS} at most. "
                "What comes later may have no effect. Shorten the text."
            )
        return tokens

    return tokenize_with_weights


def count_tokens(clip: comfy.sd.CLIP, text: str) -> int:
    """How many tokens T5 reads of a text, without padding. Raises ValueError for the CLIP of a model without T5."""
    tokens = clip.tokenize(text)
    if "t5xxl" not in tokens:
        raise ValueError(
            f"clip has no T5 ({', '.join(tokens)}); FLUX.1's is needed. Use the CLIP of Kontext Loader, or leave it "
            "unconnected: the length is then estimated."
        )
    return _count(tokens)


def _count(tokens: dict[str, list]) -> int:
    return sum(_is_text(token[0]) for section in tokens["t5xxl"] for token in section)


def _is_text(token: Any) -> bool:
    """Embeddings from files stand in the list as tensors."""
    return not (isinstance(token, int) and token == _PADDING)
