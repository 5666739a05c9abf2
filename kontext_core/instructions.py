"""Instructions that Kontext follows: sentences from a few fields, and a lint of texts.

The rules are those of BFL's prompting guide for Kontext: name the subject, say the change, say what stays, quote text.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable

TRAINED_TOKENS = 512  # of T5, that FLUX.1 was trained on; BFL's `load_t5(max_length=512)`
_TOKENS_A_WORD = 1.4  # T5 makes about so many of an English word

ACTIONS = {  # of a local change -> its sentence
    "change": "Change {subject} to {result}",
    "replace": "Replace {subject} with {result}",
    "add": "Add {subject} {result}",
    "remove": "Remove {subject}",
}


def compose(kind: str, fields: dict[str, str]) -> str:
    """The instruction of a kind of edit (see `KINDS`) from its fields. Raises ValueError if one it needs is empty."""
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
    """Named in words; or, with a scene, taken from a reference."""
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
    "subject": "Name the thing or the person so that nothing else can be meant: the woman with short black hair.",
    "result": "Say what it shall become or where it shall be: bright red; on the table.",
    "old": "Write the words that stand in the picture now, as they are written there.",
    "new": "Write the words that shall stand there.",
    "scene": "Say where the subject is or what it does: reading a book in a library.",
    "style": "Name it: watercolour painting, 1960s pop art. For the style of a reference fill in scene.",
    "background": "Say what shall be behind the subject: a sunny beach.",
}


def _quoted(field: str, text: str) -> str:
    """The text in quotes that it does not contain itself."""
    text = _required(field, text).strip("\"'“”‘’")
    return f'"{text}"' if "'" in text else f"'{text}'"


# Doubts


def doubts(text: str, tokens: int, exact: bool) -> list[str]:
    """Warnings about an instruction, one line each; empty if there are none.

    `tokens` is its length for T5, `exact` or estimated (`estimate_tokens`).
    """
    plain = re.sub(_QUOTED, " ", text)
    found = [line for check in (_pronouns, _bare_transform, _negations) for line in check(plain)]
    if plain == text and (word := re.search(_WRITTEN, plain, re.IGNORECASE)):
        found.append(
            f"'{word[0]}', but nothing is in quotes: put the exact words in quotes: replace 'OPEN' with 'CLOSED'."
        )
    if tokens > TRAINED_TOKENS:
        about = "has" if exact else "has about"
        found.append(f"It {about} {tokens} tokens; FLUX.1 was trained on {TRAINED_TOKENS} at most. Shorten it.")
    return found


def estimate_tokens(text: str) -> int:
    """Estimates the number of T5 tokens from words and punctuation, without a tokenizer."""
    words, signs = re.findall(r"\w+", text), re.findall(r"[^\w\s]", text)
    return math.ceil(_TOKENS_A_WORD * len(words) + len(signs)) + 1  # and the end


def unreadable(text: str) -> list[str]:
    """What T5 has no token for, a line; nothing if it can read all.

    Its vocabulary is of English, German, French and Romanian. Everything else becomes its unknown token, and neighbours
    become one together: a sentence in Korean or Chinese is a few of these.
    """
    unescaped = re.sub(r"\\([()])", r"\1", text)  # as ComfyUI writes brackets that are no prompt weights
    signs = [sign for sign in unicodedata.normalize("NFKC", unescaped) if _is_seen(sign)]
    unknown = [sign for sign in signs if sign not in T5_SIGNS]
    if not unknown:
        return []
    advice = "Write it in English." if any(map(str.isalpha, unknown)) else "Leave them out."
    which = shorten(unknown)
    return [f"T5 cannot read {len(unknown)} of {len(signs)} letters and signs ({which}): they have no effect. {advice}"]


def shorten(words: list[str]) -> str:
    """The first of them, each once, and how many more there are."""
    distinct = list(dict.fromkeys(words))
    more = f" and {len(distinct) - _LISTED} more" if len(distinct) > _LISTED else ""
    return ", ".join(distinct[:_LISTED]) + more


def _is_seen(sign: str) -> bool:
    """Control and format characters are seen by nobody, and T5's tokenizer drops most."""
    return not sign.isspace() and unicodedata.category(sign) not in ("Cc", "Cf")


_LISTED = 8
T5_SIGNS = frozenset(  # all that are in T5's vocabulary, after Unicode's compatibility normalisation (NFKC)
    "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!\"#$%&'()*+,-./:;=>?@[]_|£«®°»–—‘’“”„•′€"
    "ÉÎÜßàáâäçèéêîóôöùûüăşţșțавдеиклмнорсту"
)
_QUOTED = r"(?<!\w)'[^']+'(?!\w)|\"[^\"]+\"|“[^“”]+”|‘[^‘’]+’"  # without its own opening: many of them took hours
_WRITTEN = r"\b(text|words?|letters?|lettering|caption|title|spelling|says|reads)\b"
_PRONOUNS = r"\b(he|she|it|they|him|them|hers|theirs|her(?!\s+\w))\b"
_POSSESSIVES = r"\b(his|her|its|their)(?=\s+\w)"
_KEEPING = r"\b(keep|keeping|preserve|preserving|same|unchanged|maintain|maintaining)\b"


def _pronouns(text: str) -> list[str]:
    """`it` in `make it night` stands for the picture, and whose face is kept was said before: these are left alone."""
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
    advice = (
        "the model reads what is named after it. Name what shall be there instead (an empty street), or use Kontext"
    )
    return [f"{words}: {advice} Negative."] if found else []
