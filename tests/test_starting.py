from __future__ import annotations

import subprocess
import sys

CODE = """
import gc
from tunesmith.starting import starting
with starting():
    assert not gc.isenabled()
    kept = [[] for _ in range(1000)]
assert gc.isenabled() and gc.get_freeze_count() > 1000
try:
    with starting():
        raise ImportError
except ImportError:
    pass
print(gc.isenabled())
"""


def test_no_garbage_is_looked_for_while_a_process_starts_and_some_is_after() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"
