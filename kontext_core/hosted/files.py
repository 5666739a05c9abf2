"""Files that only their owner can read."""

from __future__ import annotations

import os
from pathlib import Path


def make_private(path: Path) -> bool:
    """Remove all permissions except the owner's; True if there were any to remove. OSError if not permitted."""
    if os.name == "nt" or not path.stat().st_mode & 0o077:
        return False
    path.chmod(0o600)
    return True
