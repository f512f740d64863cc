"""Lists a folder and hands out its files."""

from __future__ import annotations

from pathlib import Path

from fastapi.responses import FileResponse

from tunesmith.errors import NotFound
from tunesmith.records.workspace import FileEntry
from tunesmith.storage import names


def list_files(root: Path) -> list[FileEntry]:
    """The files below ``root``, or ``root`` itself where it is a file, by path."""
    if root.is_file():
        return [FileEntry(path=root.name, size_bytes=root.stat().st_size)]
    return [
        FileEntry(path=path.relative_to(root).as_posix(), size_bytes=path.stat().st_size)
        for path in sorted(root.rglob("*"))
        if path.is_file()
    ]


def send_file(root: Path, path: str) -> FileResponse:
    """The file ``path`` below ``root``, for the caller to keep.

    Raises:
        ValidationFailed: the path may leave the folder.
        NotFound: there is no such file.
    """
    found = root if root.is_file() and path == root.name else names.safe_join(root, path, target="path")
    if not found.is_file():
        raise NotFound(f"there is no file {path!r}", target="path")
    return FileResponse(found, filename=found.name, media_type="application/octet-stream")
