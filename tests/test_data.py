"""Data: what is fetched is verified or refused, what is drawn asks for what it claims to; no network anywhere."""

import gzip
import hashlib
import io
import socket
import tarfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import skimage
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import nn
from torchvision import datasets

from gsa import data
from gsa.data import DataError, download, load, synthetic
from gsa.data import dataset as ladder
from gsa.layers import bilinear_sample, build_mechanism
from gsa.models import ResNet


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Images are kept in an empty folder, and every address leads nowhere."""
    monkeypatch.setenv("GSA_DATA", str(tmp_path / "images"))
    monkeypatch.setattr(download, "CIFAR10_URLS", ("http://127.0.0.1:9/nobody-listens",))
    monkeypatch.setattr(datasets.MNIST, "mirrors", ["http://127.0.0.1:9/"])
    return tmp_path / "images"


class Server(ThreadingHTTPServer):
    """Serves ``files``, in whole or not: see Handler. Whatever waits goes on when ``release`` is set."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.requests = {}, []
        self.release, self.met = threading.Event(), threading.Barrier(3)

    def url(self, path):
        return f"http://127.0.0.1:{self.server_port}/{path}"


class Handler(BaseHTTPRequestHandler):
    """/whole/… is served, /corrupt/… has a wrong byte, /interrupted/… stops halfway.

    /slow/… trickles and /silent/… waits for a while before the rest comes; /first-silent/… keeps the first who asks
    waiting, /together/… all until three have asked.
    """

    def do_GET(self):
        _, how, name = self.path.split("/")
        self.server.requests.append(how)
        if name not in self.server.files:
            return self.send_error(404)
        if how == "silent":
            self.server.release.wait(5)
        if how == "first-silent" and self.server.requests.count(how) == 1:
            self.server.release.wait()
        if how == "together":
            self.server.met.wait()
        content = bytearray(self.server.files[name])
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if how == "corrupt":
            content[len(content) // 2] ^= 1
        for _ in range(200 if how == "slow" else 0):
            self.wfile.write(content[:1])
            del content[:1]
            self.server.release.wait(0.05)
        self.wfile.write(content[: len(content) // 2] if how == "interrupted" else content)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield server
        server.release.set()
        server.shutdown()
        thread.join()


def made_up(shape):
    rng = np.random.default_rng(0)
    arrays = {}
    for split, count in (("train", 20), ("test", 6)):
        arrays[f"x_{split}"] = rng.integers(256, size=(count, *shape), dtype=np.uint8)
        arrays[f"y_{split}"] = rng.integers(10, size=count, dtype=np.uint8)
    return arrays


def publish(monkeypatch, name, arrays):
    """Let these arrays be the published ones."""
    old, images = getattr(download, name), {"train": 20, "test": 6}
    new = download.Published(old.name, old.classes, old.shape, images, download.fingerprint(arrays))
    monkeypatch.setattr(download, name, new)


@pytest.fixture
def images(monkeypatch):
    arrays = made_up((32, 32, 3))
    publish(monkeypatch, "CIFAR10", arrays)
    return arrays


@pytest.fixture
def archive(images, server, monkeypatch):
    """The made-up images as the server's cifar-10-binary.tar.gz; returns a function that sets the addresses to try."""
    batches = {f"data_batch_{i + 1}.bin": ("train", slice(4 * i, 4 * i + 4)) for i in range(5)}
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as tar:
        for name, (split, part) in (batches | {"test_batch.bin": ("test", slice(None))}).items():
            planes = images[f"x_{split}"][part].transpose(0, 3, 1, 2).reshape(-1, 3072)
            rows = np.concatenate([images[f"y_{split}"][part, None], planes], axis=1).tobytes()
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = len(rows)
            tar.addfile(member, io.BytesIO(rows))
    server.files["cifar.tar.gz"] = content.getvalue()
    monkeypatch.setattr(download, "CIFAR10_SHA256", hashlib.sha256(content.getvalue()).hexdigest())

    def serve(*ways):
        urls = tuple(server.url(f"{how}/cifar.tar.gz") for how in ways)
        monkeypatch.setattr(download, "CIFAR10_URLS", urls)

    return serve


def assert_holds(dataset, arrays):
    for split in ("train", "test"):
        assert torch.equal(getattr(dataset, f"x_{split}").permute(0, 2, 3, 1), torch.tensor(arrays[f"x_{split}"]))
        assert getattr(dataset, f"y_{split}").tolist() == arrays[f"y_{split}"].tolist()


def names(folder):
    """The files there, but for the locks."""
    return sorted(path.name for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock")


def test_cifar10_is_fetched_once_then_read_from_the_packed_cache(archive, images, server, folder):
    archive("whole")
    for _ in range(2):
        dataset = load("cifar10", "demo")
        assert_holds(dataset, images)
    assert server.requests == ["whole"] and names(folder) == ["cifar10.npz"]
    digest = hashlib.sha256((folder / "cifar10.npz").read_bytes()).hexdigest()
    assert digest[:16] in dataset.source and "20 + 6 images" in dataset.source and str(folder) not in dataset.source
    assert dataset.classes[3] == "cat" and data.fetch("cifar10") == folder


@pytest.mark.parametrize("bad", ["interrupted", "corrupt"])
def test_a_bad_download_is_detected_and_fetched_again_elsewhere(bad, archive, images, server, folder):
    archive(bad, "whole")
    assert_holds(load("cifar10"), images)
    assert server.requests == [bad, "whole"] and names(folder) == ["cifar10.npz"]


@pytest.mark.parametrize("bad", ["interrupted", "corrupt"])
def test_when_every_download_is_bad_nothing_stays_and_the_next_attempt_starts_afresh(bad, archive, images, folder):
    archive(bad, bad)
    with pytest.raises(DataError, match=r"(?s)python -m gsa data cifar10.*GSA_DATA.*its sha256 is"):
        load("cifar10")
    assert names(folder) == []
    archive("whole")
    assert_holds(load("cifar10"), images)


def test_without_network_and_cache_the_error_says_what_to_do(folder):
    with pytest.raises(DataError) as error:
        load("cifar10")
    for part in (folder / "cifar10.npz", "python -m gsa data cifar10", "GSA_DATA", "nobody-listens"):
        assert str(part) in str(error.value)


def test_packing_that_is_interrupted_leaves_nothing(archive, folder, monkeypatch):
    def interrupted(path, **_):
        path.write_bytes(b"half of it")
        raise KeyboardInterrupt

    archive("whole")
    monkeypatch.setattr(np, "savez", interrupted)
    with pytest.raises(KeyboardInterrupt):
        load("cifar10")
    assert names(folder) == []


def test_a_folder_that_cannot_be_written_is_named(folder):
    folder.touch()
    with pytest.raises(DataError, match=rf"Cannot write to {folder}.*GSA_DATA"):
        load("cifar10")


def lacks_labels(arrays):
    del arrays["y_test"]


def has_floats(arrays):
    arrays["x_train"] = arrays["x_train"] / np.float32(255)


def has_channels_first(arrays):
    arrays["x_train"] = arrays["x_train"].transpose(0, 3, 1, 2)


def has_too_few(arrays):
    arrays["x_test"], arrays["y_test"] = arrays["x_test"][1:], arrays["y_test"][1:]


def has_other_pixels(arrays):
    arrays["x_train"][7, 5, 5, 1] ^= 1


def has_other_labels(arrays):
    arrays["y_train"] = np.roll(arrays["y_train"], 1)


def is_pickled(arrays):
    arrays["y_train"] = arrays["y_train"].astype(object)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lacks_labels, "no y_test"),
        (has_floats, "x_train is float32"),
        (has_channels_first, r"\(20, 3, 32, 32\), not uint8 \(20, 32, 32, 3\)"),
        (has_too_few, r"x_test is uint8 \(5,"),
        (has_other_pixels, "not the published ones"),
        (has_other_labels, "not the published ones"),
        (is_pickled, "allow_pickle=False"),
    ],
)
def test_a_cache_from_elsewhere_is_refused_and_kept(damage, says, images, folder):
    damage(images)
    folder.mkdir()
    np.savez(folder / "cifar10.npz", **images)
    with pytest.raises(DataError, match=says) as error:
        load("cifar10")
    assert str(folder / "cifar10.npz") in str(error.value) and "python -m gsa data cifar10" in str(error.value)
    assert names(folder) == ["cifar10.npz"]


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.9, 0.9999])
def test_a_truncated_cache_is_refused(kept, images, folder):
    folder.mkdir()
    np.savez(folder / "cifar10.npz", **images)
    content = (folder / "cifar10.npz").read_bytes()
    (folder / "cifar10.npz").write_bytes(content[: int(kept * len(content))])
    with pytest.raises(DataError, match=r"cifar10\.npz is not a packed CIFAR-10"):
        load("cifar10")


