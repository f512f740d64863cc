"""Where the conversations of a split come from: files, or an MLTable that names files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tunesmith.errors import Fault, NotFound, ValidationFailed

SPLITS = ("train", "validation", "test")
_PLAIN = ("read_json_lines", "read_parquet", "read_delimited")


def split_files(arguments: Any) -> dict[str, list[Path]]:
    """The files of each split that was given, from ``<split>_file_path`` and ``<split>_mltable_path``.

    Raises:
        NotFound: a path that is not there. Nothing is ever taken from another split in its place.
        ValidationFailed: both ways are given for one split, or an MLTable is faulty.
    """
    found: dict[str, list[Path]] = {}
    for split in SPLITS:
        file: Path | None = getattr(arguments, f"{split}_file_path")
        table: Path | None = getattr(arguments, f"{split}_mltable_path")
        if file is not None and table is not None:
            raise ValidationFailed(
                f"both {split}_file_path and {split}_mltable_path are given", target=f"{split}_file_path"
            )
        if file is not None:
            if not file.exists():
                raise NotFound(
                    f"the {split} conversations are not there",
                    target=str(file),
                    way_out="correct the path, or leave the split out",
                )
            found[split] = [file]
        elif table is not None:
            found[split] = mltable_files(table)
    return found


def mltable_files(path: Path) -> list[Path]:
    """The files that an MLTable names: ``paths`` with ``file``, ``folder`` or ``pattern``, and plain reads.

    Raises:
        NotFound: the MLTable or a file in it is not there.
        ValidationFailed: it is faulty, or transforms rows, which is not done here.
    """
    table = path / "MLTable" if path.is_dir() else path
    if not table.is_file():
        raise NotFound(
            "there is no MLTable file", target=str(table), way_out="give the folder that holds the file MLTable"
        )
    try:
        body = yaml.safe_load(table.read_text("utf-8"))
    except (UnicodeDecodeError, yaml.YAMLError):
        raise ValidationFailed("the MLTable is not YAML", target=str(table)) from None
    entries = body.get("paths") if isinstance(body, Mapping) else None
    if not isinstance(entries, list) or not entries:
        raise ValidationFailed("the MLTable names no paths", target=f"{table}#paths")
    faults: list[Fault] = []
    found: list[Path] = []
    for index, entry in enumerate(entries):
        place = f"{table}#paths[{index}]"
        if not isinstance(entry, Mapping) or len(entry) != 1 or next(iter(entry)) not in ("file", "folder", "pattern"):
            faults.append(Fault("must have one of file, folder, pattern", place))
            continue
        kind, text = next(iter(entry.items()))
        text = str(text).removeprefix("file://")
        if "://" in text:
            faults.append(Fault(f"is an address, not a file of this machine: {text}", place))
            continue
        matches = (
            sorted(table.parent.glob(text))
            if kind == "pattern" and not Path(text).is_absolute()
            else [table.parent / text]
        )
        matches = [match for match in matches if match.exists()]
        if not matches:
            faults.append(Fault(f"names nothing that is there: {text}", place, "NotFound"))
        found += matches
    for index, transformation in enumerate(body.get("transformations") or []):
        name = next(iter(transformation)) if isinstance(transformation, Mapping) else str(transformation)
        if name not in _PLAIN:
            way_out = f"only plain reads are done here: {', '.join(_PLAIN)}"
            faults.append(Fault(f"{name} is not done here", f"{table}#transformations[{index}]", way_out=way_out))
    if faults:
        raise ValidationFailed("the MLTable cannot be used", details=faults)
    return found
