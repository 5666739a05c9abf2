"""Setting up the host: completeness, refused hosts, unsafe archives."""

import io
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from tools import Failure, provision


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("COMFYUI_PATH", raising=False)
    return provision.cache_folder()


def lay_out(folder: Path, _: int) -> None:
    """The files of a complete set-up, empty."""
    for path in (folder / "ComfyUI" / "main.py", provision.interpreter(folder / "venv")):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def comfyui(folder: Path, version: str) -> Path:
    folder.mkdir(parents=True)
    (folder / "comfyui_version.py").write_text(f'# generated\n__version__ = "{version}"\n', encoding="utf-8")
    return folder


def test_a_complete_set_up_is_not_repeated(cache):
    runs = []
    hosts = [provision.cached_host(cache, lambda *given: (runs.append(1), lay_out(*given))) for _ in range(2)]
    assert len(runs) == 1
    assert hosts[0] == hosts[1] == (cache / "ComfyUI", provision.interpreter(cache / "venv"))


def test_a_stopped_set_up_is_repeated(cache):
    def stopped(*given):
        lay_out(*given)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        provision.cached_host(cache, stopped)
    assert not provision.is_ready(cache)
    provision.cached_host(cache, lay_out)
    assert provision.is_ready(cache)


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda f: provision.interpreter(f / "venv").unlink(), id="interpreter gone"),
        pytest.param(lambda f: (f / "ComfyUI" / "main.py").unlink(), id="source gone"),
        pytest.param(lambda f: (f / "ready").write_text("torch==1.0\n"), id="made for other versions"),
        pytest.param(lambda f: (f / "ready").unlink(), id="no stamp"),
    ],
)
def test_what_makes_a_set_up_incomplete(cache, spoil):
    provision.cached_host(cache, lay_out)
    spoil(cache)
    assert not provision.is_ready(cache)


def test_a_spoiled_set_up_that_is_stopped_while_it_is_mended_is_not_ready(cache):
    """All files are back, and the old stamp matches."""
    provision.cached_host(cache, lay_out)
    (cache / "ComfyUI" / "main.py").unlink()

    def stopped(*given):
        lay_out(*given)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        provision.cached_host(cache, stopped)
    assert not provision.is_ready(cache)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows passes no descriptors on")
def test_the_lock_is_held_until_who_inherited_it_has_ended(tmp_path):
    """A pip that outlives its parent is waited for."""
    with provision.locked(tmp_path / "lock") as lock:
        code = "import sys; sys.stdin.read()"
        heir = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, pass_fds=[lock])
    with (tmp_path / "lock").open("ab") as file:
        assert not provision._try_lock(file.fileno())
        heir.communicate(timeout=60)
        assert provision._try_lock(file.fileno())


@pytest.mark.skipif(sys.platform == "win32", reason="Windows processes inherit no lock")
def test_a_step_of_the_set_up_inherits_the_lock(tmp_path):
    """So that a pip whose manage.py was killed is waited for: its descriptor exists in the step's own process."""
    asks = [sys.executable, "-c", "import os, sys; os.fstat(int(sys.argv[1])); print('held')"]
    with provision.locked(tmp_path / "lock") as lock:
        provision.step("a step", [*asks, str(lock)], log=tmp_path / "log", lock=lock, temporary=tmp_path)
    assert (tmp_path / "log").read_text().split() == ["held"]


def test_half_installed_packages_are_installed_again(tmp_path):
    """pip checks only .dist-info, and writes INSTALLER into it last."""
    packages = tmp_path / "lib" / "python3.13" / "site-packages"
    for name in ("whole-1.dist-info", "half-1.dist-info", "~orch", "half"):
        (packages / name).mkdir(parents=True)
    (packages / "whole-1.dist-info" / "INSTALLER").touch()
    provision.remove_half_installed(tmp_path)
    assert {path.name for path in packages.iterdir()} == {"whole-1.dist-info", "half"}


def test_no_home_folder_is_said_in_one_line(monkeypatch):
    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    with pytest.raises(Failure, match="no home folder .* set XDG_CACHE_HOME"):
        provision.cache_folder()


def test_the_stamp_names_every_package():
    assert set(provision.PACKAGES) < set(provision.stamp_text().splitlines())


