"""Similarity of the faces in two pictures, by AuraFace's models: a face detector and a face embedding.

The models are the user's files, as published under fal/AuraFace-v1 (Apache 2.0): an SCRFD detector with five landmarks
per face, and glintr100, an ArcFace network. Inputs, outputs and landmark positions are those of the package insightface
0.7.3 (`model_zoo/scrfd.py`, `arcface_onnx.py`, `utils/face_align.py`).
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import grid_sample, interpolate

from . import Failure, commit

DETECTOR, DESCRIBER = "scrfd_10g_bnkps.onnx", "glintr100.onnx"
SIDE = 640  # px, input of the detector
STRIDES, ANCHORS = (8, 16, 32), 2  # px between anchor positions, and anchors at each
SURE = 0.5  # smallest score of a face
FACE = 112  # px, input of the embedding network
PLACES = np.array(  # x, y of the landmarks in it: eyes, tip of the nose, corners of the mouth
    [(38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041)]
)
Network = Callable[[np.ndarray], list[np.ndarray]]


class Likeness:
    """`likeness(a, b)`: the cosine between the largest faces of two pictures (3, h, w) in 0..1; None without a face.

    mark  identifies the models
    """

    def __init__(self, find: Network, describe: Network, mark: str):
        self.mark = mark
        self._find, self._describe = find, describe

    def __call__(self, a: Tensor, b: Tensor) -> float | None:
        first, second = self._described(a), self._described(b)
        if first is None or second is None:
            return None
        return float(first @ second / (np.linalg.norm(first) * np.linalg.norm(second)))

    def _described(self, picture: Tensor) -> np.ndarray | None:
        small, scale = seen(picture)
        points = largest_face(self._find(_batch(small, 128.0)))
        if points is None:
            return None
        return self._describe(_batch(turned(picture, points / scale), 127.5))[0].ravel().astype(float)


def likeness(folder: Path) -> tuple[Likeness | None, str]:
    """A function for the models in a folder, or None and the reason. Raises Failure for a folder without them."""
    paths = [folder / name for name in (DETECTOR, DESCRIBER)]
    if missing := [str(path) for path in paths if not path.is_file()]:
        raise Failure(
            f"--faces: there is no {' and no '.join(missing)}. Both are published as fal/AuraFace-v1 (Apache 2.0): "
            "hf download fal/AuraFace-v1 --local-dir FOLDER",
            code=2,
        )
    if importlib.util.find_spec("onnxruntime") is None:
        return None, "identity: onnxruntime is not installed"
    mark = commit.key_of([commit.content_hash(path) for path in paths])
    find, describe = map(network, paths)
    return Likeness(find, describe, mark), ""


def network(path: Path) -> Network:
    """A model file as a function of its only input. Raises Failure if it cannot be loaded."""
    runtime: Any = importlib.import_module("onnxruntime")
    try:
        session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions have no common base
        raise Failure(f"--faces: {path} cannot be loaded: {error}", code=2) from None
    name = session.get_inputs()[0].name
    return lambda values: session.run(None, {name: values})


def seen(picture: Tensor) -> tuple[Tensor, float]:
    """The detector's input: the picture in the upper left corner of a black square, and the scale factor."""
    scale = SIDE / max(picture.shape[1:])
    size = [max(1, round(scale * side)) for side in picture.shape[1:]]
    square = torch.zeros(3, SIDE, SIDE)
    square[:, : size[0], : size[1]] = interpolate(picture[None], size, mode="bilinear")[0]
    return square, scale


def largest_face(answers: Sequence[np.ndarray]) -> np.ndarray | None:
    """The five landmarks (x, y) of the largest face in px of the square; None without a face.

    answers  nine arrays: for each stride the scores, then for each the boxes, then for each the landmarks, as distances
             from the anchor position in units of the stride
    """
    best, largest = None, 0.0
    for level, stride in enumerate(STRIDES):
        sure, boxes, points = (answers[level + 3 * kind].reshape(-1, last) for kind, last in ((0, 1), (1, 4), (2, 10)))
        across = SIDE // stride
        for index in np.flatnonzero(sure[:, 0] >= SURE):
            left, top, right, bottom = stride * boxes[index]
            if (area := (left + right) * (top + bottom)) > largest:
                row, column = divmod(index // ANCHORS, across)
                best, largest = stride * (points[index].reshape(5, 2) + (column, row)), float(area)
    return best


def turned(picture: Tensor, points: np.ndarray) -> Tensor:
    """(3, 112, 112): the face upright and centred, by the similarity that brings its landmarks nearest to PLACES."""
    x, y = PLACES.T
    zero, one = np.zeros(5), np.ones(5)
    rows = np.concatenate([np.stack([x, -y, one, zero], 1), np.stack([y, x, zero, one], 1)])
    (a, b, right, down), *_ = np.linalg.lstsq(rows, np.concatenate([points[:, 0], points[:, 1]]), rcond=None)
    row, column = np.mgrid[:FACE, :FACE].astype(float)
    from_x, from_y = a * column - b * row + right, b * column + a * row + down
    height, width = picture.shape[1:]
    grid = np.stack([(2 * from_x + 1) / width - 1, (2 * from_y + 1) / height - 1], -1)
    return grid_sample(picture[None], torch.from_numpy(grid)[None].float(), align_corners=False)[0]


def _batch(picture: Tensor, spread: float) -> np.ndarray:
    return ((255 * picture - 127.5) / spread)[None].float().numpy()
