"""Instructions that Kontext follows: sentences composed from a few fields, and a lint of free text.

The rules are those of BFL's prompting guide for Kontext: name the subject,
state the change, state what stays, quote text.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable

TRAINED_TOKENS = 512  # the longest T5 input of FLUX.1's training; BFL's `load_t5(max_length=512)`
_TOKENS_A_WORD = 1.4  # average number of T5 tokens per English word

ACTIONS = {  # local change -> sentence
    "change": "Change {subject} to {result}",
    "replace": "Replace {subject} with {result}",
    "add": "Add {subject} {result}",
    "remove": "Remove {subject}",
}


def compose(kind: str, fields: dict[str, str]) -> str:
    """The instruction for an edit of this kind (a key of `KINDS`). Raises ValueError if a required field is empty."""
    return KINDS[kind](**{name: text.strip().rstrip(".") for name, text in fields.items()})


def _local(action: str, subject: str, result: str, keep: str) -> str:
    named = {"subject": _required("subject", subject)}
    if action != "remove":
        named["result"] = _required("result", result)
    return _sentence(ACTIONS[action].format(**named), keep)


def _global(result: str, keep: str) -> str:
    return _sentence(f"Change the whole picture to {_required('result', result)}", keep)


def _text(old: str, new: str, keep: str) -> str:
    return _sentence(f"Replace {_quoted('old', old)} with {_quoted('new', new)}", keep)


def _character(subject: str, scene: str, keep: str) -> str:
    return _sentence(f"{_required('subject', subject)} is now {_required('scene', scene)}", keep)


def _style(style: str, traits: str, scene: str, keep: str) -> str:
    """A style named in words, or with `scene` the style of a reference."""
    with_traits = f" with {traits}" if traits else ""
    if scene:
        return _sentence(f"Using this style{with_traits}, draw {scene}", "")
    return _sentence(f"Change the picture to the style of {_required('style', style)}{with_traits}", keep)


def _background(subject: str, background: str, keep: str) -> str:
    change = f"Change the background to {_required('background', background)}"
    return _sentence(change, f"{_required('subject', subject)} in {keep}" if keep else subject)


KINDS: dict[str, Callable[..., str]] = {
    "local": _local,
    "global": _global,
    "text": _text,
    "character": _character,
    "style": _style,
    "background": _background,
}


def _sentence(change: str, keep: str) -> str:
    text = f"{change}, while keeping {keep}." if keep else f"{change}."
    return text[0].upper() + text[1:]


def _required(field: str, text: str) -> str:
    if not text:
        raise ValueError(f"{field} is empty. {_MISSING[field]}")
    return text


_MISSING = {
    "subject": "Name the thing or the person unambiguously: the woman with short black hair.",
    "result": "Say what it becomes or where it goes: bright red; on the table.",
    "old": "Write the words that are in the picture now, exactly as they are spelled.",
    "new": "Write the words that replace them.",
    "scene": "Say where the subject is or what it does: reading a book in a library.",
    "style": "Name it: watercolour painting, 1960s pop art. For the style of a reference, fill in scene.",
    "background": "Say what should be behind the subject: a sunny beach.",
}


def _quoted(field: str, text: str) -> str:
    """The text in quotation marks that do not occur in it."""
    text = _required(field, text).strip("\"'“”‘’")
    return f'"{text}"' if "'" in text else f"'{text}'"


# Lint


def lint(text: str, tokens: int, exact: bool) -> list[str]:
    """Warnings about an instruction, one line each; empty if there are none.

    `tokens` is its length in T5 tokens, `exact` or estimated (`estimate_tokens`).
    """
    plain = re.sub(_QUOTED, " ", text)
    found = [line for check in (_pronouns, _bare_transform, _negations) for line in check(plain)]
    if plain == text and (word := re.search(_WRITTEN, plain, re.IGNORECASE)):
        found.append(
            f"'{word[0]}', but nothing is in quotes: put the exact words in quotes: replace 'OPEN' with 'CLOSED'."
        )
    if tokens > TRAINED_TOKENS:
        count = f"{tokens}" if exact else f"about {tokens}"
        found.append(f"It has {count} tokens; FLUX.1 was trained on {TRAINED_TOKENS} at most. Shorten it.")
    return found


def estimate_tokens(text: str) -> int:
    """Estimates the number of T5 tokens from words and punctuation, without a tokenizer."""
    words, signs = re.findall(r"\w+", text), re.findall(r"[^\w\s]", text)
    return math.ceil(_TOKENS_A_WORD * len(words) + len(signs)) + 1  # and the end


def unreadable(text: str) -> list[str]:
    """A warning if T5 has no token for some characters of the text; empty if it can encode all of them.

    T5's vocabulary covers English, German, French and Romanian. Other characters become the unknown token, and adjacent
    unknown characters merge into one: a sentence in Korean or Chinese becomes a few unknown tokens.
    """
    unescaped = re.sub(r"\\([()])", r"\1", text)  # ComfyUI escapes brackets that are not prompt weights
    signs = [sign for sign in unicodedata.normalize("NFKC", unescaped) if _is_seen(sign)]
    unknown = [sign for sign in signs if sign not in T5_SIGNS]
    if not unknown:
        return []
    advice = "Write it in English." if any(map(str.isalpha, unknown)) else "Leave them out."
    which = shorten(unknown)
    return [f"T5 cannot read {len(unknown)} of {len(signs)} letters and signs ({which}): they have no effect. {advice}"]


def shorten(words: list[str]) -> str:
    """The first few distinct words, and how many more there are."""
    distinct = list(dict.fromkeys(words))
    more = f" and {len(distinct) - _LISTED} more" if len(distinct) > _LISTED else ""
    return ", ".join(distinct[:_LISTED]) + more


def _is_seen(sign: str) -> bool:
    """Whether a character is visible; T5's tokenizer drops most control and format characters."""
    return not sign.isspace() and unicodedata.category(sign) not in ("Cc", "Cf")


