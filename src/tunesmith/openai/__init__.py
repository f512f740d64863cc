"""OpenAI's wire protocol over the gateway.

``create_openai_router`` is the way in; ``face`` has what every protocol of an endpoint shares.
"""

from __future__ import annotations

from tunesmith.openai.router import create_openai_router

__all__ = ["create_openai_router"]
