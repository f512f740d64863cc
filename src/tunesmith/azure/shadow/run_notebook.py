"""Runs a notebook cell by cell: ``python run_notebook.py NOTEBOOK OUTPUT``.

Runs in the user's own Python, with its ``nbclient`` and ``ipykernel``; imports nothing of Tunesmith. What cells print
is shown while they run, and OUTPUT has the notebook with its outputs, up to and with a cell that failed.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any


def main(source: Path, output: Path) -> int:
    """Run ``source`` and write ``output``; 1 where a cell failed."""
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError

    notebook = nbformat.read(source, as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    numbers = {id(cell): number for number, cell in enumerate(cells, 1)}

    def started(cell: Any, **_: Any) -> None:
        if id(cell) in numbers:
            print(f"── cell {numbers[id(cell)]} of {len(cells)}", flush=True)

    class Showing(NotebookClient):  # type: ignore[misc]  # nbclient is in the user's Python alone
        """Shows what a cell prints while it runs."""

        def output(self, outs: Any, msg: Any, display_id: Any, cell_index: Any) -> Any:
            text = _text(msg["header"]["msg_type"], msg["content"])
            print(text, end="", file=sys.stderr if _is_error(msg) else sys.stdout, flush=True)
            return super().output(outs, msg, display_id, cell_index)

    client = Showing(
        notebook,
        timeout=None,
        # The kernel of this very Python, whatever name the notebook was written with.
        kernel_name="python3",
        resources={"metadata": {"path": str(source.resolve().parent)}},
        on_cell_start=started,
    )
    try:
        client.execute()
        return 0
    except CellExecutionError:
        return 1
    finally:
        output.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(notebook, output)
        print(f"The notebook with its outputs: {output}", file=sys.stderr)


def _text(kind: str, content: Any) -> str:
    if kind == "stream":
        return str(content["text"])
    if kind == "error":
        return "\n".join(content["traceback"]) + "\n"
    text = content.get("data", {}).get("text/plain", "") if kind in {"execute_result", "display_data"} else ""
    return f"{text}\n" if text else ""


def _is_error(msg: Any) -> bool:
    return bool(msg["header"]["msg_type"] == "error" or msg["content"].get("name") == "stderr")


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
