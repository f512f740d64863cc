from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tunesmith.compute.doctor import OPTIONAL, REQUIRED, examine


def test_everything_that_is_needed_is_there_and_missing_parts_say_what_brings_them(tmp_path: Path) -> None:
    doctor = examine(tmp_path / "home")
    items = {item.name: item for item in doctor.items}
    assert {part.distribution for part in REQUIRED + OPTIONAL} < set(items)
    assert all(items[part.distribution].state == "ok" for part in REQUIRED)
    assert items["Python"].state == "ok"
    for part in OPTIONAL:
        item = items[part.distribution]
        if item.state == "absent" and not part.needs_gpu:
            assert item.way_out == f"pip install {part.distribution}"


def test_a_folder_that_others_may_read_is_a_problem(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o755)
    home.chmod(0o755)
    item = next(item for item in examine(home).items if item.name == "Workspace")
    assert (item.state, item.way_out) == ("problem", f"chmod 700 {home}")
    home.chmod(0o700)
    item = next(item for item in examine(home).items if item.name == "Workspace")
    assert item.state == "ok"


def test_it_loads_nothing_heavy() -> None:
    code = (
        "import sys; from pathlib import Path; from tunesmith.compute.doctor import examine; examine(Path('/tmp'));"
        "print([name for name in ('torch', 'transformers', 'mlflow', 'pyarrow', 'sqlalchemy') if name in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