_LISTED = 8
T5_SIGNS = frozenset(  # the characters in T5's vocabulary, after Unicode's compatibility normalisation (NFKC)
    "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!\"#$%&'()*+,-./:;=>?@[]_|£«®°»–—‘’“”„•′€"
    "ÉÎÜßàáâäçèéêîóôöùûüăşţșțавдеиклмнорсту"
)
_QUOTED = r"(?<!\w)'[^']+'(?!\w)|\"[^\"]+\"|“[^“”]+”|‘[^‘’]+’"  # an opening quote inside would backtrack for hours
_WRITTEN = r"\b(text|words?|letters?|lettering|caption|title|spelling|says|reads)\b"
_PRONOUNS = r"\b(he|she|it|they|him|them|hers|theirs|her(?!\s+\w))\b"
_POSSESSIVES = r"\b(his|her|its|their)(?=\s+\w)"
_KEEPING = r"\b(keep|keeping|preserve|preserving|same|unchanged|maintain|maintaining)\b"


def _pronouns(text: str) -> list[str]:
    """Exempt: `it` in `make it night` means the picture, and possessives after `keep` refer to a named subject."""
    named = re.sub(r"\b(make|turn|change)\s+it\b", " ", text, flags=re.IGNORECASE)
    kept = re.search(_KEEPING, named, re.IGNORECASE)
    asked = named if kept is None else named[: kept.start()]
    found = re.findall(_POSSESSIVES, asked, re.IGNORECASE) + re.findall(_PRONOUNS, named, re.IGNORECASE)
    words = ", ".join(dict.fromkeys(f"'{word.lower()}'" for word in found))
    return [f"{words}: say who or what is meant, such as the woman with short black hair."] if found else []


def _bare_transform(text: str) -> list[str]:
    if not re.search(r"\btransform\w*\b", text, re.IGNORECASE) or re.search(_KEEPING, text, re.IGNORECASE):
        return []
    return ["'transform' alone is taken as a change of everything: say what to keep, or write change or replace."]


def _negations(text: str) -> list[str]:
    found = re.findall(r"\b(no|not|without|never|none|nothing|\w+n['’]t)\b", text, re.IGNORECASE)
    words = ", ".join(dict.fromkeys(f"'{word.lower()}'" for word in found))
    advice = "Name what shall be there instead (an empty street), or use Kontext Negative."
    return [f"{words}: the model still reads the words after it. {advice}"] if found else []
