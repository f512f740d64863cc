"""Processes end with all that they started."""

from __future__ import annotations

import signal
import subprocess
import sys

import psutil
import pytest

from tests.support.house import until
from tunesmith.compute.processes import ProcessId, end_group


@pytest.mark.parametrize("ends", ["never", "at once"])
def test_what_a_child_left_below_it_ends_with_its_group(ends: str) -> None:
    below = "import subprocess, sys; print(subprocess.Popen(['sleep', '600']).pid, flush=True);"
    script = below + (" import time; time.sleep(600)" if ends == "never" else "")
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    server = psutil.Process(int(process.stdout.readline()))
    if ends == "at once":
        process.wait(60)
    assert server.is_running()
    end_group(process, 0.1)
    process.stdout.close()
    until(lambda: not server.is_running() or server.status() == psutil.STATUS_ZOMBIE, "the server below to end")
    assert process.returncode == (-signal.SIGKILL if ends == "never" else 0)


def test_a_number_that_was_given_out_again_is_another_process() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        there = ProcessId.of(child.pid)
        assert there is not None
        before = ProcessId(there.pid, there.started - 60)
        assert [(one.alive, one.number_taken) for one in (there, before)] == [(True, False), (False, True)]
        child.communicate(b"\n")
    assert (there.alive, there.number_taken) == (False, False)
