"""The embedded model without ComfyUI: edits batches of pictures (evaluation, benchmarks)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from kontext_core import embedded, negatives, tokens
from kontext_core.controls import Controls, biased_sdpa, controlled, look, select
from kontext_core.embedded.autoencoder import SCALE, SHIFT, Autoencoder
from kontext_core.embedded.text_encoder import TextEncoder, Vocabulary
from kontext_core.geometry import Geometry
from kontext_core.negatives import Nag
from kontext_core.schedule import flow_sigmas
from kontext_core.solvers import euler
from kontext_core.transformer import Attention, KontextTransformer, precompute, sdpa
from training import recipe
from training.instructions import all_words


def stamp(*others: Path) -> str:
    """12 hexadecimal digits that change with the shipped weights and with the content of other files."""
    digest = hashlib.sha256()
    for path in (*sorted(embedded.FOLDER.rglob("*.safetensors")), *others):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


class Editor:
    """Transformer, text encoder and autoencoder, from the shipped weights or from a training run."""

    def __init__(
        self,
        transformer: KontextTransformer,
        text_encoder: TextEncoder,
        autoencoder: Autoencoder,
        vocabulary: Vocabulary,
    ):
        self.transformer, self.text_encoder = transformer.eval(), text_encoder.eval()
        self.autoencoder, self.vocabulary = autoencoder.eval(), vocabulary

    @classmethod
    def shipped(cls) -> Editor:
        """The model that ships with the pack."""
        text_weights, metadata = embedded.load_text_encoder()
        vocabulary = Vocabulary(json.loads(metadata["vocabulary"]))
        transformer_weights, metadata = embedded.load_transformer()
        autoencoder_weights, _ = embedded.load_autoencoder()
        geometry = json.loads(metadata["geometry"])
        return cls._with_weights(
            Geometry(**geometry), vocabulary, transformer_weights, text_weights, autoencoder_weights
        )

    @classmethod
    def from_run(cls, run: Path, autoencoder: Path | None = None) -> Editor:
        """The averaged weights of a training run's checkpoint; `autoencoder` is a checkpoint too (default: shipped)."""
        weights = torch.load(run / "checkpoint.pt", mmap=True)["average"]
        parts = [
            {key.removeprefix(part): tensor for key, tensor in weights.items() if key.startswith(part)}
            for part in ("transformer.", "text_encoder.")
        ]
        pixels = torch.load(autoencoder) if autoencoder else embedded.load_autoencoder()[0]
        return cls._with_weights(recipe.GEOMETRY, Vocabulary(all_words()), *parts, pixels)

    @classmethod
    def _with_weights(cls, geometry: Geometry, vocabulary: Vocabulary, *weights: dict[str, Tensor]) -> Editor:
        modules = KontextTransformer(geometry), TextEncoder(len(vocabulary)), Autoencoder()
        for module, state in zip(modules, weights, strict=True):
            module.load_state_dict(state)
        return cls(*modules, vocabulary)

    @torch.inference_mode()
    def encode(self, pictures: Tensor) -> Tensor:
        """Pictures (b, 3, h, w) in 0..1 -> latents in the model's space (b, 16, h / 8, w / 8)."""
        return (self.autoencoder.encode(2 * pictures - 1) - SHIFT) * SCALE

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> Tensor:
        """The inverse of `encode`, clamped to 0..1."""
        return ((self.autoencoder.decode(latents / SCALE + SHIFT) + 1) / 2).clamp(0, 1)

    @torch.inference_mode()
    def edit(
        self,
        references: list[Tensor],
        instructions: list[str],
        size: tuple[int, int],
        *,
        seed: int = 0,
        steps: int = 28,
        cfg: float = 1.0,
        guidance: float = 2.5,
        controls: Controls | None = None,
        avoid: list[str] | None = None,
        nag: Nag | None = None,
        in_latents: bool = False,
    ) -> Tensor:
        """Edit a batch: references (b, 3, h, w) each, in 0..1; `size` is the target's (width, height).

        Returns (b, 3, height, width) in 0..1. With `in_latents`, references and result are latents as from `encode`.

        `controls` apply to the whole run. `avoid`, one text per picture, is the negative of `nag`, or else that of cfg.
        With cfg other than 1 the second pass has the same references and the text to avoid, if any.
        """
        count, (height, width) = len(instructions), (size[1] // 8, size[0] // 8)
        noise = torch.randn(count, 16, height, width, generator=torch.Generator().manual_seed(seed))
        latents = references if in_latents else [self.encode(reference) for reference in references]
        shapes = [tuple(latent.shape[-2:]) for latent in latents]
        places = tokens.place_references(shapes, (height, width))
        ids = [tokens.position_ids(height, width)]
        ids += [tokens.position_ids(*shape, *place) for shape, place in zip(shapes, places, strict=True)]
        parts = [tokens.pack(latent) for latent in latents]
        view = look(controls or {}, shapes, (height, width), progress=0)
        if view is not None:
            parts, ids[1:] = select(view, parts, 1), select(view, ids[1:], 0)
        counts = [part.shape[1] for part in parts]

        def over(text: int) -> Attention:
            return sdpa if view is None else controlled(view, biased_sdpa, text, len(ids[0]), counts)

        img_ids = torch.cat(ids)[None].expand(count, -1, -1)
        packed = torch.cat(parts, dim=1) if latents else None
        positive = self._velocity(instructions, img_ids, packed, guidance, over, avoid if nag else None, nag)
        without = None if nag else avoid
        negative = self._velocity(without, img_ids, packed, guidance, over) if cfg != 1 else positive

        def velocity(x: Tensor, sigma: Tensor) -> Tensor:
            v = positive(x, sigma)
            return v if cfg == 1 else torch.lerp(negative(x, sigma), v, cfg)

        x = tokens.pack(noise)
        result = tokens.unpack(euler(velocity, x, flow_sigmas(steps, x.shape[1])), height, width)
        return result if in_latents else self.decode(result)

    def _velocity(
        self,
        texts: list[str] | None,
        img_ids: Tensor,
        references: Tensor | None,
        guidance: float,
        over: Callable[[int], Attention],
        avoid: list[str] | None = None,
        nag: Nag | None = None,
    ) -> Callable[[Tensor, Tensor], Tensor]:
        """The velocity under these texts; without texts their embedding is zero (the host's ConditioningZeroOut)."""
        text, pooled = self._read(texts or [""] * len(img_ids))
        if texts is None:
            text, pooled = torch.zeros_like(text), torch.zeros_like(pooled)
        attention = over(text.shape[1])
        if avoid is not None and nag is not None:
            negative, _ = self._read(avoid)
            target = img_ids.shape[1] - (0 if references is None else references.shape[1])
            attention = negatives.guided(over, text.shape[1], negative.shape[1], target, nag)
            text = torch.cat((text, negative), dim=1)
        txt_ids = text.new_zeros(*text.shape[:2], 3)
        constants = precompute(self.transformer, text, txt_ids, img_ids, references)

        def evaluate(x: Tensor, sigma: Tensor) -> Tensor:
            times, guidances = x.new_full((len(x),), float(sigma)), x.new_full((len(x),), guidance)
            options = {"attention": attention, "constants": constants}
            return self.transformer(x, img_ids, text, txt_ids, times, pooled, guidances, **options)

        return evaluate

    def _read(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        """Context (b, 20, 128) and pooled (b, 128) of texts."""
        return self.text_encoder(torch.tensor([self.vocabulary.encode(text)[0] for text in texts]))
