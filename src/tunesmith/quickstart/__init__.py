"""The guided life cycle: one command from a base model to an answering endpoint, on real weights."""

from tunesmith.quickstart.cleanup import cleanup
from tunesmith.quickstart.run import Quickstart

__all__ = ["Quickstart", "cleanup"]
