"""make minutes: into each chapter's card, how long it takes to read, by a formula, and to run, by the last build.

Run times are kept in results/minutes.json, in seconds: a whole notebook in one process of one thread, kernel included.
"""

import json
import math
import re
from pathlib import Path

import nbformat
from nbformat import NotebookNode

CHAPTERS = sorted(Path("book").glob("*.ipynb"))
RESULTS = Path("results/minutes.json")
WORDS, CELLS = 180, 2
"""Words, and code cells, that a minute is for."""


def count_words(chapter: NotebookNode) -> int:
    """Words of its prose; a letter on its own is a symbol."""
    prose = " ".join(cell.source for cell in chapter.cells if cell.cell_type == "markdown")
    return len(re.findall(r"[A-Za-z’'-]{2,}", prose))


def count_cells(chapter: NotebookNode) -> int:
    """Its code cells."""
    return sum(cell.cell_type == "code" for cell in chapter.cells)


def describe(chapter: NotebookNode, seconds: float) -> str:
    """The card's line, which takes no time itself: minutes are rounded up to the next five."""
    read = 5 * math.ceil((count_words(chapter) / WORDS + count_cells(chapter) / CELLS) / 5)
    run = "less than half a minute" if seconds < 30 else "less than a minute" if seconds < 60 else "about a minute"
    return f"**Time** {read} minutes to read; its cells run for {run} on one CPU core."


def measured(chapter: Path) -> float:
    """Seconds that the last build took for it."""
    log = Path("_build/executed", f"{chapter.name}.log").read_text()
    return float(re.findall(r" in (\d+\.\d+)s", log)[-1])


def main() -> None:
    seconds = {chapter.stem: round(measured(chapter)) for chapter in CHAPTERS}
    RESULTS.write_text(json.dumps(seconds, indent=1) + "\n")
    for path in CHAPTERS:
        chapter = nbformat.read(path, as_version=4)
        line = describe(chapter, seconds[path.stem])
        chapter.cells[0].source = re.sub(r"^\*\*Time\*\* .*$", line, chapter.cells[0].source, flags=re.MULTILINE)
        nbformat.write(chapter, path)
        print(f"{path}: {line}")


if __name__ == "__main__":
    main()
