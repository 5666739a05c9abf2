"""Files that only their owner can read."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def write_private(path: Path, text: str) -> None:
    """Write a file that is never readable by others (mode 600), under a temporary name first.

    It is on disk when this returns; else OSError is raised. On Windows the folder's permissions apply, which is
    normally in the user's own profile.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".new-")  # created with mode 600
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def make_private(path: Path) -> bool:
    """Remove all permissions except the owner's; True if there were any to remove. OSError if not permitted."""
    if os.name == "nt" or not path.stat().st_mode & 0o077:
        return False
    path.chmod(0o600)
    return True
