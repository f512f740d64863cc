"""Splitting conversations into train, validation and test: seeded, shuffled, and what says the same is never in two
parts.

Rows are kept as they are (their fields, their flags); only their order changes. Streams: the rows go through a spool
on disk, and memory holds 24 bytes a row.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import orjson

from tunesmith.chat.converting import FAULTS_SHOWN
from tunesmith.chat.duplicates import content_hash
from tunesmith.chat.formats import parse_row
from tunesmith.chat.readers import Row, RowReader, find_files
from tunesmith.errors import AlreadyExists, Fault, InvalidData, UserError, ValidationFailed
from tunesmith.reporting import NullReporter, Reporter

SPLIT_FILE = "split.json"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


@dataclass(frozen=True, slots=True)
class SplitResult:
    """What was written."""

    files: Mapping[str, Path]
    """By part."""
    counts: Mapping[str, int]
    """Rows of each part."""
    repeated: int
    """Rows that repeat another; each is in the part of the row it repeats."""
    seed: int

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {**asdict(self), "files": {part: str(path) for part, path in self.files.items()}}


def split(
    source: Path | str | Sequence[Path | str],
    out_dir: Path | str,
    *,
    fractions: Mapping[str, float],
    seed: int = 42,
    reporter: Reporter | None = None,
) -> SplitResult:
    """Split files of conversations into ``<out_dir>/<part>.jsonl`` for the parts that ``fractions`` names.

    Fractions are of the rows and sum to 1; a part of 0 is not written. The same source and seed give the same files.
    Conversations that say the same (whatever their flags) are in the same part, so a part may be a few rows off its
    fraction.

    Raises ``NotFound``, ``ValidationFailed`` for faulty rows, ``InvalidData`` for too few, ``AlreadyExists`` where a
    part is there with another content.
    """
    shares = _shares(fractions)
    folder = Path(out_dir)
    paths = [source] if isinstance(source, Path | str) else source
    files = [file for path in paths for file in find_files(Path(path))]
    folder.mkdir(parents=True, exist_ok=True)
    reporter = reporter or NullReporter()
    with tempfile.TemporaryFile(dir=folder) as spool:
        digests, offsets = _spool(files, spool, reporter)
        rows = len(offsets) - 1
        if rows < len(shares):
            raise InvalidData(
                f"{rows} rows cannot be split into {len(shares)} parts", target=str(paths[0]), way_out="bring more rows"
            )
        parts, repeated = _assign(digests, shares, seed)
        written = {
            part: _write(folder / f"{part}.jsonl", spool, offsets, rows_of)
            for part, rows_of in zip(shares, parts, strict=True)
        }
    counts = {part: len(rows_of) for part, rows_of in zip(shares, parts, strict=True)}
    targets = {part: folder / f"{part}.jsonl" for part in shares}
    _publish(written, targets)
    result = SplitResult(targets, counts, repeated, seed)
    body = {"seed": seed, "fractions": dict(fractions), "counts": counts, "repeated": repeated}
    body["sources"] = [{"path": str(file), "sha256": _sha256(file)} for file in files]
    (folder / SPLIT_FILE).write_text(json.dumps(body, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    if repeated:
        text = f"{repeated:,} of {rows:,} conversations repeat another; each is in the same part as the one it repeats"
        reporter.notice("Duplicates", text, level="info", count=repeated)
    return result


def _shares(fractions: Mapping[str, float]) -> dict[str, float]:
    for part, share in fractions.items():
        if not _NAME.fullmatch(part):
            raise UserError(f"{part!r} is no name of a part", target="fractions", way_out="letters, digits, - and _")
        if not 0 <= share <= 1:
            raise UserError(f"the share {share}", target=f"fractions.{part}", way_out="a number from 0 to 1")
    total = sum(fractions.values())
    if abs(total - 1) > 1e-6:
        raise UserError(f"the shares sum to {total:g}", target="fractions", way_out="shares that sum to 1")
    return {part: share for part, share in fractions.items() if share > 0}


def _spool(files: Sequence[Path], spool: IO[bytes], reporter: Reporter) -> tuple[np.ndarray, np.ndarray]:
    """Write every row as one line of JSON; returns the rows' hashes (rows, 2) and where each line begins (rows + 1)."""
    digests, offsets = bytearray(), array("q", [0])
    faults: list[Fault] = []
    faulty = done = 0
    total = sum(file.stat().st_size for file in files)
    position = 0
    for file in files:
        reader = RowReader(file)
        for row in reader:
            parsed = parse_row(row)
            if parsed.conversation is None:
                faulty += 1
                faults += parsed.faults[: FAULTS_SHOWN - len(faults)]
                continue
            line = _line(row)
            position += spool.write(line)
            offsets.append(position)
            digests += content_hash(parsed.conversation)
            if not len(offsets) % 1024:
                reporter.progress("split", done + reader.bytes_read, total, unit="bytes")
        done += reader.total_bytes
    reporter.progress("split", total, total, unit="bytes")
    if faulty:
        raise ValidationFailed(
            f"{faulty:,} faulty rows; the first:",
            target=", ".join(map(str, files)),
            details=faults,
            way_out="correct them (`tunesmith data check FILE` lists every fault), or leave them out with "
            "`tunesmith data convert FILE NEW.jsonl --on-faulty drop`",
        )
    spool.flush()
    return np.frombuffer(bytes(digests), dtype="<u8").reshape(-1, 2), np.frombuffer(offsets.tobytes(), dtype=np.int64)


