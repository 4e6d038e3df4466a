"""CIFAR-10 from a packed cache, or fetched, verified and packed; no pickle is ever read."""

import hashlib
import io
import os
import socket
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch.hub import download_url_to_file

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
FOLDER = "cifar-10-batches-bin"
MEMBERS = {"train": [f"data_batch_{i}.bin" for i in range(1, 6)], "test": ["test_batch.bin"]}
STALLED_AFTER = 60  # seconds without a byte


class DataError(RuntimeError):
    """Images are missing or not what they should be; the message says which file and what to do."""


@dataclass(frozen=True)
class Published:
    """What the published images are, and where: everything that a download or a cache is checked against."""

    urls: tuple[str, ...]
    sha256: str
    images: dict[str, int]
    fingerprint: str


CIFAR10 = Published(
    urls=(
        "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
        "https://cave.cs.toronto.edu/kriz/cifar-10-binary.tar.gz",
    ),
    sha256="c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
    images={"train": 50_000, "test": 10_000},
    fingerprint="f08f3fc8e9e44e051211a4e932c7b19cc739dedc35a38a2b568cc33faeffb522",
)


def fingerprint(arrays: dict[str, np.ndarray]) -> str:
    """A SHA-256 of all images with their labels that does not depend on their order within a split."""
    whole = hashlib.sha256()
    for split in MEMBERS:
        pairs = zip(arrays[f"x_{split}"], arrays[f"y_{split}"])
        whole.update(b"".join(sorted(hashlib.sha256(image.tobytes() + bytes([label])).digest() for image, label in pairs)))
    return whole.hexdigest()


def wrong(arrays: dict[str, np.ndarray], published: Published) -> str:
    """What is wrong with these arrays, or nothing."""
    for split, count in published.images.items():
        for name, shape in {f"x_{split}": (count, 32, 32, 3), f"y_{split}": (count,)}.items():
            found = arrays.get(name)
            if found is None:
                return f"it has no {name}, only {sorted(arrays)}"
            if found.dtype != np.uint8 or found.shape != shape:
                return f"{name} is {found.dtype} {found.shape}, not uint8 {shape}"
    if fingerprint(arrays) != published.fingerprint:
        return "its images or labels are not the published ones"
    return ""


def read(path: Path, published: Published = CIFAR10) -> tuple[dict[str, np.ndarray], str]:
    """The arrays of a packed cache and the SHA-256 of the file. Raises DataError unless they are the published ones."""
    content = path.read_bytes()
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except Exception as error:  # numpy and zipfile raise half a dozen kinds for a damaged file
        problem = f"it cannot be read ({error})"
    else:
        problem = wrong(arrays, published)
    if problem:
        raise DataError(f"{path} is not a packed CIFAR-10: {problem}. Delete it and run `python -m gsa data cifar10`.")
    return arrays, hashlib.sha256(content).hexdigest()
