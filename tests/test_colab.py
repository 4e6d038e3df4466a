"""What opens in Colab: copies without a directive left in them, whose first cell installs the package."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from markdown_it import MarkdownIt
from mdit_py_plugins.dollarmath import dollarmath_plugin
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from uv import find_uv_bin

from tools.colab import Book
from tools.repository import ROOT, Repository, chapters, move

REFERENCES = r"""
@article{abel1999, author = {Abel, Ada and B{\"o}hm, Bo and Chen, Cy}, title = {One}, journal = {J}, year = {1999},
  doi = {10.1/one}}
@misc{dorn2001, author = {Dorn, Di and van der Eck, Ed}, title = {Two}, year = {2001}, eprint = {0101.00001},
  archiveprefix = {arXiv}}
@misc{fay2002, author = {{Fay}}, title = {Three}, year = {2002}, note = {Address not known}}
"""
FIRST = r"""
(first)=
# The *first* chapter

+++
% A remark for authors
:::{note} Costs \$5, and $a_1$ * $b$.
```{tip}
Nested, see {eq}`eq-sum`.
```
:::

Text of {cite}`abel1999,dorn2001`, {cite:t}`fay2002` and {cite:t}`dorn2001`, [see below](#below) and {ref}`below`,
{ref}`the second <second>`, {doc}`02_second`, {eq}`eq-other`, [](02_second.ipynb), {doc}`index`.[^aside]
See also {numref}`fig-front`.

[^aside]: An aside.

```{math}
:label: eq-sum
y &= \sum_i w_i x_i \\
  &= w \cdot x
```

$$z = 1$$ (eq-next)

As {eq}`eq-next` says, {numref}`fig-map` ({numref}`Fig. %s <fig-plot>`) shows `{ref}` and a {term}`token`.

(below)=
## Below

```{figure} _static/map.svg
:name: fig-map
:alt: A map.
A map with $h$ rows.
```

- A list with a solution:

  ````{admonition} Solution to $x^2$
  :class: dropdown
  It is

  ```{math}
  x = 2
  ```
  ````

| layer | cost |
|---|---|
| a | $\frac{1}{2}$ |

```{image} https://example.org/image.png
:alt: Elsewhere.
```

```{glossary}
token
  One row of a matrix.
```

```python
{"not": "a directive"}
```
"""
SECOND = "(second)=\n# The second chapter\n\n$$\nx\n$$ (eq-other)\n\nBack to [](#below) and {eq}`eq-sum`."
FRONT = """\
# Front page

::::{grid} 2
:gutter: 3

:::{grid-item-card} One
Text.
:::
::::

```{code-cell} python
---
mystnb:
  figure:
    name: fig-front
    caption: What we see first.
---
plot()
```
"""
SAID = [
    '<a name="first"></a>\n\n# The *first* chapter\n\n> **Note**\n>\n> Costs \\$5, and $a_1$',
    "> > **Tip**\n> >\n> > Nested, see [(1.1)](#eq-sum).",
    "([Abel et al., 1999](https://doi.org/10.1/one); [Dorn and van der Eck, 2001](https://arxiv.org/abs/0101.00001))",
    ", Fay (2002) and [Dorn and van der Eck (2001)](https://arxiv.org/abs/0101.00001)",
    "[see below](#below) and [Below](#below)",
    "[the second](https://book.github.io/copy/book/02_second.html#second)",
    "[The second chapter](https://book.github.io/copy/book/02_second.html)",
    "[(2.1)](https://book.github.io/copy/book/02_second.html#equation-eq-other)",
    "[Front page](https://book.github.io/copy/book/index.html).<sup>1</sup>",
    "<sup>1</sup> An aside.",
    "[Figure 1](https://book.github.io/copy/book/index.html#fig-front)",
    "$$\n\\begin{aligned}\ny &= \\sum_i w_i x_i \\\\\n  &= w \\cdot x\n\\end{aligned} \\tag{1.1}\n$$",
    '<a name="eq-next"></a>\n\n$$\nz = 1 \\tag{1.2}\n$$',
    "[Figure 1.1](#fig-map) ([Fig. 1.2](#fig-plot)) shows `{ref}` and a *token*",
    "![A map.](https://book.github.io/copy/_images/map.svg)",
    '<a name="fig-map"></a>**Figure 1.1.** A map with $h$ rows.',
    "  <details>\n  <summary>Solution to $x^2$</summary>\n\n  It is\n\n  $$\n  x = 2\n  $$\n\n  </details>",
    "**token:** One row of a matrix.",
    '```python\n{"not": "a directive"}\n```',
    '<a name="fig-plot"></a>**Figure 1.2.** The sum of [(1.1)](#eq-sum).',
    "## References\n\n- Ada Abel, Bo Böhm, and Cy Chen",
]
RAW = [
    "{eq}`a`",
    "```{tip}\na\n```",
    ":::{tip}\na\n:::",
    "(a)=\n# A",
    "+++",
    "% a",
    "a[^a]",
    "[](#a)",
    "$$\na\n$$ (a)",
    "{{a}}",
]
CODE = re.compile(r"<(code|span|div|summary)(?! class=\"language-{)[^>]*>.*?</\1>", re.DOTALL)
LEFT_OVER = re.compile(r"language-{|{[\w:+-]+}<>|:::|^(<p>)?(\([\w-]+\)=|%)|\+\+\+|\[\^|></a>|\$|{{", re.MULTILINE)


def write_notebook(path: Path, *cells: nbformat.NotebookNode) -> None:
    path.parent.mkdir(exist_ok=True)
    nbformat.write(new_notebook(cells=list(cells)), path)


@pytest.fixture
def book(tmp_path: Path) -> Path:
    """A book of two chapters that use everything our chapters may use."""
    write_notebook(tmp_path / "book" / "02_second.ipynb", new_markdown_cell(SECOND))
    figure = {"figure": {"name": "fig-plot", "caption": "The sum of {eq}`eq-sum`."}}
    plot = new_code_cell("plot()", metadata={"tags": ["hide-input"], "mystnb": figure})
    write_notebook(tmp_path / "book" / "01_first.ipynb", new_markdown_cell(FIRST), plot)
    (tmp_path / "book" / "index.md").write_text(FRONT)
    (tmp_path / "book" / "references.bib").write_text(REFERENCES)
    (tmp_path / "pyproject.toml").write_text('[project.urls]\nRepository = "https://github.com/book/copy"\n')
    shutil.copy(ROOT / "_config.yml", tmp_path)
    return tmp_path


def left_over(source: str) -> list[str]:
    """What a renderer that knows plain Markdown, tables and formulas would show as markup."""
    markdown = MarkdownIt("commonmark").enable("table").use(dollarmath_plugin, allow_labels=False)
    html = markdown.render(re.sub(r'<a name="[\w-]+"></a>|\\\$', "", source))
    return [match[0] for match in LEFT_OVER.finditer(CODE.sub("<>", html))]


@pytest.mark.parametrize("raw", RAW)
def test_a_directive_left_in_a_copy_is_found(raw: str) -> None:
    assert left_over(f"Before.\n\n{raw}\n\nAfter.")


def test_copies_say_what_the_book_says(book: Path) -> None:
    copy = Book(book).copies()["01_first.ipynb"]
    everything = "\n\n".join(cell.source for cell in copy.cells)
    assert [said for said in SAID if said not in everything] == []
    assert [cell.metadata for cell in copy.cells if cell.cell_type == "code"] == [{"cellView": "form"}]


@pytest.mark.parametrize("real", [False, True])
def test_copies_have_no_directive_left(book: Path, real: bool) -> None:
    for name, copy in Book(ROOT if real else book).copies().items():
        nbformat.validate(copy)
        text = "\n\n".join(cell.source for cell in copy.cells if cell.cell_type == "markdown")
        assert left_over(text) == [], name
        assert set(re.findall(r"\]\(#([^)]+)\)", text)) <= set(re.findall(r'<a name="([^"]+)"', text)), name


@pytest.mark.parametrize("source", ["{glue}`x`", "{ref}`x`", "{cite}`x`", "```{tableofcontents}\n```", "[](x.md)"])
def test_what_has_no_form_in_colab_is_named(book: Path, source: str) -> None:
    write_notebook(book / "book" / "03_third.ipynb", new_markdown_cell("# Third"), new_markdown_cell(source))
    with pytest.raises(ValueError, match=r"03_third.ipynb, cell 2: .*(glue|x|tableofcontents)"):
        Book(book).copies()


def run(*command: object, cwd: Path = ROOT, **environment: str) -> str:
    """What a command prints; its own last words if it fails."""
    done = subprocess.run(
        [str(word) for word in command], cwd=cwd, env=os.environ | environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="session")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository of its own with the files as they are here, committed or not."""
    to = tmp_path_factory.mktemp("clone")
    for name in run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0"):
        if (ROOT / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, to / name)
    run("git", "init", "--quiet", cwd=to)
    run("git", "add", "--all", cwd=to)
    run("git", "-c", "user.name=t", "-c", "user.email=t@t", "commit", "--quiet", "--message=The book", cwd=to)
    return to


def test_everything_that_names_the_address_follows_it(clone: Path, tmp_path: Path) -> None:
    moved = Path(shutil.copytree(clone, tmp_path / "moved"))
    assert move(moved, Repository.of(ROOT)) == []
    new = Repository.at("https://github.com/me/fork")
    assert {"pyproject.toml", "_config.yml", "CITATION.cff"} <= {path.name for path in move(moved, new)}
    assert Repository.of(moved) == new
    left = subprocess.run(["git", "grep", "-n", Repository.of(ROOT).owner], cwd=moved, capture_output=True, text=True)
    assert left.stdout == ""


def test_every_chapter_opens_with_the_same_cell(clone: Path, tmp_path: Path) -> None:
    for chapter in chapters(ROOT):
        first = next(cell for cell in nbformat.read(chapter, as_version=4).cells if cell.cell_type == "code")
        assert first.source == Repository.of(ROOT).first_cell, f"{chapter.name}: `make repository` mends it"
    moved = Path(shutil.copytree(clone, tmp_path / "moved"))
    write_notebook(moved / "book" / "99_new.ipynb", new_markdown_cell("# New"), new_code_cell("import torch"))
    assert move(moved, Repository.of(ROOT)) == [moved / "book" / "99_new.ipynb"]
    sources = [cell.source for cell in nbformat.read(moved / "book" / "99_new.ipynb", as_version=4).cells]
    assert sources == ["# New", Repository.of(ROOT).first_cell, "import torch"]


@pytest.mark.parametrize("beside, installs", [("nothing", True), ("gsa/README.md", True), ("gsa/__init__.py", False)])
def test_the_first_cell_installs_where_there_is_no_package(beside: str, installs: bool, tmp_path: Path) -> None:
    """A clone named gsa beside the notebook is a folder that Python takes for a namespace."""
    (tmp_path / beside).parent.mkdir(exist_ok=True)
    (tmp_path / beside).touch()
    cell = Repository.of(ROOT).first_cell.replace("%pip", "print(True) # %pip")
    assert run(sys.executable, "-S", "-c", cell, cwd=tmp_path, PYTHONPATH="") == "True\n" * installs


@pytest.mark.parametrize("url", ["https://gitlab.com/me/fork", "github.com/me/fork", "https://github.com/me"])
def test_an_address_that_colab_cannot_open_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=re.escape(repr(url))):
        Repository.at(url)


@pytest.fixture
def colab(tmp_path: Path) -> Path:
    """The Python of a fresh environment like Colab's: our torch and torchvision, pip and a kernel, but no gsa."""
    uv, python = find_uv_bin(), tmp_path / "colab" / "bin" / "python"
    probe = [uv, "pip", "install", "--no-cache", "--dry-run", "--target", tmp_path / "nothing", "hatchling"]
    if (done := subprocess.run(probe, capture_output=True, text=True)).returncode:
        pytest.skip(f"no package registry can be reached, so nothing can be installed: {done.stderr.strip()[-300:]}")
    run(uv, "venv", "--quiet", "--seed", "--python", sys.executable, tmp_path / "colab")
    there = ["--quiet", "--link-mode", "symlink", "--python", python, "--constraint", "requirements.txt"]
    run(uv, "pip", "install", *there, "torch", "torchvision", "ipykernel", "nbclient")
    return python


def torch_files(python: Path) -> dict[Path, int]:
    """The files that a new installation of torch or torchvision would replace, and which ones they are."""
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    files = [*site.glob("torch*/__init__.py"), *site.glob("torch*/METADATA")]
    return {file: file.lstat().st_ino for file in files}


def test_a_chapter_alone_installs_the_package_and_runs_to_its_end(clone: Path, colab: Path, tmp_path: Path) -> None:
    """Git is told that the clone stands for the repository's address, so the chapter runs exactly as it is."""
    notebook = tmp_path / "alone" / "chapter.ipynb"
    (notebook.parent / "gsa").mkdir(parents=True)  # a clone beside the notebook is not the package
    write_notebook(notebook, *Book(clone).copies()["07_global_sparse_attention.ipynb"].cells)
    elsewhere = {"PYTHONPATH": "", "GSA_DATA": str(tmp_path / "data"), "GSA_BUDGET": "smoke", "GIT_CONFIG_COUNT": "1"}
    elsewhere |= {"GIT_CONFIG_KEY_0": f"url.file://{clone}.insteadOf", "GIT_CONFIG_VALUE_0": Repository.of(clone).url}
    before = torch_files(colab)
    assert {file.parent.name for file in before} >= {"torch", "torchvision"}
    where = [colab, "-c", "from importlib.util import find_spec; print(find_spec('gsa').origin)"]
    assert run(*where, cwd=notebook.parent, **elsewhere) == "None\n"
    run(colab.parent / "jupyter-execute", "--inplace", notebook.name, cwd=notebook.parent, **elsewhere)
    assert "site-packages" in run(*where, cwd=notebook.parent, **elsewhere)
    assert torch_files(colab) == before
