"""How a process on this machine reaches the workspace by Azure ML's protocol."""

from __future__ import annotations

from pydantic import Field

from tunesmith.records.base import Record


class AzureSession(Record):
    """Where Azure's SDK is pointed. Holds secrets: it is for the workspace's owner."""

    proxy_port: int
    """Of the CONNECT proxy on 127.0.0.1; the token endpoint of the managed identity is on it as well."""
    proxy_password: str
    direct_port: int
    """Of the same application behind TLS at once, for clients without a proxy."""
    identity_header: str
    """What the token endpoint asks for in ``X-IDENTITY-HEADER``."""
    certificate: str
    """Path of the certificate of the workspace's own authority."""
    folder: str
    """Where files of this face go."""
    caught: list[str]
    """The hosts that do not go further than the proxy; one with a dot before it stands for every name below it."""
    subscription_id: str
    """Names for a ``config.json``; any others lead to this workspace as well."""
    resource_group: str
    workspace_name: str
    connections: dict[str, int] = Field(default_factory=dict)
    """Connections through the proxy so far: azure, sunk, tunnel, refused."""
    telemetry: dict[str, int] = Field(default_factory=dict)
    """Requests with telemetry that were thrown away, by host."""
