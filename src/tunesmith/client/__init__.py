"""The Python SDK: a thin typed HTTP client of a workspace's server."""

from tunesmith.client.workspace import Workspace

__all__ = ["Workspace"]
