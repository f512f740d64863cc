from __future__ import annotations

from pathlib import Path

import pytest

from tunesmith.errors import Conflict
from tunesmith.storage.database import Database
from tunesmith.storage.ownership import claim


def test_a_database_serves_one_workspace(tmp_path: Path) -> None:
    path = tmp_path / "tunesmith.db"
    database = Database(path)
    claim(database, "11", "ours")
    claim(database, "11", "ours")
    database.close()
    again = Database(path)
    with pytest.raises(Conflict, match=r"belongs to another workspace, ours \(11\)"):
        claim(again, "22", "theirs")
    claim(again, "11", "ours")
    again.close()
