"""Check the conversations of a split: read every row, and keep the faults with their places."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tunesmith.chat.readers import find_files
from tunesmith.chat.validation import check
from tunesmith.errors import ValidationFailed
from tunesmith.reporting import Reporter
from tunesmith.storage.hashing import file_sha256

FAULTS_SHOWN = 20


def check_split(split: str, paths: Sequence[Path], reporter: Reporter, *, on_faulty: str = "fail") -> dict[str, Any]:
    """Rows and files of a split. What can be trained on but may not be meant is said, and so is what is left out.

    With ``on_faulty`` drop, faulty rows are an error only where no sound one is left.

    Raises:
        ValidationFailed: the first faults of each kind with file and line, and how many there are.
        NotFound: a path that is not there.
    """
    report = check(list(paths), reporter=reporter)
    if not report.sound and not (on_faulty == "drop" and report.sound_rows):
        faults = report.faults("error", limit=FAULTS_SHOWN)
        said = "have one fault" if report.errors == 1 else f"have {report.errors:,} faults" if faults else "are empty"
        raise ValidationFailed(f"the {split} conversations {said}", target=str(paths[0]), details=faults)
    for finding in report.findings:
        example = finding.faults[0]
        left_out = "left out by on_faulty drop: " if finding.level == "error" else ""
        reporter.notice(
            finding.code,
            f"{split}: {left_out}{finding.count:,} times: {example.message}, first at {example.target}",
            count=finding.count,
        )
    reporter.log(f"{split}: {report.summary()}")
    files = [file for path in paths for file in find_files(path)]
    return {
        "rows": report.rows,
        "sound_rows": report.sound_rows,
        "files": [{"name": file.name, "sha256": file_sha256(file)} for file in files],
    }
