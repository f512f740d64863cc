"""What the tests of torchrun start in the place of the fine-tuning step: ``python -m tests.components.worker MODE``."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from tunesmith.components.steps.processes import begin_worker, launch


def main(mode: str, folder: Path) -> None:
    """launch: start two of the mode named next. fail: the second exits with 3. wait: until told to stop."""
    if mode == "launch":
        stop_file = folder / "stop"
        launch(2, "tests.components.worker", [sys.argv[2], str(folder)], stop_file=stop_file, stop=lambda: False)
        (folder / "ended").touch()
    elif mode == "fail":
        sys.exit(3 if os.environ["RANK"] == "1" else 0)
    else:
        stop = begin_worker(lambda: False)
        (folder / f"{os.environ['RANK']}.pid").write_text(str(os.getpid()))
        while not stop():
            time.sleep(0.02)
        (folder / f"{os.environ['RANK']}.stopped").touch()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[-1]))