def test_a_second_process_waits_for_the_first(tmp_path):
    """The other process may take the lock only after this one has written its last output."""
    words = tmp_path / "words"
    code = (
        "import sys; from pathlib import Path; from tools.provision import locked\n"
        "with locked(Path(sys.argv[1])): print(Path(sys.argv[2]).read_text())"
    )
    with provision.locked(tmp_path / "lock"):
        words.write_text("too early", encoding="utf-8")
        other = subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path / "lock"), str(words)],
            stdout=subprocess.PIPE, text=True, cwd=Path(provision.__file__).parents[1],
        )  # fmt: skip
        assert other.stdout.readline().startswith("Another process")
        words.write_text("in time", encoding="utf-8")
    assert other.communicate(timeout=60)[0].strip() == "in time"


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ('__version__ = "0.30.0"', (0, 30, 0)),
        ("__version__ = '0.31'", (0, 31)),
        ("# a comment\n__version__='1.2.3rc1'\n", (1, 2, 3)),
        ("nothing of the kind", ()),
    ],
)
def test_host_version(tmp_path, text, version):
    (tmp_path / "comfyui_version.py").write_text(text, encoding="utf-8")
    assert provision.host_version(tmp_path) == version


def test_another_host_is_used_when_named(cache, tmp_path, monkeypatch):
    other = comfyui(tmp_path / "mine", "0.31.2")
    monkeypatch.setenv("COMFYUI_PATH", str(other))
    assert provision.ensure_host().path == other


@pytest.mark.parametrize("version", ["0.29.9", "0.3.75"])
def test_an_old_host_is_refused_with_both_versions(cache, tmp_path, monkeypatch, version):
    monkeypatch.setenv("COMFYUI_PATH", str(comfyui(tmp_path / "old", version)))
    with pytest.raises(Failure, match=rf"{version} .*needs {provision.VERSION}") as caught:
        provision.ensure_host()
    assert caught.value.code == 2


def test_a_folder_without_comfyui_is_refused(cache, tmp_path, monkeypatch):
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path / "nothing"))
    with pytest.raises(Failure, match="nothing .*holds no ComfyUI"):
        provision.ensure_host()


def test_a_pack_in_custom_nodes_uses_the_comfyui_around_it(cache, tmp_path, monkeypatch):
    around = comfyui(tmp_path / "ComfyUI", "0.30.0")
    monkeypatch.setattr(provision, "ROOT", around / "custom_nodes" / "kontext-nodes")
    assert provision.ensure_host().path == around


def test_too_little_room_is_said_before_anything_is_fetched(cache, monkeypatch):
    monkeypatch.setattr(provision, "NEEDED_BYTES", 1 << 60)
    with pytest.raises(Failure, match="GB more"):
        provision.ensure_host()
    assert not (cache / "venv").exists()


def archive(folder: Path, *members: tarfile.TarInfo | str) -> Path:
    path = folder / "source.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for member in members:
            info = tarfile.TarInfo(member) if isinstance(member, str) else member
            info.size = 4 * info.isfile()
            tar.addfile(info, io.BytesIO(b"text"))
    return path


def link(name: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = tarfile.SYMTYPE, "elsewhere"
    return info


def test_only_the_host_is_unpacked(tmp_path):
    names = (
        "p-1/vendor/ComfyUI/main.py",
        "p-1/vendor/ComfyUI/comfy/sd.py",
        "p-1/setup.py",
        "p-1/vendor/other/x.py",
    )
    provision.unpack(archive(tmp_path, *names), tmp_path / "out")
    files = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.py")}
    assert files == {"main.py", "comfy/sd.py"}


@pytest.mark.parametrize(
    "member",
    [
        "/p-1/vendor/ComfyUI/main.py",
        "p-1/vendor/ComfyUI/../../../main.py",
        "../p-1/vendor/ComfyUI/main.py",
        link("p-1/vendor/ComfyUI/main.py"),
    ],
    ids=["absolute", "climbs inside", "climbs out", "link"],
)
def test_members_that_lead_out_are_refused(tmp_path, member):
    with pytest.raises(Failure, match="source.tar.gz contains"):
        provision.unpack(archive(tmp_path, member), tmp_path / "out")
    assert not list(tmp_path.rglob("main.py"))
