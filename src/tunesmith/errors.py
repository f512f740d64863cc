"""The one tree of errors.

Every error says what was wrong, where (``target``: a file with its line, or the path of a field) and what to
do now (``way_out``). It carries a stable ``code``, the HTTP ``status`` a face answers with and the
``exit_code`` the command line ends with: 2 for a user's mistake, 1 for a failure.

    TunesmithError
    ├── UserError               400  exit 2   the request or the input is wrong
    │   ├── ValidationFailed    400           several faults, each with its place
    │   ├── InvalidData         400           a conversation file or row is faulty
    │   ├── InvalidModel        400           a model folder or package cannot be used
    │   ├── UnsupportedField    422           a field that this engine or face cannot honour
    │   ├── NotAuthenticated    401
    │   ├── NotAllowed          403
    │   ├── NotFound            404
    │   ├── AlreadyExists       409
    │   ├── Conflict            409           the state of the thing forbids it now
    │   ├── TooLarge            413
    │   └── TooManyRequests     429
    └── Failure                 500  exit 1   the work itself failed
        ├── RequestTimeout      408
        ├── ModelFailed         424           the model behind an endpoint answered with an error
        ├── Unreachable         502           a hub, a server or an instance cannot be reached
        ├── Unavailable         503
        ├── DiskFull            507
        ├── OutOfMemory         500
        ├── NonFiniteLoss       500
        ├── StepFailed          500           one step of a job; keeps the cause of the step
        ├── JobFailed           500
        ├── JobCanceled         500
        └── DeploymentFailed    500

The wire form is Azure's: ``{"error": {"code", "message", "target", "details", "way_out"}}``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong, and where.

    ``target`` is ``file:line`` for data, with ``#path`` for a field inside the row
    (``train.jsonl:12#messages[1].role``), or the dotted path of a field in a request.
    """

    message: str
    target: str | None = None
    code: str = "Invalid"
    way_out: str | None = None

    def __str__(self) -> str:
        place = f"{self.target}: " if self.target else ""
        return place + self.message + (f" ({self.way_out})" if self.way_out else "")

    def to_dict(self) -> dict[str, Any]:
        """The wire form; absent parts are left out."""
        body = {"code": self.code, "message": self.message, "target": self.target, "way_out": self.way_out}
        return {key: value for key, value in body.items() if value is not None}

    @classmethod
    def from_dict(cls, body: Mapping[str, Any]) -> Fault:
        """Read the wire form back."""
        return cls(
            message=str(body.get("message", "")),
            target=body.get("target"),
            code=str(body.get("code", "Invalid")),
            way_out=body.get("way_out"),
        )


class TunesmithError(Exception):
    """Root of the tree; see the module's docstring."""

    code: ClassVar[str] = "InternalError"
    status: ClassVar[int] = 500
    exit_code: ClassVar[int] = 1

    def __init__(
        self,
        message: str,
        *,
        target: str | None = None,
        way_out: str | None = None,
        details: Iterable[Fault] = (),
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.target = target
        self.way_out = way_out
        self.details = tuple(details)
        self.extra = dict(extra or {})

    def __str__(self) -> str:
        lines = [f"{self.target}: {self.message}" if self.target else self.message]
        lines += [f"  - {fault}" for fault in self.details]
        if self.way_out:
            lines.append(f"  Way out: {self.way_out}")
        return "\n".join(lines)

    @property
    def http_headers(self) -> dict[str, str]:
        """The headers of an HTTP answer that is this error: how to authenticate, when to try again (in seconds)."""
        headers = {"WWW-Authenticate": "Bearer"} if self.status == 401 else {}
        if (retry := self.extra.get("retry_after")) is not None:
            headers["Retry-After"] = str(max(1, round(float(retry))))
        return headers

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (self.to_dict(),))

    def to_dict(self) -> dict[str, Any]:
        """The wire form, ``{"error": {...}}``."""
        body: dict[str, Any] = {"code": self.code, "message": self.message}
        if self.target is not None:
            body["target"] = self.target
        if self.way_out is not None:
            body["way_out"] = self.way_out
        if self.details:
            body["details"] = [fault.to_dict() for fault in self.details]
        if self.extra:
            body["extra"] = self.extra
        return {"error": body}


