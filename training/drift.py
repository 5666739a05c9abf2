"""Compare ways to pass one turn's result to the next by the drift over a conversation.

    python3 manage.py exec -- python -m training.drift --seed 9001 --scenes 24 --json drift.json
    python3 manage.py exec -- python -m training.drift --still --seed 9001 --scenes 24

The first measures conversations of eight edits (`training.turns`), the second a case that needs no judge: eight times
"make everything unchanged" (the diagnostic of VAE-LFA and MT-OPSD), and eight times an empty instruction. Rows that the
JSON file has already are kept, and only missing ways are measured, so a long measurement can be interrupted.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kontext_core.preservation import preserve
from training.editor import Editor, stamp
from training.evaluate import as_tensor, psnr
from training.turns import SIZE, conversation, converse

WAYS = ("as it is", "keep", "latent", "latent, aligned", "first too", "keep, latent", "keep, first too")
UNCHANGED = ("make everything unchanged", "")
CELL = 4  # latent pixels per side: coarser structure counts as low frequency (VAE-LFA)
MEMORY = 0.8  # weight of earlier turns' statistics against a new turn's


class Chain:
    """An editor for one batch of conversations, which passes each result on in one of WAYS.

    keep     restores what a turn did not change from its input
    latent   passes the previous result's latent to the model without decoding and encoding
    aligned  matches the mean and deviation of the latent's low frequencies to those of earlier turns
    first    gives the model the first picture as a second reference
    """

    def __init__(self, editor: Editor, way: str):
        self.editor, self.way = editor, way
        self.first: Tensor | None = None
        self.latent: Tensor | None = None
        self.statistics: tuple[Tensor, Tensor] | None = None

    def edit(self, references: list[Tensor], instructions: list[str], size: tuple[int, int], **options) -> Tensor:
        """Like `Editor.edit` with one reference; the result is rounded to 8 bits, like a stored picture."""
        (before,) = references
        encoded = self.editor.encode(before)
        if self.first is None:
            self.first, self.statistics = encoded, low_statistics(encoded)
        source = encoded if self.latent is None or "latent" not in self.way else self.latent
        given = [source, self.first] if "first" in self.way else [source]
        latent = self.editor.edit(given, instructions, size, in_latents=True, **options)
        if "aligned" in self.way and self.statistics is not None:
            latent, self.statistics = aligned(latent, self.statistics)
        pictures = self.editor.decode(latent)
        if "keep" in self.way:
            kept = [preserve(old, new) for old, new in zip(before, pictures, strict=True)]
            pictures = torch.stack([each.picture for each in kept])
            changed = F.max_pool2d(torch.stack([each.mask for each in kept])[:, None], 8) > 0
            latent = torch.where(changed, latent, source)
        self.latent = latent
        return (pictures * 255).round() / 255


def low_statistics(latent: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel's low frequencies, (b, c, 1, 1) each."""
    low = F.avg_pool2d(latent, CELL)
    return low.mean((2, 3), keepdim=True), low.std((2, 3), keepdim=True)


def aligned(latent: Tensor, statistics: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """The latent with its low frequencies matched to these statistics, and the statistics updated by this turn."""
    own = low_statistics(latent)
    low = F.interpolate(F.avg_pool2d(latent, CELL), latent.shape[2:], mode="bilinear")
    moved = (low - own[0]) / own[1].clamp(min=1e-4) * statistics[1] + statistics[0]
    new = tuple(MEMORY * before + (1 - MEMORY) * now for before, now in zip(statistics, own, strict=True))
    return latent + moved - low, (new[0], new[1])


def still(editor: Editor, first: Tensor, way: str, instruction: str, turns: int, **options) -> list[float]:
    """PSNR in dB against the first picture after each of `turns` edits that ask for no change."""
    chain, pictures, rows = Chain(editor, way), first, []
    for _ in range(turns):
        pictures = chain.edit([pictures], [instruction] * len(first), (SIZE, SIZE), **options)
        rows.append(sum(psnr(p, f) for p, f in zip(pictures, first, strict=True)) / len(first))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=9001)
    parser.add_argument("--scenes", type=int, default=120)
    parser.add_argument("--turns", type=int, default=8)
    parser.add_argument("--steps", type=int, default=28)
    parser.add_argument("--still", action="store_true", help="ask for no change, instead of edits")
    parser.add_argument("--ways", nargs="*", default=WAYS, choices=WAYS)
    parser.add_argument("--json", type=Path, default=Path("drift.json"))
    options = parser.parse_args()

    rng = random.Random(options.seed)
    conversations = [conversation(rng, options.turns) for _ in range(options.scenes)]
    editor, run = Editor.shipped(), {"seed": options.seed, "steps": options.steps}
    found = stored(options.json, identity(options))
    for way in options.ways:
        for instruction in UNCHANGED if options.still else ("",):
            name = f"{way} / {instruction or 'no words'}" if options.still else way
            if name in found:
                continue
            if options.still:
                first = torch.stack([as_tensor(edits[0].sources[0], SIZE, SIZE) for edits in conversations])
                found[name] = still(editor, (first * 255).round() / 255, way, instruction, options.turns, **run)
            else:
                found[name] = converse(Chain(editor, way), conversations, **run)
            print(name, json.dumps(found[name][-1]), flush=True)
            options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def identity(options: argparse.Namespace) -> dict[str, int | str]:
    """What the rows of all ways depend on."""
    chosen = {name: getattr(options, name) for name in ("seed", "steps", "scenes", "turns")}
    return chosen | {"weights": stamp()}


def stored(path: Path, run: dict[str, int | str]) -> dict[str, Any]:
    """The ways that a file has of this run; SystemExit for a file of another run."""
    found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"run": run}
    if found.get("run") != run:
        raise SystemExit(f"{path} has results of another run ({found.get('run')}, not {run}); give another --json")
    return found


if __name__ == "__main__":
    main()