def test_the_order_of_the_images_does_not_matter(images, folder):
    order = np.random.default_rng(1).permutation(20)
    images["x_train"], images["y_train"] = images["x_train"][order], images["y_train"][order]
    folder.mkdir()
    np.savez(folder / "cifar10.npz", **images)
    assert_holds(load("cifar10"), images)


@pytest.fixture
def digits(monkeypatch, server):
    """Made-up images as MNIST's four files on the server; returns them unpacked."""
    arrays = made_up((28, 28, 1))
    publish(monkeypatch, "MNIST", arrays)
    raw = {}
    for split, prefix in (("train", "train"), ("test", "t10k")):
        x, y = arrays[f"x_{split}"], arrays[f"y_{split}"]
        raw[f"{prefix}-images-idx3-ubyte"] = (
            bytes([0, 0, 8, 3]) + np.array([len(x), 28, 28], ">i4").tobytes() + x.tobytes()
        )
        raw[f"{prefix}-labels-idx1-ubyte"] = bytes([0, 0, 8, 1]) + np.array([len(y)], ">i4").tobytes() + y.tobytes()
    server.files |= {f"{name}.gz": gzip.compress(content) for name, content in raw.items()}
    resources = [(f"{name}.gz", hashlib.md5(server.files[f"{name}.gz"]).hexdigest()) for name in raw]
    monkeypatch.setattr(datasets.MNIST, "resources", resources)
    return arrays, raw


