"""Measurements of an edit. A value is None if it is undefined; nothing is downloaded.

Pictures are (3, h, w) in 0..1 and are compared in floating point: differences of uint8 would wrap around.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps
from scipy.special import stdtrit
from torch import Tensor
from torch.nn.functional import interpolate

from kontext_core.colour import delta_e_2000, lab, shrunk
from kontext_core.preservation import COPY, compare, soft_mask

FRAMING = 0.005  # of the longer side: a result that moved less has its framing kept
ALEXNET = "alexnet-owt-7be5be79.pth"  # torchvision's name of the backbone of LPIPS
QUOTED = re.compile(  # an opening quote inside would make long runs of quotes quadratic
    r"[\"\u201c]([^\"\u201c\u201d]+)[\"\u201d]|(?<!\w)['\u2018]([^'\u2018\u2019]+)['\u2019](?!\w)"
)

VERBS = re.compile(  # what an instruction does with the next words in quotes
    r"\b(?:(?P<gone>(?:remov|delet|eras|tak)(?:e|es|ed|en|ing)|get(?:ting)? rid of|in place of|instead of|rather than"
    r"|without)|(?P<exchanged>(?:replac|swap|exchang)\w*)"
    r"|(?P<there>write|add|adding|put|putting|insert|use|say|read|change|changing|turn|turning|make|making|keep|keeping"
    r"|leave|leaving|only|except|so))\b",
    re.IGNORECASE,
)
NEW = re.compile(r"\b(?:with|by|for|to|into)\b", re.IGNORECASE)  # after an exchange: what comes in its place
REMOVED = re.compile(r"\b(?:removed|deleted|erased|taken)\b", re.IGNORECASE)


class Metric(NamedTuple):
    """The display of a number. `better`: 1 for more, -1 for less, 0 for neither; `share`: a fraction of rows."""

    title: str
    form: str
    better: int
    share: bool = False


METRICS = {
    "seconds": Metric("seconds", "{:.1f}", -1),
    "model_calls": Metric("model calls", "{:.1f}", -1),
    "correct": Metric("correct (strict rule)", "{:.0%}", 1, share=True),
    "size_kept": Metric("size kept", "{:.0%}", 1, share=True),
    "framing_kept": Metric("framing kept", "{:.0%}", 1, share=True),
    "changed": Metric("share changed", "{:.1%}", 0),
    "drift": Metric("dE2000 outside", "{:.2f}", -1),
    "outside_db": Metric("dB outside", "{:.1f}", 1),
    "text": Metric("text read back", "{:.0%}", 1),
    "identity": Metric("identity (cosine)", "{:.2f}", 1),
    "psnr": Metric("PSNR to the other run", "{:.1f}", 1),
    "ssim": Metric("SSIM", "{:.3f}", 1),
    "lpips": Metric("LPIPS", "{:.3f}", -1),
}


def load(path: Path) -> Tensor:
    """An upright picture. Raises OSError."""
    with Image.open(path) as picture:
        pixels = np.asarray(ImageOps.exif_transpose(picture).convert("RGB"), np.float32)
    return torch.from_numpy(pixels / 255).permute(2, 0, 1)


def kept(before: Tensor, after: Tensor) -> dict[str, Any]:
    """What was kept: size, framing, and colours and pixels outside the change."""
    same = before.shape == after.shape
    after = sized(after, before)
    moved, _, found, change = compare(before, after)
    framing = None
    if found is not None and found.accepted:
        framing = found.similarity.displacement(*before.shape[:0:-1]) < FRAMING * max(before.shape[1:])
    drift, outside_db = outside(before, moved, change.core) if not change.is_global else (None, None)
    changed = 1.0 if change.is_global else change.share
    return {"size_kept": same, "framing_kept": framing, "changed": changed, "drift": drift, "outside_db": outside_db}


def outside(before: Tensor, after: Tensor, core: Tensor) -> tuple[float | None, float | None]:
    """Mean dE2000 and PSNR in dB where nothing changed; None without such pixels."""
    a, b = shrunk(before, COPY), shrunk(after, COPY)
    there = soft_mask(core, a.shape[1:]) == 0
    if not there.any():
        return None, None
    return float(delta_e_2000(lab(a), lab(b))[there].mean()), psnr(a[:, there], b[:, there])


def psnr(a: Tensor, b: Tensor) -> float:
    """In dB; 100 for equal pictures."""
    return min(100.0, -10 * math.log10(max(float((a - b).double().square().mean()), 1e-10)))


def correct(after: Tensor, right: Tensor, wrong: Sequence[Tensor]) -> bool:
    """The strict rule: nearer to the right picture than to every wrong one."""
    after = sized(after, right)
    distance = (after - right).square().sum()
    return all(bool(distance < (after - other).square().sum()) for other in wrong)


def sized(picture: Tensor, like: Tensor) -> Tensor:
    """The picture resized to another's size."""
    if picture.shape == like.shape:
        return picture
    return interpolate(picture[None], like.shape[1:], mode="bicubic", antialias=True)[0].clamp(0, 1)


