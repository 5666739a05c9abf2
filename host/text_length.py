"""Length of T5's input. The reference implementation pads texts to 512 tokens, the host to 256."""

from collections.abc import Callable
from typing import Any

import comfy.sd

from ..kontext_core.instructions import TRAINED_TOKENS, unreadable
from .notices import notify
from .text_encoder import Tokenizer

LENGTHS = ("256", "512")
_PADDING = 0  # T5's token


def set_text_length(clip: comfy.sd.CLIP, length: int) -> None:
    """Pad T5's texts to `length` tokens, and warn on the node about parts that T5 cannot read or was not trained on.

    `clip` is the host's for FLUX.1 and is changed in place, so pass one that was just loaded.
    """
    clip.set_tokenizer_option("t5xxl_min_length", length)
    clip.tokenizer.tokenize_with_weights = _counting(clip.tokenizer.tokenize_with_weights)


def _counting(tokenize: Callable[..., dict[str, list]]) -> Callable[..., dict[str, list]]:
    def tokenize_with_weights(text: str, *arguments: Any, **options: Any) -> dict[str, list]:
        tokens = tokenize(text, *arguments, **options)
        count = _count(tokens)
        problems = unreadable(text)
        if count > TRAINED_TOKENS:
            problems.append(
                f"The text has {count} tokens; FLUX.1 was trained on {TRAINED_TOKENS} at most. "
                "What comes later may have no effect. Shorten the text."
            )
        if problems:
            notify("\n".join(problems))
        return tokens

    return tokenize_with_weights


def read_text(clip: comfy.sd.CLIP, text: str) -> tuple[int, list[str]]:
    """The number of tokens of a text for T5 or the embedded encoder, without padding; unreadable parts, one line each.

    Raises ValueError for the CLIP of a model without T5.
    """
    if isinstance(clip.tokenizer, Tokenizer):
        ids, problems = clip.tokenizer.read(text)
        return sum(id != _PADDING for id in ids), problems
    tokens = type(clip.tokenizer).tokenize_with_weights(clip.tokenizer, text)  # bypasses the notices
    if "t5xxl" not in tokens:
        raise ValueError(
            f"clip has no T5 ({', '.join(tokens)}); FLUX.1's is needed. Use the CLIP of Kontext Loader, or leave it "
            "unconnected: the length is then estimated."
        )
    return _count(tokens), unreadable(text)


def _count(tokens: dict[str, list]) -> int:
    return sum(_is_text(token[0]) for section in tokens["t5xxl"] for token in section)


def _is_text(token: Any) -> bool:
    """Embeddings from files are tensors in the list."""
    return not (isinstance(token, int) and token == _PADDING)
