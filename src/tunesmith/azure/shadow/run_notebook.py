"""Runs a notebook cell by cell: ``python run_notebook.py NOTEBOOK OUTPUT``.

Runs in the user's own Python, with its ``nbclient`` and ``ipykernel``; imports nothing of Tunesmith. What cells print
is shown as they end, and OUTPUT has the notebook with its outputs, up to and with a cell that failed.
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

    def ended(cell: Any, **_: Any) -> None:
        for item in cell.get("outputs", ()):
            print(_text(item), end="", file=sys.stderr if _is_error(item) else sys.stdout, flush=True)

    client = NotebookClient(
        notebook,
        timeout=None,
        # The kernel of this very Python, whatever name the notebook was written with.
        kernel_name="python3",
        resources={"metadata": {"path": str(source.resolve().parent)}},
        on_cell_start=started,
        on_cell_executed=ended,
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


def _text(item: Any) -> str:
    if item.output_type == "stream":
        return str(item.text)
    if item.output_type == "error":
        return "\n".join(item.traceback) + "\n"
    text = item.get("data", {}).get("text/plain", "")
    return f"{text}\n" if text else ""


def _is_error(item: Any) -> bool:
    return bool(item.output_type == "error" or item.get("name") == "stderr")


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
