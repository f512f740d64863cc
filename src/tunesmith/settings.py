"""Typed settings of a workspace and its server.

A value comes from the first of: an argument, a ``TUNESMITH_…`` environment variable, ``<home>/settings.toml``, the
default. A key of the file that does not exist, or a value of a wrong type, is an error that names it.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from tunesmith.errors import Fault, ValidationFailed
from tunesmith.home import find_home

DEFAULT_PORT = 8787
"""Taken unless it is in use and no port was asked for; then any free one is."""

LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


class Settings(BaseSettings):
    """What may be set. Frozen; ``load_settings`` makes one."""

    model_config = SettingsConfigDict(env_prefix="TUNESMITH_", extra="forbid", frozen=True)

    home: Path
    """The workspace folder, absolute."""
    name: str = "default"
    """The workspace's name, given to it when it is made."""
    host: str = "127.0.0.1"
    """The address that the server listens on."""
    port: int | None = Field(default=None, ge=0, le=65535)
    """``None``: 8787, or any free port when that one is taken. A port that is named must be free. 0: any free port."""
    allow_remote: bool = False
    """Listen on an address other than loopback without TLS."""
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = ()
    """Names that the server may be called by, beside its own address and loopback's; with commas in a variable."""
    database_url: str | None = None
    """An SQLAlchemy URL; ``None``: SQLite at ``<home>/tunesmith.db``."""
    artifact_url: str | None = None
    """An fsspec URL (s3://, abfs://, gs://); ``None``: the folder ``<home>/artifacts``."""
    mlflow: Literal["jobs", "asked"] = "jobs"
    """When MLflow's server starts: with the first job or model that it should show, or only when somebody asks it."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @field_validator("allowed_hosts", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return [name.strip() for name in value.split(",") if name.strip()] if isinstance(value, str) else value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments, then environment, then the file; no .env file is read."""
        return init_settings, env_settings, _TomlSource(settings_cls)

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach the server."""
        return self.host in LOOPBACK or self.host.startswith("127.")

    @property
    def tls(self) -> bool:
        """Whether the server speaks HTTPS."""
        return self.tls_certificate is not None and self.tls_key is not None


class _TomlSource(PydanticBaseSettingsSource):
    """Reads ``settings.toml`` of the folder that the earlier sources named."""

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:
        """Not used: ``__call__`` answers for every field at once."""
        raise NotImplementedError

    def __call__(self) -> dict[str, Any]:
        """The file's values."""
        path = Path(self.current_state["home"]) / "settings.toml"
        try:
            values = tomllib.loads(path.read_text("utf-8"))
        except FileNotFoundError:
            return {}
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ValidationFailed(f"not a TOML file: {error}", target=str(path)) from None
        faults = []
        for key in values:
            if key == "home":
                faults.append(
                    Fault("the folder that holds this file is the home; it cannot be set inside", f"{path}#home")
                )
            elif key not in Settings.model_fields:
                close = difflib.get_close_matches(key, Settings.model_fields, n=1)
                hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(sorted(Settings.model_fields))}"
                faults.append(Fault("no such setting", f"{path}#{key}", way_out=hint))
        if faults:
            raise ValidationFailed("unknown settings", target=str(path), details=faults)
        return values


def load_settings(workspace: str | Path | None = None, **overrides: Any) -> Settings:
    """The settings of a workspace.

    ``overrides`` are values that a caller names itself (command line options); ``None`` means not given.

    Raises:
        ValidationFailed: with every faulty value, each named by its variable, its key in the file, or its field.
    """
    given = {key: value for key, value in overrides.items() if value is not None}
    home = find_home(workspace)
    try:
        settings = Settings(home=home, **given)
    except ValidationError as error:
        faults = [
            Fault(problem["msg"], _place(str(problem["loc"][0]) if problem["loc"] else "settings", given, home))
            for problem in error.errors()
        ]
        raise ValidationFailed("settings are faulty", details=faults) from None
    if (settings.tls_certificate is None) != (settings.tls_key is None):
        missing = "tls_key" if settings.tls_key is None else "tls_certificate"
        raise ValidationFailed("a certificate needs its key, and a key its certificate", target=missing)
    return settings


def _place(field: str, given: dict[str, Any], home: Path) -> str:
    if field in given:
        return field
    variable = f"TUNESMITH_{field.upper()}"
    return variable if variable in os.environ else f"{home / 'settings.toml'}#{field}"