def test_mnist_is_fetched_once_and_read(digits, server, folder, monkeypatch):
    monkeypatch.setattr(datasets.MNIST, "mirrors", [server.url("corrupt/"), server.url("whole/")])
    assert_holds(load("mnist", "full"), digits[0])
    assert {"corrupt", "whole"} == set(server.requests) and names(folder) == sorted(digits[1])
    server.requests.clear()
    assert_holds(load("mnist", "demo"), digits[0])
    assert server.requests == []


def test_mnist_half_fetched_is_not_taken_for_whole(digits, server, folder, monkeypatch):
    del server.files["t10k-labels-idx1-ubyte.gz"]
    monkeypatch.setattr(datasets.MNIST, "mirrors", [server.url("whole/")])
    with pytest.raises(DataError, match=r"(?s)MNIST is not at .*python -m gsa data mnist.*GSA_DATA"):
        load("mnist")
    assert names(folder) == []


@pytest.mark.parametrize("damage", [lambda content: content[:-9], lambda content: content[:-1] + b"\x0b"])
@pytest.mark.parametrize("name", ["train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"])
def test_damaged_mnist_is_refused(damage, name, digits, folder):
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for file, content in digits[1].items():
        (raw / file).write_bytes(damage(content) if file == name else content)
    with pytest.raises(DataError, match=rf"{raw} is not MNIST.*python -m gsa data mnist"):
        load("mnist")


