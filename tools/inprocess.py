"""Moved to batch/inprocess.py."""

import sys

from batch import inprocess

sys.modules[__name__] = inprocess
