"""Errors as Azure's blob storage answers them: a code in a header, and in XML."""

from __future__ import annotations

from xml.sax.saxutils import escape

from starlette.responses import Response


class BlobError(Exception):
    """A request that blob storage refuses.

    Args:
        status: HTTP's.
        code: Azure's, such as ``BlobNotFound``; clients tell errors apart by it.
        message: what is wrong, and the way out.
    """

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.status = status
        self.code = code
        self.message = message

    def response(self, *, head: bool = False) -> Response:
        """The answer. One to HEAD has no body; one that says "not modified" neither."""
        headers = {"x-ms-error-code": self.code}
        if head or self.status == 304:
            return Response(status_code=self.status, headers=headers)
        body = (
            '<?xml version="1.0" encoding="utf-8"?>'
            f"<Error><Code>{escape(self.code)}</Code><Message>{escape(self.message)}</Message></Error>"
        )
        return Response(body, self.status, headers=headers, media_type="application/xml")


def not_found(name: str) -> BlobError:
    """There is no such blob."""
    return BlobError(404, "BlobNotFound", f"there is no blob {name[:300]!r}")


def no_container(name: str) -> BlobError:
    """There is no such container."""
    return BlobError(404, "ContainerNotFound", f"there is no container {name[:80]!r}")


def not_implemented(what: str) -> BlobError:
    """Azure can do this, and this server cannot."""
    return BlobError(400, "NotImplemented", f"{what} is not implemented here")
