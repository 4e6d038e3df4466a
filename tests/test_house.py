"""The house is in order: pins agree with bounds, what CI calls exists, one address stands everywhere."""

import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from itertools import chain
from pathlib import Path

import nbformat
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

import gsa
from gsa.results import STUDIES

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
ADDRESS = PROJECT["urls"]["Repository"]
PINNED = [line.partition("#")[0] for line in (ROOT / "requirements.txt").read_text().splitlines()]
PINS = [Requirement(line) for line in PINNED if line]
DECLARED = sorted({*PROJECT["dependencies"], *chain(*PROJECT["optional-dependencies"].values())})
NOTEBOOKS = sorted((ROOT / "book").glob("*.ipynb"))


@pytest.mark.parametrize("declared", DECLARED)
def test_every_declared_dependency_is_pinned_within_its_bounds(declared: str) -> None:
    wanted = Requirement(declared)
    pins = [pin for pin in PINS if canonicalize_name(pin.name) == canonicalize_name(wanted.name)]
    assert pins, f"{declared} is not in requirements.txt: run `make pins`"
    for pin in pins:
        (version,) = pin.specifier
        assert version.version in wanted.specifier, f"{pin} is outside {declared}"


def test_layers_and_networks_need_none_of_the_packages_for_training() -> None:
    extra = {canonicalize_name(Requirement(line).name) for line in PROJECT["optional-dependencies"]["train"]}
    distributions = packages_distributions().items()
    absent = {module for module, names in distributions if extra & {canonicalize_name(name) for name in names}}
    assert {"pandas", "skimage", "pydantic"} <= absent
    program = f"""
import sys
sys.modules.update(dict.fromkeys({sorted(absent - {"numpy"})}))
import torch
from gsa.models import build_model
print(*build_model("resnet20", mechanism="gsa")(torch.zeros(1, 3, 32, 32)).shape)
"""
    shown = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert shown == "1 10\n"


def test_requirements_are_exact_and_name_no_address() -> None:
    assert [str(pin) for pin in PINS if pin.url or [one.operator for one in pin.specifier] != ["=="]] == []


def test_conda_installs_the_same_pins_on_the_same_pythons() -> None:
    python, pip, packages = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    admitted = SpecifierSet(python.removeprefix("python").strip())
    pythons = ["3.10.15", "3.11.0", "3.12.0", "3.13.9", "3.14.0"]
    assert [version in admitted for version in pythons] == [False, True, True, True, False]
    assert [version in SpecifierSet(PROJECT["requires-python"]) for version in pythons[:2]] == [False, True]
    assert pip == "pip"
    assert packages == {"pip": ["-r requirements.txt", "-e ."]}


def test_the_map_in_the_readme_leads_somewhere() -> None:
    table = re.findall(
        r"^\| \[.*?\]\((.*?)\) \| (.*?) \| (.*?) \|(.*?)\|$", (ROOT / "README.md").read_text(), re.MULTILINE
    )
    assert [ROOT / chapter for chapter, *_ in table] == NOTEBOOKS
    for chapter, *row in table:
        modules, tests, studies = (re.findall(r"`(.*?)`", cell) for cell in row)
        card = nbformat.read(ROOT / chapter, as_version=4).cells[0].source
        named = re.findall(r"{py:mod}`gsa\.(.*?)`", card)
        assert named == [module.removesuffix(".py").strip("/").replace("/", ".") for module in modules], chapter
        assert all((ROOT / "gsa" / module).exists() for module in modules)
        assert all((ROOT / "tests" / test).exists() for test in tests)
        assert set(studies) <= set(STUDIES), chapter


def test_make_finds_the_pythons_that_conda_admits() -> None:
    python, *_ = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    assert f"--python '{python.removeprefix('python ')}'" in (ROOT / "Makefile").read_text()


def test_ci_and_workflows_call_targets_of_the_makefile() -> None:
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    callers = [ROOT / ".ci" / "run", *(ROOT / ".github" / "workflows").iterdir()]
    called = set(chain(*(re.findall(r"\bmake ([a-z]+)", path.read_text()) for path in callers)))
    assert {"test", "book", "colab"} <= called <= set(targets)


def test_no_tracked_file_is_larger_than_a_megabyte() -> None:
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    sizes = {name: (ROOT / name).stat().st_size for name in tracked.split("\0") if (ROOT / name).is_file()}
    assert {name: size for name, size in sizes.items() if size > 2**20} == {}


def test_one_version_stands_everywhere() -> None:
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == gsa.__version__


def test_one_address_stands_everywhere() -> None:
    assert yaml.safe_load((ROOT / "_config.yml").read_text())["repository"]["url"] == ADDRESS
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["repository-code"] == ADDRESS
    readme = (ROOT / "README.md").read_text()
    assert re.findall(r"\]\(([^()]+)/actions/workflows/test.yml\)", readme) == [ADDRESS]
    assert re.findall(r"git\+(https://[^\s']+)", readme) == [ADDRESS] * 2


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_installs_the_package_from_that_address(path: Path) -> None:
    first = next(cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code")
    assert re.findall(r"git\+(https://[^\s']+)", first.source) == [ADDRESS]
