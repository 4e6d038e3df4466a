"""Trained weights come back as the network they were, from the very file that the ledger names."""

import sys
from dataclasses import replace

import pytest
import torch

from gsa import files
from gsa.__main__ import main
from gsa.results import Ledger
from gsa.results import ledger as ledger_module
from gsa.training import Config, Run, train
from gsa.training.weights import LIMIT, pack, unpack

CONFIG = Config(mechanism="gsa", width=8, data="shapes", images=100, epochs=1, batch=50, study="kept")


@pytest.fixture(scope="module")
def run() -> Run:
    return train(CONFIG)


@pytest.fixture
def ledger(tmp_path, run) -> Ledger:
    ledger = Ledger(tmp_path)
    ledger.add(run.record, pack(run))
    return ledger


@torch.no_grad()
def test_the_network_computes_what_it_did_up_to_half_precision(run, ledger):
    trained = ledger.trained("kept", "gsa")
    x = torch.randint(256, (8, 3, 32, 32), dtype=torch.uint8)
    before, after = run.model(run.normalize(x)), trained.model(trained.normalize(x))
    assert 0 < (after - before).norm() < 5e-3 * before.norm()
    assert trained.classes == run.classes and not trained.model.training
    assert all(p.dtype == torch.float32 for p in trained.model.parameters())


def test_the_record_names_the_file_and_stays_equal_otherwise(run, ledger):
    (record,) = ledger.records("kept")
    assert len(record.weights_sha256) == 64
    assert replace(record, weights_sha256=None) == run.record


def test_another_file_is_refused(run, ledger):
    path = ledger.path / "kept" / "gsa-0.safetensors"
    (tensor,) = [p for name, p in run.model.named_parameters() if name == "head.bias"]
    with torch.no_grad():
        tensor += 1
        path.write_bytes(pack(run))
        tensor -= 1
    with pytest.raises(ValueError, match=r"gsa-0.safetensors is not the file with SHA-256 [0-9a-f]{64} that"):
        ledger.trained("kept", "gsa")
    path.unlink()
    with pytest.raises(ValueError, match="is not the file"):
        ledger.trained("kept", "gsa")


def test_weights_that_are_not_kept_are_not_guessed(run, ledger):
    ledger.add(replace(run.record, config=replace(CONFIG, seed=1)))
    for arm, seed in (("gsa", 1), ("gsa", 2), ("none", 0)):
        with pytest.raises(ValueError, match=rf"no weights of kept/{arm}-{seed} in .*; there are kept/gsa-0"):
            ledger.trained("kept", arm, seed)
    with pytest.raises(ValueError, match="there are none"):
        Ledger(ledger.path / "empty").trained("kept", "gsa")


def test_a_large_network_is_refused_with_its_size(run):
    wide = torch.nn.Linear(1000, LIMIT // 2000)
    with pytest.raises(ValueError, match=r"the weights take 900,900 bytes, more than the 900,000"):
        pack(replace(run, model=wide))


def test_a_large_network_is_refused_before_it_is_trained(monkeypatch, tmp_path):
    arguments = ["--model", "resnet18", "--data", "shapes", "--weights", "--results", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["gsa", "train", *arguments])
    monkeypatch.setattr("gsa.__main__.train_network", lambda *args, **options: pytest.fail("it trained"))
    with pytest.raises(SystemExit, match=r"the weights take 22,\d{3},\d{3} bytes"):
        main()


def test_the_command_keeps_the_weights_that_it_is_asked_for(monkeypatch, tmp_path):
    arguments = ["--width", "8", "--data", "shapes", "--images", "50", "--batch", "25"]
    arguments += ["--epochs", "1", "--weights", "--results", str(tmp_path), "--checkpoints", str(tmp_path / "runs")]
    monkeypatch.setattr(sys, "argv", ["gsa", "train", *arguments])
    main()
    assert Ledger(tmp_path).trained("own", "none").classes[0] == "disc"


def test_weights_without_their_record_are_not_left_behind(run, monkeypatch, tmp_path):
    ledger, whole = Ledger(tmp_path), files.whole

    def no_record(path):
        if path.suffix == ".json":
            raise OSError("the disk is full")
        return whole(path)

    monkeypatch.setattr(ledger_module, "whole", no_record)
    with pytest.raises(OSError, match="the disk is full"):
        ledger.add(run.record, pack(run))
    assert [*tmp_path.glob("*/*")] == []


def test_the_file_holds_no_full_precision(run, tmp_path):
    (tmp_path / "weights").write_bytes(pack(run))
    model = unpack(tmp_path / "weights").model
    assert all(torch.equal(p, p.half().float()) for p in model.parameters())
