"""From an archive into results/: its records into the ledger, its measurements into gpu.json."""

import json
from collections.abc import Iterator
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from gsa.files import whole
from gsa.results import Ledger
from gsa.training import Record
from tools.gpu.job import Row

MEASURED = "gpu.json"


def rows(archive: Path) -> Iterator[Row]:
    """The lines of an archive; a last one that was cut off while it was written is left out."""
    for line in archive.read_text().splitlines():
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            print(f"{archive}: left out a line that was cut off: {line[:60]}")


def collect(archive: Path, results: Path) -> None:
    """Keep what is new, and say what it is. Errors: ValueError where a record is none."""
    ledger, measured, machine = Ledger(results), {}, {}
    for row in rows(archive):
        step = row.pop("step")
        if step == "machine":
            machine = row
        elif "record" in row:
            keep(ledger, row["record"])
        else:
            measured.setdefault(step, {"measured_on": machine, "rows": []})["rows"].append(row)
    path = results / MEASURED
    before = json.loads(path.read_text()) if path.exists() else {}
    with whole(path) as partial:
        partial.write_text(json.dumps(before | measured, indent=1) + "\n")
    print(f"{path}: {', '.join(measured) or 'nothing'} measured anew")


def keep(ledger: Ledger, record: Row) -> None:
    try:
        kept = TypeAdapter(Record).validate_json(json.dumps(record), strict=True, extra="forbid")
        print(f"new: {ledger.add(kept)}, test accuracy {kept.test_accuracy}")
    except ValidationError as error:
        print(f"left out, no record: {error.errors()[0]['loc']}: {error.errors()[0]['msg']}")
    except ValueError as error:
        print(f"left out: {error}")
