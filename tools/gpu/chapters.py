"""Steps that run the cells of the book: every chapter in a process of its own, several side by side.

python -m tools.gpu.chapters book/01_convolution.ipynb    # one chapter; prints what its training cells print, as JSON
"""

import io
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout
from pathlib import Path

from tools.gpu.job import Cases, Job, Row

BOOK = Path(__file__).parents[2] / "book"
THREADS = 2
"""Of a chapter; so many times fewer chapters than there are processors run side by side."""


def drawn_chapters(job: Job) -> Cases:
    """Each chapter on drawn images."""
    return chapters("smoke")


def demo_chapters(job: Job) -> Cases:
    """Each chapter with its training on photographs; on a CPU on drawn images."""
    return chapters("smoke" if job.device == "cpu" else "demo")


def chapters(budget: str) -> Cases:
    with ThreadPoolExecutor(max(1, (os.cpu_count() or 1) // THREADS)) as pool:
        running = {path.stem: pool.submit(run, path, budget) for path in sorted(BOOK.glob("*.ipynb"))}
        for chapter, future in running.items():
            yield {"chapter": chapter, "budget": budget}, future.result


def run(path: Path, budget: str) -> Row:
    environment = {"GSA_BUDGET": budget, "MPLBACKEND": "Agg", "OMP_NUM_THREADS": str(THREADS)}
    started = time.perf_counter()
    ended = subprocess.run(
        [sys.executable, "-m", "tools.gpu.chapters", str(path)],
        capture_output=True,
        text=True,
        env=os.environ | environment,
    )
    if ended.returncode:
        raise RuntimeError((ended.stderr.strip().splitlines() or [f"ended with {ended.returncode}"])[-1])
    return {"seconds": round(time.perf_counter() - started, 1), "printed": json.loads(ended.stdout)}


def execute(path: Path) -> list[str]:
    """Run the code cells of a notebook in one namespace, without Jupyter; what each cell that trains has printed.

    The cell that installs the package is left out. Errors: RuntimeError that names the cell.
    """
    namespace: dict[str, object] = {"__name__": "__main__"}
    printed = []
    for number, cell in enumerate(json.loads(path.read_text())["cells"]):
        source = "".join(cell["source"])
        if cell["cell_type"] != "code" or "%pip install" in source:
            continue
        with redirect_stdout(io.StringIO()) as output:
            try:
                exec(compile(source, f"{path.stem}, cell {number}", "exec"), namespace)
            except Exception as error:
                raise RuntimeError(f"cell {number}: {type(error).__name__}: {error}") from error
        if "train(" in source and output.getvalue():
            printed.append(output.getvalue())
    return printed


if __name__ == "__main__":
    print(json.dumps(execute(Path(sys.argv[1]))))
