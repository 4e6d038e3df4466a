"""What must travel to a machine with a GPU and no network: wheels, and CIFAR-10 in two halves of lossless sheets."""

import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import requires, version
from pathlib import Path

import numpy as np
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from PIL import Image

from gsa.data import data_dir
from gsa.data.download import CIFAR10, Arrays, check, cifar10
from gsa.files import whole
from gsa.training.record import commit

PLACE = Path("_build/gpu")
HALVES = ("first", "second")
COLUMNS, SHEET = 100, 5000
"""Images in a row of a sheet, and in all of it."""

PROJECT = Path(__file__).parents[2] / "pyproject.toml"
THERE = {
    *"accelerate einops jaxtyping matplotlib numpy pandas pillow safetensors".split(),
    *"scikit-image scipy statsmodels torch torchvision tqdm".split(),
}
"""What a machine for PyTorch has: neither these travel nor what they need."""

PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64", "manylinux1_x86_64")


def wheels(place: Path, python: str) -> None:
    """Download what the package needs and the machine lacks, in the versions that are installed here."""
    pins = [f"{name}=={version(name)}" for name in sorted(lacking())]
    target = [f"--python-version={python}", "--implementation=cp", *(f"--platform={name}" for name in PLATFORMS)]
    pip = [sys.executable, "-m", "uv", "run", "--quiet", "--no-project", "--with=pip", "python", "-m", "pip"]
    shutil.rmtree(place, ignore_errors=True)
    options = ["--quiet", "--no-deps", "--only-binary=:all:", f"--dest={place}", *target]
    subprocess.run([*pip, "download", *options, *pins], check=True)


def lacking() -> set[str]:
    """What the package needs, and beartype for its tests, with what these need in turn, but not what is THERE."""
    found: set[str] = set()
    project = tomllib.loads(PROJECT.read_text())["project"]
    waiting = [*project["dependencies"], *project["optional-dependencies"]["train"], "beartype"]
    while waiting:
        needed = Requirement(waiting.pop())
        name = canonicalize_name(needed.name)
        if name not in found | THERE and (needed.marker is None or needed.marker.evaluate({"extra": ""})):
            found.add(name)
            waiting += requires(name) or []
    return found


def command(place: Path, half: str, part: str, until: int) -> str:
    """What to run in the root of the repository there, once the wheels and that half are there too.

    What is unpacked stays in a folder outside of the repository, so that the second half finds the first.
    """
    there = "$HOME/gsa-gpu"
    install = f"python3 -m pip install -q --no-index --no-deps --upgrade --target {there}/site {place}/wheels/*.whl"
    images = f"mkdir -p {there}/images && cp {place}/{half}/* {there}/images"
    verify = f"python3 -m tools.gpu unpack {there}/images" if half == HALVES[-1] else ""
    environment = f"export PYTHONPATH={there}/site GSA_DATA={there}/images GSA_COMMIT={commit()}"
    run = f'python3 -m tools.gpu run {part} --until {until} --out "${{OUT:-{place}}}"'
    return " && ".join(filter(None, (install, environment, images, verify, run)))


def sheets(arrays: Arrays) -> Iterator[tuple[str, np.ndarray]]:
    """All images in contact sheets, in their order."""
    for split in ("train", "test"):
        images = arrays[f"x_{split}"]
        for start in range(0, len(images), SHEET):
            some = images[start : start + SHEET]
            rows = some.reshape(-1, COLUMNS, *some.shape[1:])
            yield f"{split}-{start:05}", rows.transpose(0, 2, 1, 3, 4).reshape(len(rows) * some.shape[1], -1, 3)


def pack(place: Path) -> None:
    """Write the labels and the sheets, half of them in each folder."""
    arrays, _ = cifar10(data_dir())
    pictures = [*sheets(arrays)]
    for number, (name, sheet) in enumerate(pictures):
        half = place / HALVES[2 * number // len(pictures)]
        half.mkdir(parents=True, exist_ok=True)
        Image.fromarray(sheet).save(half / f"{name}.webp", lossless=True, method=2)
    labels = {name: labels for name, labels in arrays.items() if name.startswith("y")}
    np.savez(place / HALVES[0] / "labels.npz", **labels)


def unpack(place: Path) -> Path:
    """Join both halves, which lie in one folder, to a cifar10.npz. ValueError unless all is there."""
    with np.load(place / "labels.npz") as labels:
        arrays = {f"x_{split}": images(place, split) for split in ("train", "test")} | dict(labels)
    check(arrays, CIFAR10)
    with whole(place / "cifar10.npz") as partial, partial.open("wb") as file:
        np.savez(file, **{name: arrays[name] for name in ("x_train", "y_train", "x_test", "y_test")})
    return place / "cifar10.npz"


def images(place: Path, split: str) -> np.ndarray:
    """The images of a split, taken from its sheets."""
    side = CIFAR10.shape[0]
    tiles = []
    for path in sorted(place.glob(f"{split}-*.webp")):
        sheet = np.asarray(Image.open(path).convert("RGB"))
        tiles.append(
            sheet.reshape(len(sheet) // side, side, -1, side, 3).transpose(0, 2, 1, 3, 4).reshape(-1, side, side, 3)
        )
    return np.concatenate(tiles) if tiles else np.empty((0, side, side, 3), np.uint8)
