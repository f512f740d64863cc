"""Files of lines that keep to a size, and count what goes."""

from __future__ import annotations

from pathlib import Path

from tunesmith.endpoints.line_files import NumberedLines, RotatingLines, newest_lines, numbered_files, removed


def test_rotation_keeps_the_newest_and_reads_them_backwards(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "requests.jsonl"
    lines = RotatingLines(path, max_bytes=100, backups=2)
    for number in range(40):
        lines.write(b"line %04d" % number)  # ten bytes with its end
    lines.flush()
    assert sorted(file.name for file in path.parent.iterdir()) == [
        "requests.jsonl",
        "requests.jsonl.1",
        "requests.jsonl.2",
    ]
    assert all(file.stat().st_size <= 100 for file in path.parent.iterdir())
    assert path.stat().st_mode & 0o077 == 0
    assert list(newest_lines(path, 2))[:3] == [b"line 0039", b"line 0038", b"line 0037"]
    kept = [int(line.split()[1]) for line in newest_lines(path, 2)]
    assert kept == list(range(39, 39 - len(kept), -1))
    lines.close()
    lines.write(b"line 0040")
    lines.close()
    assert next(newest_lines(path, 2)) == b"line 0040"
    with path.open("ab") as file:
        file.write(b"half a li")
    assert next(newest_lines(path, 2)) == b"line 0040"
    assert list(newest_lines(tmp_path / "nothing", 2)) == []


def test_numbered_files_make_room_and_count_what_goes(tmp_path: Path) -> None:
    folder = tmp_path / "collected"
    lines = NumberedLines(folder, file_bytes=50)
    for number in range(33):
        lines.write(b"line %04d" % number, max_bytes=200)
    lines.close()
    files = numbered_files(folder)
    text = b"".join(file.read_bytes() for file in files)
    kept = [int(line.split()[1]) for line in text.splitlines()]
    assert sum(file.stat().st_size for file in files) <= 200
    assert kept == list(range(33 - len(kept), 33))
    assert removed(folder) == 33 - len(kept) > 0
    again = NumberedLines(folder, file_bytes=50)
    again.write(b"line 0033", max_bytes=200)
    again.close()
    assert numbered_files(folder)[-1].read_bytes().endswith(b"line 0033\n")
