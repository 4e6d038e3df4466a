"""Every chapter is built alike: the parts it has, the size of its cells, what its figures say, what is committed."""

import json
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import nbformat
import pytest
import yaml
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from tools import minutes

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "book").glob("*.ipynb"))
CARD = ("{admonition} In this chapter", "You will be able to", "You need", "Time", "In the package")
ENDING = ["What breaks", "Exercises", "Summary", "References"]
KEPT = {"keep_output", "nbval-check-output"}
CONFIDENCE = re.compile(r"95\W{0,4}%\W{1,2}(confidence|interval|t-interval)")
PERCENTAGE = re.compile(r"\d\W{0,4}(%|per ?cent)")


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def chapter(request) -> NotebookNode:
    return nbformat.read(request.param, as_version=4)


def code(chapter: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in chapter.cells if cell.cell_type == "code"]


def prose(chapter: NotebookNode) -> str:
    return "\n\n".join(cell.source for cell in chapter.cells if cell.cell_type == "markdown")


def tags(cell: NotebookNode) -> set[str]:
    return set(cell.metadata.get("tags", []))


def section(chapter: NotebookNode, heading: str) -> list[NotebookNode]:
    """The cells from the one with this heading to the one with the next of the same level."""
    found = [
        (i, re.findall("^## (.+)", cell.source, re.MULTILINE))
        for i, cell in enumerate(chapter.cells)
        if cell.cell_type == "markdown"
    ]
    starts = [i for i, headings in found if headings]
    start = next(i for i, headings in found if heading in headings)
    return chapter.cells[start : next((i for i in starts if i > start), None)]


def loose_percentages(text: str) -> list[str]:
    """The sentences that type a percentage: only published claims and the level of an interval may."""
    options = re.compile(r"^\s*:[\w-]+:.*$", re.MULTILINE)
    sentences = re.split(r"(?<=[.!?])\s+|\n\n", CONFIDENCE.sub("", options.sub("", text)))
    return [sentence for sentence in sentences if PERCENTAGE.search(sentence) and "published" not in sentence.lower()]


def test_every_notebook_is_in_the_table_of_contents():
    parts = yaml.safe_load((ROOT / "_toc.yml").read_text())["parts"]
    (numbered,) = (part["chapters"] for part in parts if "numbered" in part)
    assert [f"{chapter['file']}.ipynb" for chapter in numbered] == [str(path.relative_to(ROOT)) for path in NOTEBOOKS]


def test_every_page_with_cells_is_executed():
    pages = [page for page in (ROOT / "book").rglob("*.md") if "{code-cell}" in page.read_text()]
    assert len(pages) >= 3
    assert [page.name for page in pages if "execution_mode: force" not in page.read_text()] == []


def test_every_work_of_the_bibliography_is_cited():
    pages = [*(ROOT / "book").rglob("*.md"), *NOTEBOOKS]
    roles = re.findall(r"{cite(?::\w+)?}`(.+?)`", "\n".join(page.read_text() for page in pages))
    cited = {key.strip() for role in roles for key in role.split(",")}
    assert set(re.findall(r"^@\w+{(.+),", (ROOT / "book" / "references.bib").read_text(), re.MULTILINE)) == cited


def test_it_opens_with_a_title_and_a_card(chapter):
    opening = chapter.cells[0].source
    assert opening.startswith("# ")
    assert [part for part in CARD if part not in opening] == []


def test_it_has_every_part(chapter):
    sources = "\n".join(cell.source for cell in code(chapter))
    assert re.search(r":label: eq-|\(eq-[\w-]+\)", prose(chapter)), "no numbered equation"
    assert "assert " in sources
    assert "train(" in sources, "no training cell"
    assert re.findall("^## (.+)", prose(chapter), re.MULTILINE)[-len(ENDING) :] == ENDING
    assert "{bibliography}" in section(chapter, "References")[0].source


def test_its_exercises_check_themselves_and_fold_their_solutions(chapter):
    exercises = section(chapter, "Exercises")
    assert any(cell.cell_type == "code" and "assert " in cell.source for cell in exercises)
    assert sum("hide-cell" in tags(cell) or ":class: dropdown" in cell.source for cell in exercises) >= 2


def test_its_summary_has_three_lines(chapter):
    (summary,) = section(chapter, "Summary")
    assert len(re.findall(r"^(?:[-*]|\d\.) ", summary.source, re.MULTILINE)) == 3


def test_it_is_short_enough_to_be_finished(chapter):
    assert minutes.count_words(chapter) <= 2800
    assert minutes.count_cells(chapter) <= 40


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_its_card_says_how_long_it_takes(path):
    seconds = json.loads((ROOT / minutes.RESULTS).read_text())[path.stem]
    chapter = nbformat.read(path, as_version=4)
    assert minutes.describe(chapter, seconds) in chapter.cells[0].source, "run `make minutes`"


