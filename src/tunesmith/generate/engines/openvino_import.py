"""OpenVINO, imported so that it asks nobody.

OpenVINO's Python package reports imports and conversions to its makers where the package ``openvino_telemetry`` can
be imported. This process has no use of that package, so it is made to be absent before OpenVINO looks for it.
"""

from __future__ import annotations

import sys

if "openvino" not in sys.modules:
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]

import openvino as ov
from openvino._pyopenvino.op import _PagedAttentionExtension as PagedAttention

__all__ = ["PagedAttention", "ov"]
