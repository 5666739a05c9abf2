"""A provider's key, from the environment or from a file that only its owner can read."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from ..disk import write_whole
from .files import make_private


def find_key(name: str, environment: Mapping[str, str], path: Path, all_names: Iterable[str]) -> str:
    """The key `name`, from the environment or else from the file, which is created with an empty value for each name.

    Raises ValueError, which says where to put the key and never shows what was found.
    """
    where, key = name, environment.get(name, "").strip()
    if not key:
        where, key = f"{name} in {path}", _from_file(path, all_names).get(name, "").strip()
    if not key:
        raise ValueError(
            f"no key: set the environment variable {name} before ComfyUI starts, or write the key into {path}, which "
            "only you can read. It is read at each run; never put a key into a workflow."
        )
    if not key.isascii() or not key.isprintable() or any(letter in key for letter in " *\"'\\"):
        raise ValueError(f"the key ({where}) has characters that no key has. Copy it again, without quotes.")
    return key


def _from_file(path: Path, all_names: Iterable[str]) -> dict[str, str]:
    try:
        if not path.exists():
            text = json.dumps(dict.fromkeys(all_names, ""), indent=1) + "\n"
            write_whole(path, lambda file: file.write(text.encode()), private=True)
            return {}
        make_private(path)
        text = path.read_text(encoding="utf-8-sig")  # editors on Windows add a BOM
    except OSError as error:
        raise ValueError(
            f"the file for keys cannot be used ({error.strerror}): {path}. It must be a file that belongs to the user "
            "who runs ComfyUI; or set the environment variable instead."
        ) from None
    except UnicodeDecodeError:
        raise ValueError(f"{path} is no text in UTF-8. Save it as such.") from None
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        line = getattr(error, "lineno", "?")
        raise ValueError(f'{path} is not JSON (line {line}). Its form is {{"BFL_API_KEY": "..."}}.') from None
    if not isinstance(content, dict) or not all(isinstance(value, str) for value in content.values()):
        raise ValueError(f'{path} must hold names and keys, as in {{"BFL_API_KEY": "..."}}.')
    return content