def wanted_text(instruction: str) -> str | None:
    """The words that an instruction wants in the picture: the last ones in quotes that it does not remove or replace.

    None without such words: a text that shall go cannot be read back.
    """
    texts = list(QUOTED.finditer(instruction))
    ends = [0, *(match.end() for match in texts)]
    starts = [*(match.start() for match in texts), len(instruction)]
    between = [instruction[end:start] for end, start in zip(ends, starts, strict=True)]
    wanted, role = None, ""
    for match, before, after in zip(texts, between, between[1:], strict=False):
        role = _role(before, role) or ("gone" if REMOVED.search(after) else "there")
        if role == "there":
            wanted = match[1] or match[2]
    return wanted


def _role(before: str, last: str) -> str:
    """A group of VERBS for words in quotes, from the text before them and the role of the last ones; "" if unknown."""
    verbs = list(VERBS.finditer(before))
    role = str(verbs[-1].lastgroup) if verbs else last
    rest = before[verbs[-1].end() :] if verbs else before
    return "there" if role == "exchanged" and NEW.search(rest) else role


def text_found(wanted: str, read: str) -> float:
    """Fraction of the wanted letters found in the read text, in order: 1 minus edits per letter, at least 0."""
    a, b = (re.sub(r"\W", "", text).casefold() for text in (wanted, read))
    if not a:
        return 1.0
    row = [0] * (len(b) + 1)  # the match may start anywhere
    for i, letter in enumerate(a, 1):
        last, row = row, [i]
        for j, other in enumerate(b, 1):
            row.append(min(last[j] + 1, row[j - 1] + 1, last[j - 1] + (letter != other)))
    return max(0.0, 1 - min(row) / len(a))


def reader_of_text() -> tuple[Callable[[Tensor], str] | None, str]:
    """A function that reads the words in a picture, or None and the reason."""
    if importlib.util.find_spec("rapidocr_onnxruntime") is None:
        return None, "text read back: rapidocr-onnxruntime is not installed"
    from rapidocr_onnxruntime import RapidOCR  # type: ignore[import-not-found]

    engine = RapidOCR()

    def read(picture: Tensor) -> str:
        pixels = (255 * picture.permute(1, 2, 0)).round().byte().numpy()[..., ::-1]
        lines, _ = engine(np.ascontiguousarray(pixels))
        return " ".join(line[1] for line in lines or [])

    return read, ""


def structural_similarity() -> tuple[Callable[[Tensor, Tensor], float] | None, str]:
    """SSIM as in published tables, or None and the reason."""
    if importlib.util.find_spec("skimage") is None:
        return None, "SSIM: scikit-image is not installed"
    ssim: Any = importlib.import_module("skimage.metrics").structural_similarity
    return lambda a, b: float(ssim(a.numpy(), b.numpy(), channel_axis=0, data_range=1.0)), ""


def perceptual_distance() -> tuple[Callable[[Tensor, Tensor], float] | None, str]:
    """LPIPS on AlexNet, or None and the reason. Its backbone must be on disk already."""
    if importlib.util.find_spec("lpips") is None:
        return None, "LPIPS: the package lpips is not installed"
    backbone = Path(torch.hub.get_dir()) / "checkpoints" / ALEXNET
    if not backbone.is_file():
        return None, f"LPIPS: {backbone} is not there"
    import lpips  # type: ignore[import-not-found]

    network = lpips.LPIPS(net="alex", verbose=False).eval()

    def distance(a: Tensor, b: Tensor) -> float:
        with torch.inference_mode():
            return float(network(a[None], b[None], normalize=True))

    return distance, ""


def interval(values: Sequence[float], share: bool) -> tuple[float, float, float]:
    """Mean and its 95 % interval: Wilson's for a fraction, Student's otherwise; nan for one value. Raises
    ValueError.
    """
    if not values:
        raise ValueError("values is empty; an interval needs at least one")
    count, mean = len(values), sum(values) / len(values)
    if share:
        z = 1.96
        centre = (mean + z * z / (2 * count)) / (1 + z * z / count)
        reach = z * math.sqrt(mean * (1 - mean) / count + z * z / (4 * count * count)) / (1 + z * z / count)
        return mean, centre - reach, centre + reach
    if count == 1:
        return mean, math.nan, math.nan
    reach = float(stdtrit(count - 1, 0.975)) * math.sqrt(sum((v - mean) ** 2 for v in values) / (count - 1) / count)
    return mean, mean - reach, mean + reach
