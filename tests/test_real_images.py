"""The published images themselves, where this machine has them: nothing is fetched, and without them all is skipped."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from gsa.data import data_dir, load, photograph
from gsa.data.pipeline import split
from gsa.models import BasicCNN
from gsa.results import Ledger
from gsa.training import Config, train

FILES = {"cifar10": "cifar10.npz", "mnist": "MNIST/raw"}


@pytest.fixture(scope="module", params=FILES)
def dataset(request):
    if not (data_dir() / FILES[request.param]).exists():
        pytest.skip(f"no real {request.param} in {data_dir()}; GSA_DATA names another folder")
    return load(request.param)


def test_labels_belong_to_their_images(dataset):
    """The nearest mean image names the class far more often than chance, which shuffled labels would not allow."""
    train_x, test_x = dataset.x_train.flatten(1).float(), dataset.x_test.flatten(1).float()
    means = torch.stack([train_x[dataset.y_train == label].mean(0) for label in range(10)])
    right = (torch.cdist(test_x, means).argmin(1) == dataset.y_test).float().mean()
    assert right > {"cifar10": 0.25, "mnist": 0.8}[dataset.name]


def test_a_network_with_gsa_learns_from_a_few_of_them(dataset):
    few = {
        f"{axis}_{split}": getattr(dataset, f"{axis}_{split}")[:2000] for axis in "xy" for split in ("train", "test")
    }
    config = Config("resnet8", "gsa", width=8, data="few", epochs=4, batch=25, optimizer="sgd", lr=0.1)
    record = train(config, dataset=replace(dataset, name="few", **few)).record
    assert record.test_accuracy > {"cifar10": 0.25, "mnist": 0.6}[dataset.name]
    assert record.data_source == dataset.source


def test_one_epoch_of_the_basic_network_falls_short_of_what_its_source_prints():
    """SGD at 0.01 with momentum 0.5, batches of 64, pixels from 0 to 1: its 98 of 100 digits take about six epochs."""
    if not (data_dir() / FILES["mnist"]).exists():
        pytest.skip(f"no real mnist in {data_dir()}; GSA_DATA names another folder")
    digits, network = load("mnist"), BasicCNN()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.5)
    for batch in torch.randperm(len(digits.x_train)).split(64):
        optimizer.zero_grad()
        F.cross_entropy(network(digits.x_train[batch] / 255), digits.y_train[batch]).backward()
        optimizer.step()
    with torch.no_grad():
        right = (network(digits.x_test / 255).argmax(1) == digits.y_test).float().mean()
    assert 0.9 < right < 0.96


@pytest.mark.parametrize("arm", ["gsa", "none"])
@pytest.mark.parametrize(("name", "called"), [("chelsea", "cat"), ("horse", "horse"), ("rocket", "ship")])
@torch.no_grad()
def test_published_networks_recognise_photographs_from_elsewhere(name, called, arm):
    trained = Ledger().trained("resnet20-cpu", arm)
    answer = trained.model(trained.normalize(photograph(name).image[None])).softmax(1)[0]
    assert trained.classes[answer.argmax()] == called and answer.max() > 0.9


@pytest.mark.parametrize("kept", [r for r in Ledger().records() if r.weights_sha256], ids=lambda r: r.config.arm)
@torch.no_grad()
def test_published_weights_are_right_as_often_as_their_record_says(kept):
    """On the held-out images of the record; half precision may change the answer to a few."""
    if not (data_dir() / FILES["cifar10"]).exists():
        pytest.skip(f"no real cifar10 in {data_dir()}; GSA_DATA names another folder")
    config = kept.config
    _, held_out, _ = split(load(config.data), config.holdout, config.images, torch.device("cpu"))
    trained = Ledger().trained(config.study, config.arm, config.seed)
    answers = torch.cat([trained.model(trained.normalize(x)).argmax(1) for x in held_out.x.split(500)])
    right = (answers == held_out.y).float().mean().item()
    assert right == pytest.approx(kept.history[-1].holdout_accuracy, abs=0.003)
