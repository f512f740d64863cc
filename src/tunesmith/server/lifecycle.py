"""The life of the running server, as its routes see it: where it is reached, since when, and how to stop it."""

from __future__ import annotations

import asyncio
import os
from datetime import datetime

from tunesmith.records.base import utcnow


class Lifecycle:
    """One running server. Made inside its event loop."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.pid = os.getpid()
        self.started_at: datetime = utcnow()
        self.end_instances = False
        """Whether the instances of deployments end with the server."""
        self.stopping = asyncio.Event()
        """Set once the server was told to stop: streams end, so that their readers look for the next server."""

    def stop(self) -> None:
        """Ask for the end; requests in flight may finish."""
        self.stopping.set()