class UserError(TunesmithError):
    """The request or the input is wrong; the user can put it right."""

    code = "UserError"
    status = 400
    exit_code = 2


class ValidationFailed(UserError):
    """Several faults found in one pass; every one is in ``details``."""

    code = "ValidationFailed"


class InvalidData(UserError):
    """A conversation file or row is faulty."""

    code = "InvalidData"


class InvalidModel(UserError):
    """A model folder, file or package cannot be used."""

    code = "InvalidModel"


class UnsupportedField(UserError):
    """A field of a request that cannot be honoured here; ``target`` names it."""

    code = "UnsupportedField"
    status = 422


class NotAuthenticated(UserError):
    """No key or token, or a wrong one."""

    code = "Unauthorized"
    status = 401


class NotAllowed(UserError):
    """Known, but not allowed."""

    code = "Forbidden"
    status = 403


class NotFound(UserError):
    """The named thing does not exist."""

    code = "ResourceNotFound"
    status = 404


class AlreadyExists(UserError):
    """The name and version are taken; assets are immutable."""

    code = "AlreadyExists"
    status = 409


class Conflict(UserError):
    """The state of the thing forbids the operation now."""

    code = "Conflict"
    status = 409


class TooLarge(UserError):
    """A body or a row over the limit."""

    code = "TooLarge"
    status = 413


class TooManyRequests(UserError):
    """A queue is full or a rate is exceeded; ``extra["retry_after"]`` is in seconds."""

    code = "TooManyRequests"
    status = 429


class Failure(TunesmithError):
    """The work itself failed."""

    code = "Failure"


class RequestTimeout(Failure):
    """The model took longer than ``request_timeout_ms``."""

    code = "RequestTimeout"
    status = 408


class ModelFailed(Failure):
    """The model behind an endpoint answered with an error."""

    code = "ModelFailed"
    status = 424


class Unreachable(Failure):
    """A hub, a server or an instance cannot be reached."""

    code = "Unreachable"
    status = 502


class Unavailable(Failure):
    """Not able to answer now; try again later."""

    code = "Unavailable"
    status = 503


class DiskFull(Failure):
    """No room to write; ``extra`` has ``needed`` and ``free`` in bytes where known."""

    code = "DiskFull"
    status = 507


class OutOfMemory(Failure):
    """The machine or the GPU has not enough memory."""

    code = "OutOfMemory"


class NonFiniteLoss(Failure):
    """The loss became NaN or infinite."""

    code = "NonFiniteLoss"


class StepFailed(Failure):
    """A step of a job failed; the message is the step's own cause."""

    code = "StepFailed"


class JobFailed(Failure):
    """A job ended in the state Failed."""

    code = "JobFailed"


class JobCanceled(Failure):
    """A job ended in the state Canceled."""

    code = "JobCanceled"


class DeploymentFailed(Failure):
    """A deployment could not be brought up."""

    code = "DeploymentFailed"


def _tree(root: type[TunesmithError]) -> dict[str, type[TunesmithError]]:
    found = {root.code: root}
    for child in root.__subclasses__():
        for code, kind in _tree(child).items():
            found.setdefault(code, kind)  # a face's own kind of an error may keep its code; the tree's is rebuilt
    return found


def error_from_dict(body: Mapping[str, Any], *, status: int | None = None) -> TunesmithError:
    """Rebuild the error from its wire form.

    An unknown code becomes a ``UserError`` for a 4xx ``status`` and a ``Failure`` otherwise, so a client older
    than its server still tells a mistake from a failure.
    """
    inner = body.get("error", body)
    if not isinstance(inner, Mapping):
        inner = {"message": str(inner)}
    fallback: type[TunesmithError] = UserError if status is not None and 400 <= status < 500 else Failure
    kind = _tree(TunesmithError).get(str(inner.get("code", "")), fallback)
    return kind(
        str(inner.get("message", "unknown error")),
        target=inner.get("target"),
        way_out=inner.get("way_out"),
        details=[Fault.from_dict(fault) for fault in inner.get("details", ()) if isinstance(fault, Mapping)],
        extra=inner.get("extra"),
    )


def _rebuild(body: dict[str, Any]) -> TunesmithError:
    return error_from_dict(body)