@pytest.mark.parametrize("bad", ["slow", "silent"])
@pytest.mark.parametrize("name", ["cifar10", "mnist"])
def test_a_mirror_that_dawdles_is_left_and_the_sockets_of_others_are_not_touched(
    bad, name, archive, images, digits, monkeypatch, server
):
    archive(bad, "whole")
    monkeypatch.setattr(datasets.MNIST, "mirrors", [server.url(f"{bad}/"), server.url("whole/")])
    monkeypatch.setattr(download, "STALLED", 0.3)
    monkeypatch.setattr(download, "SLOWEST", {"slow": 20_000, "silent": 0}[bad])
    monkeypatch.setattr(socket, "setdefaulttimeout", None)
    assert_holds(load(name), images if name == "cifar10" else digits[0])
    assert {bad, "whole"} == set(server.requests)


def several(count, name):
    """So many processes that load at once; a queue for what each says: its labels, or why it has none."""
    context = get_context("fork")
    said, start = context.Queue(), context.Barrier(count)

    def process():
        start.wait()
        try:
            said.put(load(name).y_train.tolist())
        except Exception as error:
            said.put(error)

    processes = [context.Process(target=process) for _ in range(count)]
    for one in processes:
        one.start()
    return processes, said


@pytest.fixture
def serve_both(archive, server, digits, images, monkeypatch):
    """A function that serves CIFAR-10 and MNIST one way; returns the right labels of each."""

    def serve(how):
        archive(how)
        monkeypatch.setattr(datasets.MNIST, "mirrors", [server.url(f"{how}/")])
        return {"cifar10": images["y_train"].tolist(), "mnist": digits[0]["y_train"].tolist()}

    return serve


@pytest.mark.parametrize("name", ["cifar10", "mnist"])
def test_of_three_processes_one_fetches_and_all_read(name, serve_both, server):
    labels = serve_both("whole")
    processes, said = several(3, name)
    assert [said.get(timeout=30) for _ in processes] == 3 * [labels[name]]
    assert len(server.requests) == {"cifar10": 1, "mnist": 4}[name]


@pytest.mark.parametrize("name", ["cifar10", "mnist"])
def test_the_losers_of_a_race_use_what_is_there(name, serve_both, server, folder, monkeypatch):
    monkeypatch.setattr(download, "PATIENCE", 0)
    labels = serve_both("together")
    processes, said = several(3, name)
    assert [said.get(timeout=30) for _ in processes] == 3 * [labels[name]]
    assert len(server.requests) == {"cifar10": 3, "mnist": 12}[name]
    assert len(names(folder)) == {"cifar10": 1, "mnist": 4}[name]


def test_who_waits_too_long_for_another_fetches_beside_it(serve_both, server, monkeypatch):
    monkeypatch.setattr(download, "PATIENCE", 0.3)
    labels = serve_both("first-silent")
    _, said = several(2, "mnist")
    assert said.get(timeout=30) == labels["mnist"] and not server.release.is_set()
    server.release.set()
    assert said.get(timeout=30) == labels["mnist"]


def test_a_process_that_is_killed_blocks_nobody(serve_both, server):
    labels = serve_both("first-silent")
    (killed,), _ = several(1, "mnist")
    while not server.requests:
        time.sleep(0.01)
    killed.kill()
    _, said = several(1, "mnist")
    assert said.get(timeout=30) == labels["mnist"]


@pytest.mark.parametrize("name", ["cifar10", "mnist"])
def test_smoke_draws_and_asks_nobody(name, archive, server, folder):
    archive("whole")
    dataset = load(name, "smoke")
    assert dataset.name == "shapes" and f"in place of {ladder.PUBLISHED[name][0].name}" in dataset.source
    assert server.requests == [] and not folder.exists()


def test_names_and_budgets_that_do_not_exist_are_refused(monkeypatch):
    with pytest.raises(ValueError, match=r"'imagenet'.*cifar10, mnist, shapes, shapes-64, .*same-128"):
        load("imagenet")
    with pytest.raises(ValueError, match=r"'tiny'.*smoke, demo, full"):
        load("shapes", "tiny")
    with pytest.raises(ValueError, match=r"'shapes'.*cifar10 and mnist"):
        data.fetch("shapes")
    monkeypatch.setenv("GSA_BUDGET", "tiny")
    with pytest.raises(ValueError, match=r"GSA_BUDGET is 'tiny'"):
        data.budget()