def _line(row: Row) -> bytes:
    if row.raw is not None:
        return row.raw.rstrip(b"\r\n") + b"\n"
    return orjson.dumps(row.data, default=str, option=orjson.OPT_APPEND_NEWLINE)


def _assign(digests: np.ndarray, shares: Mapping[str, float], seed: int) -> tuple[list[np.ndarray], int]:
    """The rows of each part, in the order they are written, and how many rows repeat another."""
    rows = len(digests)
    _, group = np.unique(digests, axis=0, return_inverse=True)
    group = group.reshape(-1)
    sizes = np.bincount(group)
    generator = np.random.default_rng(seed)
    # Groups are numbered by hash; in the order of their first row, the assignment depends on the seed and the rows
    # alone.
    firsts = np.full(len(sizes), rows, dtype=np.int64)
    np.minimum.at(firsts, group, np.arange(rows))
    order = np.argsort(firsts)[generator.permutation(len(sizes))]
    room = _targets(rows, list(shares.values()))
    part_of = np.empty(len(sizes), dtype=np.int64)
    part = 0
    for chosen in order.tolist():
        size = int(sizes[chosen])
        while room[part] <= 0 and part < len(room) - 1:
            part += 1
        # A group larger than what is left of this part goes where there is most room.
        goes = part if size <= room[part] else max(range(len(room)), key=lambda i: room[i])
        part_of[chosen] = goes
        room[goes] -= size
    shuffled = generator.permutation(rows)
    return [shuffled[part_of[group[shuffled]] == part] for part in range(len(room))], rows - len(sizes)


def _targets(rows: int, shares: Sequence[float]) -> list[int]:
    """Whole numbers that sum to ``rows``, each at least 1, by the largest remainders."""
    exact = [rows * share for share in shares]
    counts = [max(1, int(value)) for value in exact]
    while sum(counts) < rows:
        counts[max(range(len(counts)), key=lambda i: exact[i] - counts[i])] += 1
    while sum(counts) > rows:
        counts[max(range(len(counts)), key=lambda i: counts[i])] -= 1
    return counts


def _write(target: Path, spool: IO[bytes], offsets: np.ndarray, rows: np.ndarray) -> Path:
    aside = target.with_name(f".{target.name}.{os.getpid()}.unfinished")
    descriptor = spool.fileno()
    with aside.open("wb", buffering=1 << 20) as file:
        for row in rows.tolist():
            begin, end = int(offsets[row]), int(offsets[row + 1])
            file.write(os.pread(descriptor, end - begin, begin))
        file.flush()
        os.fsync(file.fileno())
    return aside


def _publish(written: Mapping[str, Path], targets: Mapping[str, Path]) -> None:
    """Give the parts their names, unless one of the names has another content."""
    try:
        for part, aside in written.items():
            if targets[part].exists() and _sha256(targets[part]) != _sha256(aside):
                raise AlreadyExists(
                    "the file exists with another content; nothing is written over",
                    target=str(targets[part]),
                    way_out="give another folder",
                )
        for part, aside in written.items():
            aside.replace(targets[part])
    finally:
        for aside in written.values():
            aside.unlink(missing_ok=True)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
