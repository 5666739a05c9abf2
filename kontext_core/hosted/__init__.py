"""Hosted FLUX.1 Kontext: requests and answers, a client, and a journal of paid requests.

Nothing here depends on ComfyUI, and the providers' modules do no I/O: `client.py` sends their requests.
"""

from .bfl import BlackForestLabs
from .fal import Fal
from .huggingface import HuggingFace
from .provider import Provider
from .replicate import Replicate
from .runware import Runware
from .together import Together
from .verda import Verda

PROVIDERS: dict[str, Provider] = {
    provider.title: provider
    for provider in (BlackForestLabs(), Fal(), Replicate(), Together(), Runware(), Verda(), HuggingFace())
}
PRICES_OF = "November 2026"  # date of the providers' prices and limits
