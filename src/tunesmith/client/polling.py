"""Waits for what the server does in the background."""

from __future__ import annotations

import time
from collections.abc import Callable

from tunesmith.errors import NotFound, RequestTimeout

POLL_SECONDS = 0.2


def until_gone(look: Callable[[], object], *, what: str, timeout: float) -> None:
    """Look again and again until there is nothing to see.

    Raises:
        RequestTimeout: ``timeout`` seconds have passed.
    """
    deadline = time.monotonic() + timeout
    while True:
        try:
            look()
        except NotFound:
            return
        if time.monotonic() > deadline:
            raise RequestTimeout(f"{what} is not gone after {timeout:g} s", target=what)
        time.sleep(POLL_SECONDS)
