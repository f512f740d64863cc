from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import pytest

from tunesmith.errors import DiskFull, InvalidModel
from tunesmith.models.files import (
    new_aside,
    no_room_is_disk_full,
    require_room,
    safe_relative,
    sweep_aside,
    written_aside,
)


def test_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    destination = tmp_path / "deep" / "package"
    with written_aside(destination, "a thing") as aside:
        (aside / "file").write_text("x")
        assert not destination.exists()
    assert (destination / "file").read_text() == "x"
    assert [path.name for path in destination.parent.iterdir()] == ["package"]


@pytest.mark.parametrize("fault", [ValueError("no"), KeyboardInterrupt()])
def test_any_fault_leaves_nothing(tmp_path: Path, fault: BaseException) -> None:
    with pytest.raises(type(fault)), written_aside(tmp_path / "package", "a thing") as aside:
        (aside / "file").write_text("x")
        raise fault
    assert list(tmp_path.iterdir()) == []


def test_taken_destination_is_kept(tmp_path: Path) -> None:
    destination = tmp_path / "package"
    with pytest.raises(FileExistsError), written_aside(destination, "a thing") as aside:
        (aside / "file").write_text("mine")
        destination.mkdir()
        (destination / "file").write_text("theirs")
    assert (destination / "file").read_text() == "theirs"
    assert [path.name for path in tmp_path.iterdir()] == ["package"]


def test_leavings_of_a_killed_process_are_swept_and_those_of_a_living_one_stay(tmp_path: Path) -> None:
    code = "from pathlib import Path; from tunesmith.models.files import new_aside; import sys, os, signal;"
    code += "(new_aside(Path(sys.argv[1]), 'package') / 'half').write_text('x'); os.kill(os.getpid(), signal.SIGKILL)"
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert len(list(tmp_path.iterdir())) == 1
    mine = new_aside(tmp_path, "package")
    sweep_aside(tmp_path)
    assert list(tmp_path.iterdir()) == [mine]


def test_full_disk_is_said_with_numbers(tmp_path: Path) -> None:
    with pytest.raises(DiskFull, match="no room to write the model 'm'") as caught:
        require_room(tmp_path / "not" / "there", 10**18, "the model 'm'")
    assert caught.value.extra["needed"] == 10**18
    assert 0 < caught.value.extra["free"] < 10**18


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_no_space_left_becomes_disk_full(tmp_path: Path) -> None:
    with pytest.raises(DiskFull) as caught, no_room_is_disk_full(tmp_path, "weights"):
        Path("/dev/full").write_bytes(b"x")
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.__cause__.errno == errno.ENOSPC


def test_other_system_errors_stay_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), no_room_is_disk_full(tmp_path, "weights"):
        (tmp_path / "missing").read_bytes()


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../b", "", "a//b", "a\\b", "./a", "a\0b"])
def test_names_that_lead_out_are_refused(name: str) -> None:
    with pytest.raises(InvalidModel, match="leads out"):
        safe_relative(name, where=Path("index"))


def test_plain_names_pass() -> None:
    assert safe_relative("model-00001-of-00002.safetensors", where=Path("index")) == "model-00001-of-00002.safetensors"
