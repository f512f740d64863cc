"""Engines that turn messages into tokens: one interface, several libraries behind it.

>>> engine = open_engine(package)                                                         # doctest: +SKIP
>>> request = GenerateRequest((Message("user", "Hello!"),), temperature=0, max_tokens=32)   # doctest: +SKIP
>>> async for event in engine.generate(request):                                          # doctest: +SKIP
...     print(event.text, end="")

Importing this brings in neither torch nor transformers; ``open_engine`` does when called.
"""

from tunesmith.generate.opening import ENGINES, open_engine
from tunesmith.generate.types import (
    Capabilities,
    Choice,
    Engine,
    EngineDescription,
    EngineStats,
    FinishReason,
    GenerateEvent,
    GenerateRequest,
    GenerateResult,
    TokenLogprob,
    TopLogprob,
    Usage,
    collect,
)

__all__ = [
    "ENGINES",
    "Capabilities",
    "Choice",
    "Engine",
    "EngineDescription",
    "EngineStats",
    "FinishReason",
    "GenerateEvent",
    "GenerateRequest",
    "GenerateResult",
    "TokenLogprob",
    "TopLogprob",
    "Usage",
    "collect",
    "open_engine",
]
