"""Blob storage's REST protocol, as azure-storage-blob speaks it: block and append blobs, metadata, ranges, lists.

Bodies are streamed to disk and from it. What is not here (pages, leases, snapshots, copies, tags) is refused by name.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

from fastapi import APIRouter
from starlette.background import BackgroundTask
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse

from tunesmith.azure.blob_account import StorageAccount
from tunesmith.azure.blob_checksums import Checksums
from tunesmith.azure.blob_errors import BlobError, not_found, not_implemented
from tunesmith.azure.blob_files import BlobFiles, Sidecar, check_conditions
from tunesmith.azure.blob_headers import (
    PIECE,
    blob_headers,
    md5_of,
    read_content,
    read_metadata,
    read_range,
    written,
)
from tunesmith.azure.blob_lists import list_blobs, read_block_list
from tunesmith.azure.blob_places import CODE_CONTAINER, Place, Places
from tunesmith.azure.code_store import is_sealed
from tunesmith.azure.context import AzureContext
from tunesmith.azure.run_files import run_files
from tunesmith.errors import DiskFull, NotAuthenticated, TunesmithError
from tunesmith.records.assets import SYSTEM_REGISTRY

log = logging.getLogger("tunesmith.azure")

METHODS = ["GET", "HEAD", "PUT", "DELETE", "POST"]
MAX_LIST_BODY = 8 << 20
"""A list of 50 000 blocks, the most there may be, has half of it."""
_REFUSED = {
    "x-ms-copy-source": "copying a blob from a URL",
    "x-ms-lease-id": "a lease",
    "x-ms-encryption-key": "a key of the customer",
    "x-ms-structured-body": "a structured body",
    "x-ms-if-tags": "a condition on tags",
    "x-ms-tags": "tags of a blob",
}

Reply = Callable[[Request, Place, str], Any]


def create_blob_router(context: AzureContext) -> APIRouter:
    """Every route of blob storage: the operation is told by the method, the query and the headers."""
    face = _BlobFace(context)
    router = APIRouter(include_in_schema=False)
    for path in ("/blob/{account}", "/blob/{account}/{rest:path}"):
        router.add_api_route(path, face.answer, methods=METHODS)
    return router


class _BlobFace:
    def __init__(self, context: AzureContext) -> None:
        services = context.services
        root = services.store.root
        self._context = context
        self._account = StorageAccount(context)
        self._files = BlobFiles(services.paths.azure / "blobs")
        # Uploads come in many parts at once; they must not take the threads that everything else needs.
        self._threads = ThreadPoolExecutor(8, thread_name_prefix="blobs")
        self._threads.submit(self._sweep)
        context.closing.append(lambda: self._threads.shutdown(cancel_futures=True))
        self._places = (
            Places(
                root,
                services.paths.mlflow_artifacts,
                services.paths.packages / SYSTEM_REGISTRY,
                services.id,
                run_files=lambda run: run_files(services, run),
                sealed=lambda snapshot: is_sealed(services.database, snapshot),
            )
            if root is not None
            else None
        )

    def _sweep(self) -> None:
        try:
            self._files.sweep()
        except Exception:
            log.exception("what is left of old uploads could not be removed; the next start tries again")

    async def answer(self, request: Request, rest: str = "") -> Response:
        """Answer one request."""
        head = request.method == "HEAD"
        try:
            response = await self._route(request, rest)
        except BlobError as error:
            response = error.response(head=head)
        except DiskFull as error:
            response = BlobError(507, "InsufficientStorage", str(error)).response(head=head)
        except TunesmithError as error:
            response = BlobError(error.status, error.code, str(error)).response(head=head)
        response.headers["x-ms-version"] = request.headers.get("x-ms-version", "2023-11-03")
        if (identity := request.headers.get("x-ms-client-request-id")) is not None:
            response.headers["x-ms-client-request-id"] = identity
        response.headers.setdefault("x-ms-request-id", request.scope.get("state", {}).get("request_id", "0"))
        return response

    # ── which operation ─────────────────────────────────────────────────────────────────────────────────────────

    async def _route(self, request: Request, rest: str) -> Response:
        places = self._places
        if places is None:
            raise not_implemented("blob storage over an artifact store that is no folder")
        container, _, name = rest.partition("/")
        if not container:
            raise not_implemented("an operation on the storage account itself")
        query = request.query_params
        comp = query.get("comp", "")
        await self._in_thread(self._authenticate, request, container, name, _needed(request, name, comp))
        places.check_container(container)
        if "snapshot" in query or "versionid" in query:
            raise not_implemented("a snapshot or version of a blob")
        for header, what in _REFUSED.items():
            if header in request.headers:
                raise not_implemented(what)
        if not name:
            return await self._container(request, places, container, comp)
        if name.endswith("/") and request.method in ("HEAD", "GET"):  # how clients ask whether it is a folder
            raise not_found(name)
        place = await self._in_thread(places.place, container, name)
        operations: dict[tuple[str, str], Reply] = {
            ("HEAD", ""): self._get_properties,
            ("HEAD", "metadata"): self._get_properties,
            ("GET", "metadata"): self._get_properties,
            ("GET", ""): self._get,
            ("DELETE", ""): self._delete,
            ("PUT", ""): self._put,
            ("PUT", "block"): self._put_block,
            ("PUT", "blocklist"): self._put_block_list,
            ("PUT", "appendblock"): self._append_block,
            ("PUT", "metadata"): self._set_metadata,
            ("PUT", "properties"): self._set_properties,
        }
        operation = operations.get((request.method, comp))
        if operation is None:
            raise not_implemented(f"{request.method} with comp={comp!r} on a blob")
        response: Response = await operation(request, place, name)
        return response

    def _authenticate(self, request: Request, container: str, name: str, needed: str) -> None:
        query = request.query_params
        if "sig" in query:
            try:
                self._account.sas.check(query, container, name, needed)
            except BlobError as first:
                # A datastore's token reads code/ as well, and the SDK uses it for a container of code, too.
                if query.get("sr") != "c" or needed not in ("r", "l", "rl") or not CODE_CONTAINER.fullmatch(container):
                    raise
                try:
                    self._account.sas.check(query, self._account.blob_container, name, needed)
                except BlobError:
                    raise first from None
            return
        if request.headers.get("authorization", "").startswith("SharedKey"):
            raise not_implemented("authentication with the account's key; ask the datastore for a SAS token:")
        try:
            self._context.keys.check(request.headers.get("authorization"))
        except NotAuthenticated as error:
            raise BlobError(
                403, "AuthenticationFailed", f"Server failed to authenticate the request: {error}"
            ) from None

    async def _container(self, request: Request, places: Places, container: str, comp: str) -> Response:
        query = request.query_params
        if request.method == "GET" and comp == "list" and query.get("restype") == "container":
            base = self._account.url(request, "").rstrip("/")
            body = await self._in_thread(list_blobs, places, self._files, container, dict(query), base)
            return Response(body, media_type="application/xml")
        if request.method in ("GET", "HEAD") and comp in ("", "metadata"):
            headers = {"etag": '"0x8D0000000000000"', "x-ms-lease-status": "unlocked", "x-ms-lease-state": "available"}
            return Response(headers=headers)
        if request.method == "PUT" and not comp:
            raise BlobError(409, "ContainerAlreadyExists", "the container is already there")
        raise not_implemented(f"{request.method} with comp={comp!r} on a container")

    # ── reading ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def _get_properties(self, request: Request, place: Place, name: str) -> Response:
        found = await self._in_thread(self._files.properties, place, name)
        check_conditions(request.headers, found, writing=False)
        # The length is that of the blob, though no body comes: clients read it from here.
        return Response(
            headers=blob_headers(found) | {"content-length": str(found.size if request.method == "HEAD" else 0)}
        )

    async def _get(self, request: Request, place: Place, name: str) -> Response:
        file, found = await self._in_thread(self._files.open, place, name)
        try:
            check_conditions(request.headers, found, writing=False)
            asked = request.headers.get("x-ms-range") or request.headers.get("range")
            first, last = read_range(asked, found.size) if asked else (0, found.size - 1)
            headers = blob_headers(found) | {"content-length": str(last - first + 1)}
            if asked:
                headers["content-range"] = f"bytes {first}-{last}/{found.size}"
                # The whole blob's checksum does not describe a part.
                if (whole := headers.pop("content-md5", None)) is not None:
                    headers["x-ms-blob-content-md5"] = whole
                if request.headers.get("x-ms-range-get-content-md5") == "true":
                    headers["content-md5"] = await self._in_thread(md5_of, file, first, last)
        except BaseException:
            file.close()
            raise
        return StreamingResponse(
            self._pieces(file, first, last),
            206 if asked else 200,
            headers=headers,
            background=BackgroundTask(file.close),
        )

    async def _pieces(self, file: IO[bytes], first: int, last: int) -> AsyncIterator[bytes]:
        try:
            left = last - first + 1
            await self._in_thread(file.seek, first)
            while left > 0:
                piece = await self._in_thread(file.read, min(PIECE, left))
                if not piece:
                    raise OSError("the blob became shorter while it was read")
                left -= len(piece)
                yield piece
        finally:
            file.close()

    # ── writing ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def _put(self, request: Request, place: Place, name: str) -> Response:
        kind = request.headers.get("x-ms-blob-type", "")
        if kind not in ("BlockBlob", "AppendBlob"):
            raise not_implemented(f"a blob of the type {kind[:40]!r}")
        await self._in_thread(self._files.check_early, place, dict(request.headers))
        sums = Checksums(request.headers)
        aside = await self._in_thread(self._files.new_aside, place)
        try:
            await self._receive(request, aside, sums)
            content = read_content(request) | {"Content-MD5": sums.md5}
            sidecar = Sidecar(kind, read_metadata(request), content if kind == "BlockBlob" else read_content(request))
            found = await self._in_thread(self._files.put, place, aside, sidecar, dict(request.headers))
        finally:
            await self._in_thread(aside.unlink, True)
        return written(found, {"content-md5": sums.md5})

    async def _put_block(self, request: Request, place: Place, name: str) -> Response:
        block = request.query_params.get("blockid", "")
        if not re.fullmatch(r"[A-Za-z0-9+/=_-]{1,200}", block):
            raise BlobError(400, "InvalidQueryParameterValue", "blockid must be base64")
        sums = Checksums(request.headers)
        aside = await self._in_thread(self._files.block_aside, place)
        try:
            await self._receive(request, aside, sums)
            await self._in_thread(self._files.keep_block, place, block, aside)
        finally:
            await self._in_thread(aside.unlink, True)
        headers = {"content-md5": sums.md5, "x-ms-request-server-encrypted": "false"}
        if "x-ms-content-crc64" in request.headers:
            headers["x-ms-content-crc64"] = sums.crc64
        return Response(status_code=201, headers=headers)

    async def _put_block_list(self, request: Request, place: Place, name: str) -> Response:
        body = bytearray()
        async for piece in request.stream():
            body += piece
            if len(body) > MAX_LIST_BODY:
                raise BlobError(413, "RequestBodyTooLarge", "the list of blocks is too long")
        sums = Checksums(request.headers)
        sums.update(bytes(body))
        sums.check()
        blocks = read_block_list(bytes(body))
        sidecar = Sidecar("BlockBlob", read_metadata(request), read_content(request))
        found = await self._in_thread(self._files.commit, place, blocks, sidecar, dict(request.headers))
        return written(found, {"content-md5": sums.md5})

    async def _append_block(self, request: Request, place: Place, name: str) -> Response:
        sums = Checksums(request.headers)
        aside = await self._in_thread(self._files.block_aside, place)
        try:
            await self._receive(request, aside, sums)
            offset, found = await self._in_thread(self._files.append, place, name, aside, dict(request.headers))
        finally:
            await self._in_thread(aside.unlink, True)
        return written(found, {"x-ms-blob-append-offset": str(offset), "content-md5": sums.md5})

    async def _set_metadata(self, request: Request, place: Place, name: str) -> Response:
        found = await self._in_thread(
            lambda: self._files.change(place, name, dict(request.headers), metadata=read_metadata(request))
        )
        return written(found, {}, 200)

    async def _set_properties(self, request: Request, place: Place, name: str) -> Response:
        found = await self._in_thread(
            lambda: self._files.change(place, name, dict(request.headers), content=read_content(request))
        )
        return written(found, {}, 200)

    async def _delete(self, request: Request, place: Place, name: str) -> Response:
        await self._in_thread(self._files.delete, place, name, dict(request.headers))
        return Response(status_code=202, headers={"x-ms-delete-type-permanent": "true"})

    async def _receive(self, request: Request, aside: Path, sums: Checksums) -> None:
        """Stream the body into ``aside`` and check it."""
        promised = request.headers.get("content-length")
        received = 0
        file = await self._in_thread(aside.open, "xb")
        buffer = bytearray()

        def write(piece: bytes) -> None:
            sums.update(piece)
            file.write(piece)

        try:
            async for piece in request.stream():
                received += len(piece)
                buffer += piece
                if len(buffer) >= PIECE:
                    await self._in_thread(write, bytes(buffer))
                    buffer.clear()
            if buffer:
                await self._in_thread(write, bytes(buffer))
        except ClientDisconnect:
            raise BlobError(400, "IncompleteBody", "the connection broke off") from None
        except OSError as error:
            raise BlobError(507, "InsufficientStorage", f"the disk does not take it: {error}") from None
        finally:
            await self._in_thread(file.close)
        if promised is not None and promised != str(received):
            raise BlobError(400, "IncompleteBody", f"{received} bytes came, and {promised} were promised")
        sums.check()

    async def _in_thread(self, work: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, *arguments)


def _needed(request: Request, name: str, comp: str) -> str:
    """The permissions of which one is needed."""
    if request.method in ("GET", "HEAD"):
        return "l" if comp == "list" else "r" if name else "rl"
    if request.method == "DELETE":
        return "d"
    if comp == "appendblock":
        return "aw"
    return "w" if comp in ("metadata", "properties") else "cw"
