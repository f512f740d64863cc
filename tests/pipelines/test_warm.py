"""Processes from a nursery are like those that are started, with their imports done."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.house import until
from tunesmith.compute.processes import ProcessId
from tunesmith.pipelines import warm
from tunesmith.pipelines.warm import Nursery, Process, possible

pytestmark = pytest.mark.skipif(not possible(), reason="processes are forked on Linux, without a GPU, only")

PROBE = """
import json, os, sys
told = {
    "argv": sys.argv, "cwd": os.getcwd(), "leads": os.getsid(0) == os.getpid(), "parent": os.getppid(),
    "imported": "ahead_of_time" in sys.modules, "main": __name__, "spec": __spec__.name, "stdin": sys.stdin.read(),
    "environment": {name: value for name, value in os.environ.items() if name in ("TUNESMITH_OWN", "OTHER")},
    "open": sorted(name for name in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{name}")),
    "beside": __import__("beside").VALUE,
}
print("said", flush=True)
with open("told.json", "w") as file:
    json.dump(told, file)
if sys.argv[1:2] == ["exit"]:
    sys.exit(int(sys.argv[2]))
if sys.argv[1:2] == ["raise"]:
    raise LookupError("as it was told")
if sys.argv[1:2] == ["wait"]:
    import time
    time.sleep(600)
"""


class Place:
    """A step's folder, and how a process is started in it."""

    def __init__(self, root: Path, nursery: Nursery) -> None:
        self.nursery = nursery
        self.cwd = root / "work folder"
        self.cwd.mkdir()
        (self.cwd / "probe.py").write_text(PROBE)
        (self.cwd / "beside.py").write_text("VALUE = 7")
        self.log = root / "log.txt"
        self.environment = {**os.environ, "PYTHONPATH": str(root / "lib")}
        self.recorded: list[tuple[ProcessId, bool]] = []
        self.interrupt = False

    def record(self, identity: ProcessId) -> None:
        self.recorded.append((identity, self.log.exists() and "said" in self.log.read_text()))

    def start(self, arguments: str = "", *, preload: bool = True, more: Mapping[str, str] | None = None) -> Process:
        (self.cwd / "told.json").unlink(missing_ok=True)
        return self.nursery.start(
            f"python -m probe {arguments}",
            preload=preload,
            cwd=self.cwd,
            environment={**self.environment, **(more or {})},
            log=self.log,
            record=self.record,
            interrupted=lambda: self.interrupt,
        )

    def told(self) -> dict[str, Any]:
        until((self.cwd / "told.json").exists, "the process to tell")
        body: dict[str, Any] = json.loads((self.cwd / "told.json").read_text())
        return body


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "ahead_of_time.py").write_text("print('an import that prints')")
    nursery = Nursery(tmp_path, ["ahead_of_time"])
    yield Place(tmp_path, nursery)
    nursery.close()


def test_it_is_like_one_that_was_started_and_has_its_imports(place: Place) -> None:
    first = place.start("'a b' --c=d", more={"TUNESMITH_OWN": "1"})
    assert first.wait(30) == 0
    told = place.told()
    nursery = told.pop("parent")
    assert told == {
        "argv": [str(place.cwd / "probe.py"), "a b", "--c=d"],
        "cwd": str(place.cwd),
        "leads": True,
        "imported": True,
        "main": "__main__",
        "spec": "probe",
        "stdin": "",
        "environment": {"TUNESMITH_OWN": "1"},
        "open": ["0", "1", "2"],
        "beside": 7,
    }
    assert place.log.read_text() == "said\n"
    second = place.start("", more={"TUNESMITH_OWN": "2"})
    assert second.wait(30) == 0
    assert (place.told()["parent"], place.told()["environment"]) == (nursery, {"TUNESMITH_OWN": "2"})
    # Each was recorded before it began to work.
    assert [identity.pid for identity, _ in place.recorded] == [first.pid, second.pid]
    assert place.recorded[0][1] is False


