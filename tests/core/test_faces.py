"""Faces: where one is found, how it is turned upright, and what is compared."""

import math

import numpy as np
import pytest
import torch

from batch import Failure, faces

SIDES = [faces.SIDE // stride for stride in faces.STRIDES]


def answers(*found):
    """What a detector says of faces: (stride, row, column, half the side in px, sure)."""
    kinds = [[np.zeros((side * side * faces.ANCHORS, last), np.float32) for side in SIDES] for last in (1, 4, 10)]
    for stride, row, column, half, sure in found:
        level = faces.STRIDES.index(stride)
        index = (row * SIDES[level] + column) * faces.ANCHORS + 1
        kinds[0][level][index] = sure
        kinds[1][level][index] = half / stride
        offsets = (faces.PLACES - faces.FACE / 2) * (2 * half / faces.FACE)
        kinds[2][level][index] = offsets.ravel() / stride
    return [array for kind in kinds for array in kind]


@pytest.mark.parametrize("stride", faces.STRIDES)
def test_a_face_s_points_are_where_the_detector_says(stride):
    points = faces.largest_face(answers((stride, 3, 7, 60, 0.9)))
    assert points.mean(0) - (faces.PLACES.mean(0) - 56) * 120 / 112 == pytest.approx((7 * stride, 3 * stride), abs=1e-3)
    assert math.dist(points[0], points[1]) == pytest.approx(math.dist(*faces.PLACES[:2]) * 120 / 112, rel=1e-4)


def test_the_largest_face_counts_and_doubtful_ones_do_not():
    points = faces.largest_face(answers((8, 10, 10, 20, 0.99), (16, 20, 20, 50, 0.6), (32, 9, 9, 90, 0.4)))
    assert points.mean(0) == pytest.approx((320, 320), abs=20)
    before = faces.largest_face(answers((8, 40, 40, 50, 0.9), (16, 5, 5, 20, 0.9)))
    assert before.mean(0) == pytest.approx((320, 320), abs=20)
    assert faces.largest_face(answers((8, 10, 10, 20, 0.4))) is None


def blobs(points, radius, size=(300, 400)):
    """A picture with a spot of a colour of its own at each of five points."""
    rows, columns = np.mgrid[: size[0], : size[1]]
    picture = np.zeros((3, *size))
    for number, (x, y) in enumerate(points):
        near = np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * radius**2))
        picture[number % 3] += near * (1 if number < 3 else 0.5)
    return torch.from_numpy(picture).float().clamp(0, 1)


def moved(angle, scale, shift):
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    return scale * (faces.PLACES - 56) @ turn.T + shift


@pytest.mark.parametrize(
    ("angle", "scale"), [(0.0, 1.0), (0.5, 1.0), (-1.2, 1.6), (math.pi, 0.7)], ids=["upright", "left", "right", "down"]
)
def test_a_face_is_turned_upright_and_to_one_size(angle, scale):
    points = moved(angle, scale, (200, 150))
    upright = faces.turned(blobs(points, 4 * scale), points)
    assert upright.shape == (3, 112, 112)
    assert (upright - blobs(faces.PLACES, 4, (112, 112))).abs().max() < 0.05


def test_a_wide_picture_is_seen_whole():
    square, scale = faces.seen(torch.ones(3, 300, 1200))
    assert scale == pytest.approx(640 / 1200)
    assert square[:, :160].min() == 1
    assert square[:, 160:].max() == 0


def likeness_of(found, seen):
    """With tiny networks: `found` tells a detector's answers from the picture, and what is described is noted."""

    def describe(values):
        seen.append(values)
        return [values.mean((2, 3))]

    return faces.Likeness(lambda values: found, describe, "mark")


def test_the_same_face_is_alike_however_large_it_is():
    points = moved(0.3, 1.5, (200, 150))
    seen = []
    found = answers((8, 37, 40, 56, 0.9))
    alike = likeness_of(found, seen)
    picture = blobs(points, 6)
    assert alike(picture, picture) == pytest.approx(1)
    assert seen[0].shape == (1, 3, 112, 112)
    assert (seen[0].min(), seen[0].max()) == pytest.approx((-1, 1), abs=0.2)


def test_without_a_face_nothing_is_said():
    picture = torch.rand(3, 64, 64)
    assert likeness_of(answers(), [])(picture, picture) is None


def test_a_folder_without_the_models_says_how_to_get_them(tmp_path):
    (tmp_path / faces.DETECTOR).write_bytes(b"x")
    with pytest.raises(Failure, match="there is no .*glintr100.onnx. Both are published as fal/AuraFace-v1"):
        faces.likeness(tmp_path)


@pytest.fixture
def onnx():
    return pytest.importorskip("onnx", reason="onnx writes the tiny models: pip install onnx onnxruntime")


def write_models(onnx, folder):
    """A detector that finds one face in every picture, and a describer that gives the mean colours of its quarters."""
    runtime = pytest.importorskip("onnxruntime", reason="pip install onnxruntime")
    make, kind = onnx.helper, onnx.TensorProto.FLOAT
    found = answers((8, 40, 40, 100, 0.9))
    outputs = [make.make_tensor_value_info(f"o{i}", kind, each.shape) for i, each in enumerate(found)]
    constants = [
        make.make_node("Constant", [], [f"o{i}"], value=onnx.numpy_helper.from_array(each))
        for i, each in enumerate(found)
    ]
    pooled = [make.make_node("AveragePool", ["x"], ["y"], kernel_shape=[56, 56], strides=[56, 56])]
    sides = {faces.DETECTOR: (faces.SIDE, constants, outputs), faces.DESCRIBER: (faces.FACE, pooled, None)}
    for name, (side, nodes, given) in sides.items():
        taken = [make.make_tensor_value_info("x", kind, [1, 3, side, side])]
        given = given or [make.make_tensor_value_info("y", kind, [1, 3, 2, 2])]
        model = make.make_model(
            make.make_graph(nodes, "tiny", taken, given), opset_imports=[make.make_opsetid("", 13)], ir_version=8
        )
        onnx.save(model, folder / name)
    return runtime


def test_models_are_run_by_onnxruntime(tmp_path, onnx):
    write_models(onnx, tmp_path)
    alike, why = faces.likeness(tmp_path)
    assert why == ""
    picture = torch.rand(3, 512, 512, generator=torch.manual_seed(1))
    picture[0, :256] *= 0.2
    other = picture.flip(1)
    assert alike(picture, picture) == pytest.approx(1)
    assert alike(picture, other) < 0.9
    assert faces.likeness(tmp_path)[0].mark == alike.mark


def test_a_model_that_is_none_is_named(tmp_path, onnx):
    write_models(onnx, tmp_path)
    (tmp_path / faces.DESCRIBER).write_bytes(b"no model")
    with pytest.raises(Failure, match="glintr100.onnx cannot be loaded"):
        faces.likeness(tmp_path)
