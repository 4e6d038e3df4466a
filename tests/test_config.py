"""What cannot be trained is refused in one line, before anything is trained, from Python and from the command line."""

import json
import sys
from dataclasses import fields, replace
from math import inf, nan

import numpy as np
import pytest
from helpers import tinted

from gsa.__main__ import main, options
from gsa.results import STUDIES, Study
from gsa.results.studies import carrying
from gsa.training import Config, train
from gsa.training.loop import Loop

TINY = Config(width=8, data="tinted", epochs=1, batch=16, study="tiny")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model": "resnet21"}, "unknown model 'resnet21'; there are .*resnet20"),
        ({"mechanism": "gas"}, "unknown mechanism 'gas'; there are .*gsa"),
        ({"model": None}, "model: input should be a valid string, got None"),
        ({"epochs": 0}, "epochs must be more than 0, got 0"),
        ({"epochs": 2.5}, "epochs: input should be a valid integer, got 2.5"),
        ({"epochs": "3"}, "epochs: input should be a valid integer, got '3'"),
        ({"epochs": True}, "epochs: input should be a valid integer, got True"),
        ({"seed": np.int64(3)}, r"seed: input should be a valid integer, got np\.int64\(3\)"),
        ({"seed": -1}, "seed must be 0 or more, got -1"),
        ({"seed": 2**32}, r"seed must be less than 2\^32, got 4294967296"),
        ({"batch": -1}, "batch must be more than 0, got -1"),
        ({"width": 0}, "width must be more than 0, got 0"),
        ({"images": -100}, "images must be 0 or more, got -100"),
        ({"crop": -1}, "crop must be 0 or more, got -1"),
        ({"lr": nan}, "lr: input should be a finite number, got nan"),
        ({"lr": "fast"}, "lr: input should be a valid number, got 'fast'"),
        ({"weight_decay": inf}, "weight_decay: input should be a finite number, got inf"),
        ({"sam_radius": -inf}, "sam_radius: input should be a finite number, got -inf"),
        ({"holdout": 5000.0}, "holdout is a share: at least 0 and less than 1, got 5000.0"),
        ({"warmup": 1.0}, "warmup is a share: at least 0 and less than 1, got 1.0"),
        ({"momentum": 1.0}, "momentum is a share: at least 0 and less than 1, got 1.0"),
        ({"label_smoothing": -0.1}, "label_smoothing is a share: at least 0 and less than 1, got -0.1"),
        ({"stages": [1]}, r"stages: input should be a valid tuple, got \[1\]"),
        ({"stages": (1.5,)}, r"stages: input should be a valid integer, got \(1\.5,\)"),
        ({"mechanism": "gsa", "stages": ()}, "mechanism 'gsa' needs a stage to stand after: stages is empty"),
        ({"match": "macs"}, "match 'macs' needs a mechanism whose cost the host is to match, got 'none'"),
        ({"match": "size", "mechanism": "gsa"}, "match: input should be '', 'parameters' or 'macs', got 'size'"),
        ({"optimizer": "adam"}, "optimizer: input should be 'muon' or 'sgd', got 'adam'"),
        ({"precision": "fp8"}, "precision: input should be 'auto', .*, got 'fp8'"),
        ({"compile": "yes"}, "compile: input should be a valid boolean, got 'yes'"),
        ({"precision": "fp16", "sam_radius": 0.05}, r"sam_radius 0\.05 needs precision bf16 or fp32"),
        ({"study": "../elsewhere"}, r"'\.\./elsewhere' cannot name a file"),
        ({"named": "a/b"}, "'a/b' cannot name a file"),
    ],
)
def test_a_configuration_that_means_nothing_is_refused(unchecked, values, message):
    with pytest.raises(ValueError, match=message) as error:
        Config(**values)
    assert "\n" not in str(error.value)


def test_every_field_is_checked_for_its_kind(unchecked):
    for item in fields(Config):
        with pytest.raises(ValueError, match=f"^{item.name}: .*, got <object"):
            Config(**{item.name: object()})


def test_none_and_no_stages_are_a_host_alone():
    assert Config(mechanism="none", stages=()).arm == "none"


@pytest.fixture
def gsa(tmp_path, monkeypatch, capsys):
    """What ``python -m gsa`` says in the end with these arguments, in an empty directory, where nothing may train."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("gsa.__main__.load", lambda name: tinted())
    monkeypatch.setattr(Loop, "epoch", lambda *arguments: pytest.fail("it trained"))

    def run(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["gsa", *arguments])
        with pytest.raises(SystemExit) as exit:
            main()
        assert "\n" not in str(exit.value)
        return str(exit.value) + capsys.readouterr().err.replace("\n", " ")

    return run


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--images -100", "images must be 0 or more, got -100"),
        ("--crop 40", "crop 40 is too large for images of 8×8: at most 7"),
        ("--crop 8", "crop 8 is too large for images of 8×8: at most 7"),
        ("--lr inf", "lr: input should be a finite number, got inf"),
        ("--seed 5000000000", "seed must be less than 2^32, got 5000000000"),
        ("--epochs 2.5", "Error parsing --epochs: invalid literal for int() with base 10: '2.5'"),
        ("--mechanism gsa --stages", "mechanism 'gsa' needs a stage to stand after: stages is empty"),
        ("--mechanism se --stages 1 7", "stages [7] do not exist; this network has stages 1…3"),
        ("--model source --optimizer sgd --mechanism se", "the source's network does not carry 'se'; it takes none"),
        ("--model resnet8", "muon trains the kernels of MatrixConvolution, and resnet8 has none: use sgd"),
        ("--precision fp16", "precision fp16 needs a GPU: on this CPU use bf16 or fp32"),
        ("--holdout 0.001", "a holdout of 0.001 keeps back 0 of 80 training images"),
        ("--batch 73", "a batch of 73 is larger than the 72 training images; make it at most 72"),
        ("--mechanism gsa --width 9", "heads do not divide 9 channels"),
        ("--model sasa-resnet8-stem --optimizer sgd --width 7", "heads do not divide 7 channels"),
        ("--data cifar10", "the images are called 'tinted' but the configuration says data 'cifar10'"),
        ("--study ../up", "'../up' cannot name a file"),
        ("--config", "--config needs a file"),
        ("--config nowhere.json", "No such file or directory: 'nowhere.json'"),
    ],
)
def test_on_the_command_line_it_takes_one_line_and_trains_nothing(gsa, arguments, message):
    assert message in gsa("train", *options(TINY), *arguments.split())


def test_a_file_that_holds_no_configuration_is_named(gsa, tmp_path):
    for content in ("[]", "{", json.dumps({"lr": "fast"}), json.dumps({"speed": 1})):
        (tmp_path / "odd.json").write_text(content)
        assert "odd.json holds no configuration: " in gsa("train", "--config", "odd.json")


@pytest.mark.parametrize("command", ["train", "study"])
@pytest.mark.parametrize("place", ["results", "checkpoints"])
def test_places_that_cannot_be_written_are_refused_before_training(gsa, monkeypatch, tmp_path, command, place):
    monkeypatch.setitem(STUDIES, "tiny", Study(TINY, carrying("none"), seeds=[0]))
    (tmp_path / place).write_text("in the way")
    arguments = ["study", "tiny"] if command == "study" else ["train", *options(TINY)]
    said = gsa(*arguments)
    assert said.startswith("gsa: cannot ") and place in said, said


def test_images_under_a_published_name_are_all_of_them():
    few = replace(tinted(), name="cifar10")
    with pytest.raises(ValueError, match="80 images are not all of cifar10: give this data set a name of its own"):
        train(Config(data="cifar10"), dataset=few)
