"""Sessions: trees of turns on one first picture, kept on disk.

`Store` is a folder: an SQLite database with the trees, and the files of each turn. A file has its content on disk
before it gets its name, and its name before a row mentions it; rows go before files. So a crash at any moment leaves
only complete turns, and perhaps unreferenced files, which a clean-up removes. Several processes may use one store.
"""

from .cleanup import Plan
from .database import SessionError
from .records import ID, Made, Result, Session, Turn
from .store import STEPS, Store

__all__ = ["ID", "STEPS", "Made", "Plan", "Result", "Session", "SessionError", "Store", "Turn"]