def test_minutes_grow_with_words_and_cells():
    text, code = new_markdown_cell("word " * 720), [new_code_cell("1") for _ in range(4)]
    assert "**Time** 5 minutes to read" in minutes.describe(new_notebook(cells=[text]), 29)
    assert "**Time** 10 minutes to read" in minutes.describe(new_notebook(cells=[text, *code]), 29)
    assert "half a minute" in minutes.describe(new_notebook(cells=[text]), 29)
    assert "about a minute" in minutes.describe(new_notebook(cells=[text]), 61)


def test_its_code_cells_are_short(chapter):
    assert [cell.source for cell in code(chapter) if len(cell.source.splitlines()) > 15] == []


def test_it_imports_at_the_top(chapter):
    _, imports, *rest = code(chapter)
    lines = [line for line in imports.source.splitlines() if re.match(r"import |from ", line)]
    assert 1 <= len(lines) <= 6
    assert [
        cell.source for cell in rest if re.search(r"^\s*(import|from \S+ import) ", cell.source, re.MULTILINE)
    ] == []


def test_its_headings_skip_no_level(chapter):
    levels = [len(mark) for mark in re.findall("^(#+) ", prose(chapter), re.MULTILINE)]
    assert levels[0] == 1
    assert all(1 < after <= before + 1 for before, after in pairwise(levels))


def test_its_figures_say_what_they_show(chapter):
    figures = [cell.metadata.mystnb for cell in code(chapter) if "mystnb" in cell.metadata]
    assert figures
    for figure in figures:
        assert figure["figure"]["name"].startswith("fig-")
        assert figure["image"]["alt"].endswith(".")
        assert figure["figure"]["caption"].endswith(".")
        assert figure["image"]["alt"] != figure["figure"]["caption"], (
            "alt text says what is drawn, a caption what to see"
        )


def test_it_types_no_percentage(chapter):
    captions = [cell.metadata.mystnb["figure"]["caption"] for cell in code(chapter) if "mystnb" in cell.metadata]
    assert loose_percentages("\n\n".join([prose(chapter), *captions])) == []


@pytest.mark.parametrize(
    "text", ["It reaches 91.2 % here.", r"about $90\,\%$ of them", "87%", "ninety, or 90 percent", "a 95 % accuracy"]
)
def test_a_typed_percentage_is_found(text):
    assert loose_percentages(text) == [text]


@pytest.mark.parametrize(
    "text", ["a 95 % interval", r"$95\,\%$ confidence", "The published 80.2 % holds.", ":width: 60%"]
)
def test_published_claims_and_levels_of_confidence_may_be_typed(text):
    assert loose_percentages(text) == []


def test_it_keeps_only_outputs_that_are_checked(chapter):
    for cell in code(chapter):
        assert tags(cell) & KEPT in (set(), KEPT), "keep_output and nbval-check-output go together"
        assert bool(cell.outputs) == (tags(cell) >= KEPT), cell.source
        assert {output.get("name", output.output_type) for output in cell.outputs} <= {"stdout", "execute_result"}
        assert cell.execution_count is None or cell.outputs


def test_it_compares_errors_shown_and_times_measured(chapter):
    for cell in code(chapter):
        if re.search(r"^\s*except\b", cell.source, re.MULTILINE):
            assert tags(cell) >= KEPT, f"an error is shown, but which one is not compared:\n{cell.source}"
        if re.search(r"\b(latency|Timer|perf_counter)\(", cell.source):
            assert tags(cell) >= KEPT and "≈" in cell.source, f"a time is not printed after ≈ and kept:\n{cell.source}"


@pytest.mark.parametrize(
    "source, committed, shown",
    [
        ("print(1)", None, "1\n"),
        ("print(1)", "1\n", "1\n"),
        ("print(1)", "2\n", None),
        ("print('time ≈ 1')", "time ≈ 2\n", "time ≈ 2\n"),
        ("print('time ≈ 1')", "size ≈ 1\n", None),
        ("print(1); print(2)", "1\n|2\n", "1\n2\n"),
        ("import sys; print(1); print(2, file=sys.stderr)", "1\n", "1\n"),
        ("1 / 0", None, None),
        ("1;", None, ""),
    ],
)
def test_the_book_shows_what_nbval_ran(tmp_path, source, committed, shown):
    pieces = committed.split("|") if committed else []
    outputs = [new_output("stream", name="stdout", text=piece) for piece in pieces]
    cell = new_code_cell(
        source, outputs=outputs, execution_count=1, metadata={"tags": sorted(KEPT if committed else ())}
    )
    nbformat.write(new_notebook(cells=[cell]), tmp_path / "page.ipynb")
    command = [sys.executable, "-m", "pytest", "-p", "tools.executed", "--nbval-lax", "--nbval-current-env"]
    done = subprocess.run([*command, f"--rootdir={tmp_path}", tmp_path / "page.ipynb"], cwd=ROOT, capture_output=True)
    copy = tmp_path / "_build" / "executed" / "page.ipynb"
    assert (done.returncode == 0) == copy.exists() == (shown is not None)
    if shown is not None:
        (executed,) = nbformat.read(copy, as_version=4).cells
        assert "".join(output.text for output in executed.outputs) == shown