@pytest.mark.parametrize(("gpu", "expected"), [(True, "demo"), (False, "smoke")])
def test_the_budget_follows_the_device_unless_it_is_set(gpu, expected, monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: gpu)
    monkeypatch.delenv("GSA_BUDGET")
    assert data.budget() == expected
    monkeypatch.setenv("GSA_BUDGET", "full")
    assert data.budget() == "full"


def test_images_are_kept_in_the_users_cache_unless_told_otherwise(folder, monkeypatch):
    assert data.data_dir() == folder
    monkeypatch.delenv("GSA_DATA")
    assert data.data_dir() == ladder.user_cache_path("gsa")


@pytest.mark.parametrize("name", data.PHOTOGRAPHS)
def test_photographs_come_with_the_package_and_name_their_makers(name, monkeypatch):
    assert [path for path in Path(skimage.data.__file__).parent.iterdir() if path.stem == name]
    monkeypatch.setattr(socket, "socket", None)
    shown = data.photograph(name)
    assert shown.image.dtype == torch.uint8 and shown.image.shape == (3, 32, 32) and shown.image.float().std() > 10
    assert shown.title and shown.credit and shown.licence in ("CC0", "public domain")


def test_a_pixel_of_a_photograph_is_the_average_of_the_square_in_its_middle():
    cat = skimage.data.chelsea()[:, 75:375].reshape(30, 10, 30, 10, 3).mean((1, 3)).round()
    assert np.array_equal(data.photograph("chelsea", 30).image.permute(1, 2, 0), cat)
    assert data.photograph("camera", 8).image.unique(dim=0).shape[0] == 1
    assert data.photograph("horse", 328).image.unique().tolist() == [0, 255]


def test_photographs_that_do_not_exist_are_refused():
    with pytest.raises(ValueError, match="'dog'; there are chelsea, rocket"):
        data.photograph("dog")
    for size in (0, 301):
        with pytest.raises(ValueError, match=f"'chelsea' has a square of 300×300 pixels.*1…300, got {size}"):
            data.photograph("chelsea", size)


@pytest.fixture(scope="module")
def shapes():
    return load("shapes")


@pytest.fixture(scope="module")
def same():
    return load("same")


