"""Requests for the stand-in, as tests make them."""

import itertools

import numpy as np

from kontext_core.hosted import PROVIDERS
from kontext_core.hosted.client import Timing
from kontext_core.hosted.pictures import to_send
from kontext_core.hosted.ratios import of_picture
from kontext_core.hosted.wire import Job

KEY = "sk-secret-0123456789abcdef"
QUICK = Timing(poll=0.002, poll_most=0.01, backoff=0.002, attempts=4, connect=2, read_timeout=1, read_timeout_at_once=1)
SENT = to_send(np.linspace(0, 1, 64 * 96 * 3, dtype=np.float32).reshape(64, 96, 3))
OPTIONS = {"region": "global", "safety_tolerance": 2, "prompt_upsampling": False}
_seeds = itertools.count(1)


def job(provider="Black Forest Labs", pictures=1, **changes):
    """A request with its own seed, by which the stand-in counts."""
    fields = {
        "model": next(iter(PROVIDERS[provider].models)),
        "instruction": "make it night",
        "pictures": (SENT,) * pictures,
        "ratio": of_picture(96, 64),
        "seed": next(_seeds),
        "output_format": "png",
        "options": OPTIONS,
    }
    return Job(**fields | changes)
