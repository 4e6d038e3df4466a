"""Docstrings have their sections, and their examples run."""

import doctest
import inspect
import re

import pytest
import torch

from gsa import layers

PUBLIC = {name: getattr(layers, name) for name in layers.__all__}
MODULES = {name: part for name, part in PUBLIC.items() if inspect.isclass(part) and issubclass(part, torch.nn.Module)}


@pytest.mark.parametrize("name", MODULES)
def test_a_layer_says_what_goes_in_what_it_costs_and_how_it_is_used(name):
    said = inspect.getdoc(MODULES[name])
    assert re.search(r"^Shape:\n    \S", said, re.MULTILINE), "no section Shape"
    assert re.search(r"^Cost:\n    \S", said, re.MULTILINE) or "parameters more" in said, "no section Cost"


@pytest.mark.parametrize("name", [name for name, part in PUBLIC.items() if ">>>" in (part.__doc__ or "")])
def test_an_example_runs(name, unchecked):
    (test,) = doctest.DocTestFinder(recurse=False).find(PUBLIC[name], name, globs={"torch": torch, **PUBLIC})
    assert doctest.DocTestRunner(verbose=False).run(test).failed == 0


def test_almost_every_layer_has_an_example():
    assert [name for name, layer in MODULES.items() if ">>>" not in layer.__doc__] == ["Placed"]
