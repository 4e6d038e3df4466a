"""The repository's address: it stands in pyproject.toml, and everything else that names it follows from there.

python -m tools.repository                            # every chapter opens with the standard first cell
python -m tools.repository https://github.com/me/gsa  # the same, and the repository moves to a new address
"""

import re
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import nbformat

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Repository:
    """A repository on GitHub, and the addresses that follow from where it is."""

    owner: str
    name: str

    @classmethod
    def at(cls, url: str) -> "Repository":
        """The repository at https://github.com/OWNER/NAME; ValueError for any other form of address."""
        match = re.fullmatch(r"https://github\.com/([\w.-]+)/([\w.-]+?)(\.git)?/?", url)
        if match is None:
            raise ValueError(f"the address {url!r} is not of the form https://github.com/OWNER/NAME, which Colab needs")
        return cls(match[1], match[2])

    @classmethod
    def of(cls, root: Path) -> "Repository":
        """The repository that pyproject.toml names as its own."""
        return cls.at(tomllib.loads((root / "pyproject.toml").read_text())["project"]["urls"]["Repository"])

    @property
    def url(self) -> str:
        return f"https://github.com/{self.owner}/{self.name}"

    @property
    def site(self) -> str:
        """Where GitHub Pages serves the built book."""
        return f"https://{self.owner}.github.io/{self.name}"

    @property
    def colab(self) -> str:
        """Where Colab finds the repository's files, below /blob/BRANCH/."""
        return f"https://colab.research.google.com/github/{self.owner}/{self.name}"

    @property
    def first_cell(self) -> str:
        """The first code cell of every chapter."""
        return f"""\
# Where the book's package is missing, as on Colab, it is installed from the repository; the torch found there stays.
from importlib.util import find_spec

if getattr(find_spec("gsa"), "origin", None) is None:
    %pip install --quiet 'gsa[train] @ git+{self.url}'"""


def chapters(root: Path) -> list[Path]:
    """The book's notebooks, in order."""
    return sorted((root / "book").glob("*.ipynb"))


def opened_with(first_cell: str, text: str) -> str:
    """The text of a notebook with `first_cell` in place of its own first cell, or before all other code."""
    notebook = nbformat.reads(text, as_version=4)
    code = [index for index, cell in enumerate(notebook.cells) if cell.cell_type == "code"]
    if code and "import find_spec" in notebook.cells[code[0]].source:
        notebook.cells[code[0]].source = first_cell
    else:
        cell = nbformat.v4.new_code_cell(first_cell, metadata={"tags": ["remove-cell"]})
        notebook.cells.insert(code[0] if code else len(notebook.cells), cell)
    return nbformat.writes(notebook) + "\n"


def move(root: Path, new: Repository) -> list[Path]:
    """Let every file that names the old address name the new one, open every chapter with its cell; what changed."""
    old = Repository.of(root)
    addresses = {old.url: new.url, old.site: new.site, old.colab: new.colab}
    named = ["git", "grep", "--untracked", "-zlIF", *(f"-e{address}" for address in addresses)]
    found = subprocess.run(named, cwd=root, capture_output=True, text=True, check=True).stdout
    changed = []
    for path in sorted({root / name for name in found.split("\0") if name} | set(chapters(root))):
        before = after = path.read_text()
        for address in addresses:
            after = after.replace(address, addresses[address])
        if path in chapters(root):
            after = opened_with(new.first_cell, after)
        if after != before:
            path.write_text(after)
            changed.append(path)
    return changed


def main() -> None:
    """Move to the address given on the command line, or to the present one, and say what changed."""
    repository = Repository.at(sys.argv[1]) if len(sys.argv) > 1 else Repository.of(ROOT)
    for path in move(ROOT, repository):
        print(f"{path.relative_to(ROOT)} now names {repository.url}")


if __name__ == "__main__":
    main()
