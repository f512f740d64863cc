"""The server's garbage collection once it is up."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import gc, weakref
gc.disable()
from tunesmith.server.memory import THRESHOLDS, settle

class Node: pass

kept = [Node() for _ in range(1000)]
settle()
assert gc.isenabled() and gc.get_threshold() == THRESHOLDS
assert gc.get_freeze_count() > 1000
node = Node(); node.itself = node
gone = weakref.ref(node)
del node
made = [[] for _ in range(THRESHOLDS[0] + 1000)]
print(gone() is None, len(kept))
"""


def test_what_stays_is_left_out_and_new_garbage_is_still_found() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "1000"]
