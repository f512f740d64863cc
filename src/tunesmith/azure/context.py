"""What the routes of the Azure face stand on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tunesmith.azure.identity import AzureKeys
from tunesmith.azure.operations import Operations

if TYPE_CHECKING:
    from tunesmith.endpoints.gateway import Gateway
    from tunesmith.workspace import Services


@dataclass(frozen=True, slots=True)
class AzureContext:
    """One workspace, as Azure's protocol reaches it."""

    services: Services
    gateway: Gateway
    keys: AzureKeys
    """Signs and checks tokens; derives every other secret of this face."""
    operations: Operations = field(default_factory=Operations)
    """What a client polls while something goes on."""
    closing: list[Callable[[], None]] = field(default_factory=list)
    """What is called, in a thread, once nothing is answered any more."""
