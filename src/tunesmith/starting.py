"""The start of a process that imports much.

Next to nothing of what is imported is ever garbage, and Python looks for some after every 700 objects: a tenth of the
seconds that torch, transformers or MLflow take.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def starting() -> Iterator[None]:
    """Within it no garbage is looked for; after it, none in what is there then."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