def test_its_end_is_told_as_of_any_process(place: Place) -> None:
    assert place.start("exit 3").wait(30) == 3
    assert place.start("raise").wait(30) == 1
    assert place.log.read_text().endswith("LookupError: as it was told\n")
    process = place.start("wait")
    place.told()
    assert process.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.01)
    os.killpg(process.pid, signal.SIGTERM)
    assert process.wait(30) == -signal.SIGTERM
    assert process.poll() == process.returncode == -signal.SIGTERM


def test_a_nursery_that_is_woken_serves_whoever_has_its_environment(place: Place) -> None:
    place.nursery.wake({**place.environment, "TUNESMITH_OWN": "0"})
    assert place.start().wait(30) == 0
    assert place.told()["imported"] is True
    assert place.start(more={"OTHER": "1"}).wait(30) == 0
    told = place.told()
    assert (told["imported"], told["environment"], told["parent"]) == (False, {"OTHER": "1"}, os.getpid())
    assert place.start(preload=False).wait(30) == 0
    assert place.told()["imported"] is False
    assert place.start().wait(30) == 0
    assert place.told()["imported"] is True


def test_what_cannot_be_imported_ahead_is_left_to_the_step(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "lib").mkdir()
    nursery = Nursery(tmp_path, ["there_is_no_such_module"])
    there = Place(tmp_path, nursery)
    assert there.start().wait(30) == 0
    assert there.told()["parent"] != os.getpid()
    nursery.close()
    assert capfd.readouterr().err == (
        "there_is_no_such_module was not imported ahead: "
        "ModuleNotFoundError: No module named 'there_is_no_such_module'\n"
    )


def test_a_nursery_that_dies_costs_nothing_but_its_help(place: Place, capfd: pytest.CaptureFixture[str]) -> None:
    process = place.start("wait")
    nursery = psutil.Process(place.told()["parent"])
    nursery.kill()
    until(lambda: nursery.status() == psutil.STATUS_ZOMBIE, "the nursery to end")
    assert process.poll() is None
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait(30) == -signal.SIGKILL  # nobody knows how it ended
    assert place.start().wait(30) == 0
    assert (place.told()["parent"], place.told()["imported"]) == (os.getpid(), False)
    assert "the nursery gave no process: steps import for themselves" in capfd.readouterr().out


def test_an_interrupt_does_not_wait_for_imports(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warm, "PATIENCE_S", 1e6)
    (tmp_path / "lib" / "ahead_of_time.py").write_text("import time; time.sleep(600)")
    place.interrupt = True
    process = place.start()
    assert process.wait(30) == 0
    assert place.told()["parent"] == os.getpid()


def test_a_process_whose_runner_went_away_does_not_begin(place: Place) -> None:
    class Gone(Exception):
        pass

    identities: list[ProcessId] = []

    def record(identity: ProcessId) -> None:
        identities.append(identity)
        raise Gone

    place.record = record  # type: ignore[method-assign]
    with pytest.raises(Gone):
        place.start()
    place.nursery.close()
    until(lambda: not identities[0].alive, "the process to end")
    assert not (place.cwd / "told.json").exists()


def test_the_nursery_ends_with_whoever_started_it(tmp_path: Path) -> None:
    script = (
        "import os, sys; from pathlib import Path; from tunesmith.pipelines.warm import Nursery;"
        "n = Nursery(Path('.'), ['json']); n.wake(os.environ); print(n._child.pid, flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as runner:
        assert runner.stdout is not None
        nursery = psutil.Process(int(runner.stdout.readline()))
        until(lambda: "tunesmith.pipelines.nursery" in nursery.cmdline(), "the nursery to be what was started")
        runner.kill()
    until(lambda: not nursery.is_running() or nursery.status() == psutil.STATUS_ZOMBIE, "the nursery to end")
