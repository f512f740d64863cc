"""Check the conversations of a split: read every row, keep the faults with their places."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tunesmith.chat.formats import parse_row
from tunesmith.chat.readers import RowReader, find_files
from tunesmith.errors import Fault, ValidationFailed
from tunesmith.reporting import Reporter
from tunesmith.storage.hashing import file_sha256

FAULTS_SHOWN = 20


def check_split(split: str, paths: Sequence[Path], reporter: Reporter) -> dict[str, Any]:
    """Rows and files of a split.

    Raises:
        ValidationFailed: the first faults with file and line, and how many there are.
        NotFound, InvalidData: a file that is not there or cannot be read.
    """
    faults: list[Fault] = []
    count = rows = 0
    files = [file for path in paths for file in find_files(path)]
    for file in files:
        reader = RowReader(file)
        for row in reader:
            rows += 1
            found = [row.fault] if row.fault is not None else list(parse_row(row).faults)
            count += len(found)
            faults += found[: max(0, FAULTS_SHOWN - len(faults))]
            if rows % 1000 == 0:
                reporter.progress(f"check {split}", reader.bytes_read, reader.total_bytes, unit="bytes")
    if faults:
        more = f" ({count} in all)" if count > len(faults) else ""
        raise ValidationFailed(f"the {split} conversations have faults{more}", details=faults)
    reporter.log(f"{split}: {rows:,} conversations in {', '.join(map(str, files))}")
    return {"rows": rows, "files": [{"name": file.name, "sha256": file_sha256(file)} for file in files]}
