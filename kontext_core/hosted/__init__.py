"""FLUX.1 Kontext at a provider's: requests and answers, a careful client, and a journal of what is paid for.

Nothing here knows ComfyUI, and the providers' files know no network: `client.py` carries their requests.
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
PRICES_OF = "November 2026"  # when the providers' prices and limits were read
