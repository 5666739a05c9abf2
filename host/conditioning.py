"""References and guidance in a CONDITIONING, under the host's own keys, so that its FLUX uses them."""

from collections.abc import Sequence
from typing import Any

import node_helpers

from .latents import Latent, require_flux, size_px, tokens

Conditioning = list[list[Any]]  # the host's: [text embedding, dictionary] each


def with_references(conditioning: Conditioning, references: Sequence[Latent], layout: str) -> tuple[Conditioning, str]:
    """A copy of `conditioning` with additional references, and a report of their token counts.

    They follow those that it already has, as with the host's ReferenceLatent. Raises ValueError for a latent that is
    not FLUX.1's and for batches that do not match.
    """
    for number, reference in enumerate(references, 1):
        require_flux(f"reference {number}", reference)
    batches = {reference["samples"].shape[0] for reference in references}
    if len(batches - {1}) > 1:
        raise ValueError(
            f"the references hold different numbers of pictures ({', '.join(map(str, sorted(batches)))}); each must "
            "hold one, or all the same number. Make the batches equal."
        )
    samples = [reference["samples"] for reference in references]
    out = node_helpers.conditioning_set_values(conditioning, {"reference_latents": samples}, append=True)
    out = node_helpers.conditioning_set_values(out, {"reference_latents_method": layout})
    return out, _report(references, layout)


def with_guidance(conditioning: Conditioning, guidance: float) -> Conditioning:
    """A copy with `guidance` wherever none is set: FluxGuidance and FluxDisableGuidance upstream win."""
    return [[text, {"guidance": guidance} | values] for text, values in conditioning]


def _report(references: Sequence[Latent], layout: str) -> str:
    lines = [
        "reference {}: {}x{} px, {} tokens".format(number, *size_px(reference), tokens(reference))
        for number, reference in enumerate(references, 1)
    ]
    return "\n".join((*lines, f"{sum(map(tokens, references))} tokens, layout '{layout}'"))