def test_drawn_images_repeat_and_are_balanced(shapes, same):
    for dataset, sizes in ((shapes, (5000, 1000)), (same, (5000, 1000))):
        again = load(dataset.name)
        assert torch.equal(dataset.x_train, again.x_train) and torch.equal(dataset.y_test, again.y_test)
        for labels, size in zip((dataset.y_train, dataset.y_test), sizes):
            assert labels.bincount().tolist() == [size // len(dataset.classes)] * len(dataset.classes)


@pytest.mark.parametrize("draw", [synthetic.draw_shapes, synthetic.draw_same])
def test_larger_images_show_the_same_in_more_pixels(draw):
    labels = np.arange(20) % 2
    small, large = (draw(np.random.default_rng(0), labels, size=size).astype(np.float32) for size in (32, 128))
    assert large.shape == (20, 128, 128, 3)
    shrunk = large.reshape(20, 32, 4, 32, 4, 3).mean((2, 4))
    assert np.abs(shrunk - small).mean() < 12, "the noise of a small image is 10"
    edge = np.abs(np.diff(large, axis=2)).max((1, 2, 3))
    assert (edge > 0.3 * np.abs(np.diff(small, axis=2)).max((1, 2, 3))).all(), "edges are as sharp, not blown up"


def test_larger_images_have_names():
    dataset = load("same-64")
    assert dataset.x_train.shape == (5000, 3, 64, 64) and dataset.source.startswith("same-64: drawn by numpy")
    assert {"shapes-64", "shapes-128", "same-64", "same-128"} < set(data.NAMES)


def test_all_figures_have_the_same_area():
    x, y = np.meshgrid(np.linspace(-2, 2, 801), np.linspace(-2, 2, 801))
    areas = {name: 16 * (outline(x, y) < 0).mean() for name, outline in synthetic.FIGURES.items()}
    assert all(abs(area - 2) < 0.05 for area in areas.values()), areas


def colour_histograms(images, bins=6):
    """The share of each of bins³ colours in each image."""
    red, green, blue = (images.long() * bins // 256).unbind(1)
    cells = ((red * bins + green) * bins + blue).flatten(1)
    return torch.stack([image.bincount(minlength=bins**3) for image in cells]) / cells.shape[1]


def test_colours_alone_say_little_about_shapes(shapes):
    train, test = colour_histograms(shapes.x_train), colour_histograms(shapes.x_test)
    centroids = torch.stack([train[shapes.y_train == label].mean(0) for label in range(10)])
    nearest = torch.cdist(test, centroids).argmin(1)
    linear = nn.Linear(train.shape[1], 10)
    optimizer = torch.optim.LBFGS(linear.parameters(), max_iter=100, line_search_fn="strong_wolfe")
    scale = train.std(0) + 1e-3

    def loss():
        optimizer.zero_grad()
        value = F.cross_entropy(linear(train / scale), shapes.y_train) + 1e-3 * linear.weight.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    for guess in (nearest, linear(test / scale).argmax(1)):
        assert (guess == shapes.y_test).float().mean() < 0.2


def accuracy(network, dataset, *, epochs, optimizer, enough=1.0, prepare=lambda images: images):
    """Test accuracy after so many epochs, or as soon as it is enough."""
    x, x_test = (prepare(images.float() / 127.5 - 1) for images in (dataset.x_train, dataset.x_test))
    steps, peak = -(-len(x) // 64), optimizer.param_groups[0]["lr"]
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, peak, total_steps=epochs * steps)
    for _ in range(epochs):
        network.train()
        for batch in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            F.cross_entropy(network(x[batch]), dataset.y_train[batch]).backward()
            optimizer.step()
            schedule.step()
        network.eval()
        with torch.no_grad():
            reached = (network(x_test).argmax(1) == dataset.y_test).float().mean().item()
        if reached >= enough:
            break
    return reached


def test_a_small_resnet_learns_shapes_even_at_half_their_size(shapes):
    network = ResNet((1, 1, 1), 16)
    optimizer = torch.optim.SGD(network.parameters(), 0.2, 0.9, weight_decay=5e-4, nesterov=True)
    half = lambda images: F.avg_pool2d(images, 2)  # noqa: E731
    assert accuracy(network, shapes, epochs=10, optimizer=optimizer, enough=0.9, prepare=half) >= 0.9


def test_no_window_of_eleven_pixels_touches_both_glyphs():
    images = synthetic.draw_same(np.random.default_rng(0), np.arange(500) % 2).astype(int)
    background = np.median(images, axis=(1, 2), keepdims=True)
    assert np.abs(images - background)[:, :, 11:21].max() < 60
    sides = np.abs(images - background).max(axis=(1, 3)) > 80
    assert sides[:, :11].any(1).all() and sides[:, 21:].any(1).all()


def reader(mechanism):
    """Two strided convolutions that see 7 pixels, a mechanism on their 8×8 tokens, the average, a linear head."""

    class Residual(nn.Sequential):
        def forward(self, x):
            return x + super().forward(x)

    def convolution(channels_in, kernel, stride):
        layer = nn.Conv2d(channels_in, 32, kernel, stride, kernel // 2, bias=False)
        return nn.Sequential(layer, nn.BatchNorm2d(32), nn.ReLU())

    return nn.Sequential(
        convolution(3, 3, 2),
        convolution(32, 3, 2),
        Residual(nn.BatchNorm2d(32), build_mechanism(mechanism, 32, (8, 8))),
        convolution(32, 1, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 2),
    )


@pytest.mark.parametrize("mechanism", ["self", "gsa"])
def test_a_global_layer_solves_same(mechanism, same):
    network = reader(mechanism)
    optimizer = torch.optim.AdamW(network.parameters(), 4e-3)
    assert accuracy(network, same, epochs=6, optimizer=optimizer, enough=0.9) >= 0.9


def test_a_local_network_stays_at_chance_on_same(same):
    network = reader("none")
    optimizer = torch.optim.AdamW(network.parameters(), 4e-3)
    accuracy(network, same, epochs=6, optimizer=optimizer)
    with torch.no_grad():
        loss = F.cross_entropy(network(same.x_test / 127.5 - 1), same.y_test)
    assert loss > 0.68, "a coin has ln 2 = 0.693; accuracy may stray where the network is sure of nothing"


@pytest.fixture(scope="module")
def described():
    return data.described(600, seed=0)


def figures_in(image, background_below=0.3):
    """The connected figures of an image, each as a mask: (figures, height, width)."""
    bright = image.float().amax(0) / 255 > background_below + 0.1
    labels, count = ndimage.label(bright.numpy())
    sizes = ndimage.sum_labels(bright.numpy(), labels, range(1, count + 1))
    return torch.stack([torch.from_numpy(labels == i + 1) for i in range(count) if sizes[i] >= 10])


def test_described_images_repeat_and_differ_by_seed(described):
    again, other = data.described(600, seed=0), data.described(600, seed=1)
    assert all(torch.equal(one, same) for one, same in zip(described, again))
    assert not torch.equal(described.images, other.images)


def test_a_sentence_names_one_of_two_or_three_figures(described):
    lengths = []
    for image, sentence, mask in zip(*described):
        figures = figures_in(image)
        said = [data.WORDS[word] for word in sentence if word]
        both = said[1] in synthetic.COLOURS and said[2:] != ["one"]
        overlaps = (figures & mask).sum((1, 2)) / figures.sum((1, 2))
        assert said[0] == "the" and len(figures) == (3 if both else 2)
        assert (overlaps > 0.5).sum() == 1 and (overlaps < 0.1).sum() == len(figures) - 1
        lengths.append(both)
    assert 0.25 < np.mean(lengths) < 0.42


def colour_of(image, mask):
    tones = torch.tensor(list(synthetic.COLOURS.values()))
    return list(synthetic.COLOURS)[(image[:, mask].float().mean(1) / 255 - tones).norm(dim=1).argmin()]


def test_the_figure_meant_has_the_colour_that_is_said_and_only_one_other_has_it_too(described):
    for image, sentence, mask in zip(*described):
        said = {data.WORDS[word] for word in sentence} & set(synthetic.COLOURS)
        others = [figure for figure in figures_in(image) if not figure[mask].any()]
        if said:
            assert {colour_of(image, mask)} == said
            same = [colour_of(image, figure) in said for figure in others]
            assert sum(same) == len(others) - 1, "without the colour, another figure would do"


def test_the_figure_meant_has_the_form_that_is_said(described):
    _, sentences, masks = described
    filled = masks.sum((1, 2)) / masks.any(1).sum(1) / masks.any(2).sum(1)
    disc, square, triangle, cross = (
        filled[(sentences == data.WORDS.index(form)).any(1)].mean() for form in synthetic.FORMS
    )
    assert min(disc, square) > 0.7 > max(triangle, cross)


def test_a_texture_moves_as_its_flow_says():
    first, second, flow = data.moved(20, seed=0)
    assert all(torch.equal(one, same) for one, same in zip((first, second, flow), data.moved(20, seed=0)))
    assert flow.abs().amax() < 3 + 0.05 * 32 and flow.norm(dim=1).mean() > 1.5
    row, column = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    points = torch.stack([row, column], -1) + flow.movedim(1, -1)
    inside = ((points >= 0) & (points <= 31)).all(-1)

    def error(points):
        return (bilinear_sample(second.float(), points) - first.float()).abs().mean(1)[inside].mean()

    still = points - flow.movedim(1, -1)
    assert error(points) < 15 < error(still) / 1.5
    assert error(points) < error(still - flow.movedim(1, -1)) / 2, "backwards"
    assert error(points) < error(still + flow.flip(1).movedim(1, -1)) / 1.5, "columns before rows"
