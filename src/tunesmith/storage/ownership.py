"""Whose database it is: one database serves one workspace."""

from __future__ import annotations

from tunesmith.errors import Conflict
from tunesmith.storage.database import Database
from tunesmith.storage.tables import KeyValueRow

KEY = "workspace"


def claim(database: Database, workspace_id: str, name: str) -> None:
    """Note in ``database`` that it belongs to this workspace.

    Two workspaces over one database would follow each other's jobs and end each other's instances.

    Raises:
        Conflict: it belongs to another workspace.
    """
    with database.reading() as session:
        row = session.get(KeyValueRow, KEY)
        owner = row.value if row is not None else None
    if owner is None:
        with database.session() as session:
            session.merge(KeyValueRow(key=KEY, value={"id": workspace_id, "name": name}))
    elif owner["id"] != workspace_id:
        raise Conflict(
            f"the database belongs to another workspace, {owner['name']} ({owner['id']})",
            target="database_url",
            way_out="name a database of this workspace's own, or open that workspace's folder",
        )
