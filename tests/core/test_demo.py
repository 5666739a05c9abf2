"""The parts of the demo: options reach the graph for any picture, and nothing is overwritten."""

import importlib
import sys

import pytest
from PIL import Image

from batch import graphs
from tools import Failure, demo


@pytest.fixture
def picture(tmp_path):
    """`picture(width, height, mode, suffix)`: the path of a picture file."""

    def make(width, height, mode="RGB", suffix=".png"):
        path = tmp_path / f"own{suffix}"
        Image.new(mode, (width, height)).save(path)
        return path

    return make


def test_nothing_asked_is_the_workflow_as_it_is():
    prompt, before, name = demo.request(None, None, None, None)
    assert prompt[graphs.find(prompt, "KontextExample")]["inputs"]["picture"] == name
    assert (before.size, before.mode) == ((128, 128), "RGB")


def test_what_is_asked_for_reaches_its_node():
    prompt, *_ = demo.request(None, "remove the star", 0, 3)
    sampler = prompt[graphs.find(prompt, "KontextSampler")]["inputs"]
    assert prompt[graphs.find(prompt, "CLIPTextEncode")]["inputs"]["text"] == "remove the star"
    assert (sampler["seed"], sampler["steps"]) == (0, 3)


@pytest.mark.parametrize(("size", "told"), [((256, 256), False), ((257, 256), True)], ids=["trained", "too large"])
def test_own_pictures_go_to_a_size_that_the_model_can_work_at(picture, size, told, capsys):
    prompt, before, name = demo.request(picture(*size), None, None, None)
    reference = prompt[graphs.find(prompt, "KontextReference")]["inputs"]
    assert graphs.find(prompt, "LoadImage")
    assert (reference["size"], before.size, name) == ("nearest trained size", size, "own")
    assert ("a small copy" in capsys.readouterr().out) == told


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "I;16", "CMYK"])
def test_pictures_of_every_kind_are_read_as_rgb(picture, mode):
    suffix = ".jpg" if mode == "CMYK" else ".png"
    assert demo.open_picture(picture(8, 8, mode, suffix)).mode == "RGB"


def test_a_photograph_taken_upright_stays_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned by 90 degrees
    Image.new("RGB", (30, 20)).save(tmp_path / "turned.jpg", exif=exif)
    assert demo.open_picture(tmp_path / "turned.jpg").size == (20, 30)


@pytest.mark.parametrize("cut", [5, 60], ids=["in its header", "in its pixels"])
def test_a_broken_picture_is_refused_in_one_line(picture, cut):
    path = picture(64, 64)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(Failure, match="own.png") as caught:
        demo.open_picture(path)
    assert caught.value.code == 2
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("before", "after", "sheet"),
    [
        ((128, 128), (128, 128), (264, 128)),
        ((2000, 1000), (176, 96), (1024 + 8 + 939, 512)),
        ((64, 32), (128, 64), (264, 64)),
    ],
    ids=["equal", "large before", "small before"],
)
def test_before_and_after_stand_at_one_height(before, after, sheet):
    pair = demo.side_by_side(Image.new("RGB", before, "red"), Image.new("RGB", after, "blue"))
    assert pair.size == sheet
    assert pair.getpixel((0, 0)) == (255, 0, 0)
    assert pair.getpixel((pair.width - 1, pair.height - 1)) == (0, 0, 255)


NO_PLACE = {  # what --output names
    "a file": lambda folder: (folder / "output").touch(),
    "below a file": lambda folder: (folder / "output").symlink_to(folder / "file" / "below"),
}


@pytest.mark.parametrize("spoil", NO_PLACE.values(), ids=NO_PLACE)
def test_an_output_that_cannot_be_written_is_said_before_any_work(tmp_path, spoil):
    (tmp_path / "file").touch()
    spoil(tmp_path)
    with pytest.raises(Failure, match="--output .*output: .* Give a folder") as caught:
        demo.require_folder(tmp_path / "output")
    assert caught.value.code == 2


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limits")
def test_a_picture_that_does_not_fit_on_the_disk_leaves_nothing(tmp_path):
    """A full disk, by a limit on the size of a file."""
    resource = importlib.import_module("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(Failure, match="a.png cannot be written: File too large"):
            demo.write(tmp_path / "a.png", bytes(5000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


def test_earlier_results_are_kept(tmp_path):
    names = []
    for _ in range(3):
        path = demo.free_name(tmp_path, "scene")
        path.touch()
        names.append(path.name)
    assert names == ["scene.png", "scene_2.png", "scene_3.png"]
