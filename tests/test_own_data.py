"""A reader's own images: refused in one line where they are wrong, and of any shape with every host and mechanism."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import tinted

from gsa.data import Dataset
from gsa.layers import MECHANISMS
from gsa.models import MODELS, build_model
from gsa.probes import count_macs, count_parameters
from gsa.training import Config, build_for, train

OWN = tinted()
SIZE = (32, 96)


def wrong(**changes) -> dict:
    return {name: getattr(OWN, name) for name in OWN.__dataclass_fields__} | changes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x_train": OWN.x_train.float() / 255}, r"x_train must be bytes of .*, got float32 of \(80, 3, 8, 8\)"),
        ({"x_train": torch.full((80, 3, 8, 8), torch.nan)}, "x_train must be bytes of .*, got float32"),
        ({"x_test": OWN.x_test.numpy()}, "x_test is no tensor but ndarray"),
        ({"x_train": OWN.x_train[:, 0]}, r"x_train must be bytes of \(images, .*\), got uint8 of \(80, 8, 8\)"),
        ({"x_train": OWN.x_train[:0], "y_train": OWN.y_train[:0]}, r"x_train must be .*, got uint8 of \(0, 3, 8, 8\)"),
        ({"x_test": OWN.x_test[:0], "y_test": OWN.y_test[:0]}, r"x_test must be .*, got uint8 of \(0, 3, 8, 8\)"),
        ({"x_test": OWN.x_test.permute(0, 2, 3, 1)}, r"differ in shape, \[\(3, 8, 8\), \(8, 8, 3\)\]"),
        ({"y_train": OWN.y_train.int()}, r"y_train must be int64 numbers of classes, .*, got int32 of \(80,\)"),
        ({"y_train": OWN.y_train.float()}, "y_train must be int64 numbers of classes, .*, got float32"),
        ({"y_test": OWN.y_test[:, None]}, r"y_test must be int64 numbers of classes, .*, got int64 of \(20, 1\)"),
        ({"y_train": OWN.y_train.tolist()}, "y_train is no tensor but list"),
        ({"y_train": OWN.y_train[:70]}, "80 images but 70 labels in x_train and y_train"),
        ({"y_test": OWN.y_test[:7]}, "20 images but 7 labels in x_test and y_test"),
        ({"y_train": OWN.y_train + 1}, r"y_train has labels 1…4, its classes are 0…3"),
        ({"y_test": OWN.y_test - 1}, r"y_test has labels -1…2, its classes are 0…3"),
        ({"classes": ("a", "b", "c")}, r"y_train has labels 0…3, its classes are 0…2"),
        ({"classes": ("a",), "y_train": OWN.y_train * 0, "y_test": OWN.y_test * 0}, r"needs two classes or more"),
    ],
)
def test_what_no_network_could_be_trained_on_is_refused(unchecked, changes, message):
    with pytest.raises(ValueError, match=f"data set 'tinted'.*{message}") as error:
        Dataset(**wrong(**changes))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("channels", [1, 4])
def test_any_number_of_channels_and_classes_is_trained_on(channels):
    x = tinted().x_train[:, :1].expand(-1, channels, -1, -1)
    data = Dataset("own", "", ("even", "odd"), x, OWN.y_train % 2, x[:5], OWN.y_train[:5] % 2)
    run = train(Config(mechanism="se", width=4, data="own", epochs=1, batch=16), dataset=data)
    assert run.model(run.normalize(x[:3])).shape == (3, 2)


def test_a_training_set_whose_images_are_all_alike_is_no_division_by_zero():
    data = replace(OWN, x_train=torch.full_like(OWN.x_train, 9))
    assert np.isfinite(
        train(Config(width=4, data="tinted", epochs=1, batch=16), dataset=data).record.history[0].train_loss
    )


# Wide images


def built(model: str, mechanism: str, **options) -> torch.nn.Module:
    stages = (0, 1, 2, 3, 4) if model == "source" else (1,)
    return build_model(model, 8, mechanism=mechanism, stages=stages, classes=5, size=SIZE, **options)


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_every_mechanism_stands_on_wide_images(mechanism):
    assert built("whitened", mechanism)(torch.randn(2, 3, *SIZE)).shape == (2, 5)


@pytest.mark.parametrize("model", [name for name in MODELS if not name.startswith("sasa") or "resnet8" in name])
def test_every_host_takes_wide_images(model):
    assert built(model, "gsa")(torch.randn(2, 3, *SIZE)).shape == (2, 5)


@pytest.mark.parametrize("match", ["parameters", "macs"])
@pytest.mark.parametrize("mechanism", ["gsa", "self", "gsa-folded"])
def test_the_widened_host_costs_on_wide_images_what_the_mechanism_costs_there(mechanism, match):
    """Attention to all pixels costs nine times as much on three times as many."""
    config = Config(mechanism=mechanism, width=16, match=match)
    control, other = (build_for(c, 5, (3, *SIZE)) for c in (config, replace(config, match="")))
    cost = {"parameters": count_parameters, "macs": lambda network: count_macs(network, (1, 3, *SIZE))}[match]
    assert cost(control) == pytest.approx(cost(other), rel=0.05)


def test_a_network_learns_wide_images():
    data = tinted(height=16, width=48)
    config = Config(mechanism="gsa", width=8, data="tinted", epochs=4, batch=16, precision="fp32")
    record = train(config, dataset=data).record
    assert record.test_accuracy > 0.6
    assert record.macs == count_macs(build_for(config, 4, (3, 16, 48)), (1, 3, 16, 48))
