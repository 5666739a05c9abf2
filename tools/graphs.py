"""Moved to batch/graphs.py."""

import sys

from batch import graphs

sys.modules[__name__] = graphs
