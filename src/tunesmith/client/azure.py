"""``workspace.azure``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from tunesmith.client.transport import Transport
from tunesmith.errors import UserError
from tunesmith.records.azure import AzureSession
from tunesmith.storage.atomic import write_text


class Azure:
    """Points Azure ML's own SDK at this workspace. For processes on the server's machine.

    Examples:
        >>> variables = ws.azure.environment()
        >>> variables["AZURE_TOKEN_CREDENTIALS"]
        'ManagedIdentityCredential'
    """

    def __init__(self, transport: Transport, home: Path | None) -> None:
        self._transport = transport
        self._home = home

    def session(self) -> AzureSession:
        """Where Azure's SDK is pointed: ports, secrets, the certificate. Opens the Azure face if it is closed.

        Raises:
            UserError: the server is on another machine; the proxy listens on its loopback alone.
        """
        if self._home is None:
            raise UserError(
                "Azure's SDK can be pointed at a workspace of this machine alone, not at one by its URL",
                target="url",
                way_out="run this on the server's machine, with the workspace's folder",
            )
        return AzureSession.model_validate(self._transport.request("POST", "/api/v1/azure/session"))

    def environment(
        self,
        caller: Mapping[str, str] | None = None,
        *,
        folder: str | Path | None = None,
        proxy: bool = True,
        certifi: str | None = None,
    ) -> dict[str, str | None]:
        """The variables that point Azure's SDK here, for a process; ``None`` where one has to be unset.

        Args:
            caller: The variables that the process would have; else those of this one.
            folder: Its working directory, where the SDK looks for a ``config.json``; else the current one.
            proxy: Whether the SDK is led here by a proxy, or (``False``) by a cloud of its own.
            certifi: The bundle of authorities of the process's own Python.
        """
        # Imported here: every command would import it, and few use it.
        from tunesmith.azure import environment as made
        from tunesmith.azure.trust import write_trust

        caller = dict(os.environ) if caller is None else caller
        session = self.session()
        place = Path(session.folder)
        config = None
        if made.find_config(Path(folder or Path.cwd()).absolute()) is None:
            config = place / made.CONFIG_NAMES[0]
            write_text(config, made.config_text(session), mode=0o600)
        profile = place / made.CLI_FOLDER / made.PROFILE
        if not profile.exists():  # what `az account set` changes in it stays
            profile.parent.mkdir(mode=0o700, exist_ok=True)
            write_text(profile, made.profile_text(session), mode=0o600)
        trust = write_trust(place, Path(session.certificate), caller, certifi)
        return made.variables(session, caller, trust=trust, config=config, proxy=proxy)
