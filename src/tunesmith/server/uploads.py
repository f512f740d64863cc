"""Files that clients on other machines send: streamed to disk, checked against their hash, then put in place."""

from __future__ import annotations

import hashlib
import os
import secrets
from typing import Annotated

from fastapi import APIRouter, Header, Query, Request
from fastapi.concurrency import run_in_threadpool

from tunesmith.errors import AlreadyExists, InvalidData, NotFound
from tunesmith.records.workspace import UploadedFile
from tunesmith.server.dependencies import ServicesOf
from tunesmith.storage import names
from tunesmith.storage.atomic import aside_path, disk_full_named

router = APIRouter(tags=["uploads"])


@router.post("/uploads", openapi_extra={"requestBody": {"content": {"application/octet-stream": {}}, "required": True}})
async def upload_file(
    request: Request,
    services: ServicesOf,
    path: Annotated[str, Query(description="Where in the upload's folder: `train.jsonl`, `model/config.json`.")],
    upload: Annotated[
        str | None, Query(description="An upload that was begun before; a new one when left out.")
    ] = None,
    x_content_sha256: Annotated[str | None, Header(description="SHA-256 of the body, in hex.")] = None,
) -> UploadedFile:
    """Store the body as one file of an upload; the answer's `path` goes into jobs and registrations.

    Nothing is kept of a body that breaks off or whose hash differs.
    """
    uploads = services.paths.uploads
    if upload is None:
        upload = secrets.token_hex(12)
        (uploads / upload).mkdir(parents=True)
    elif not (uploads / names.PLAIN_NAME.check(upload, "upload")).is_dir():
        raise NotFound(f"there is no upload {upload!r}", target="query.upload")
    root = uploads / upload
    target = names.safe_join(root, path, target="query.path")
    if target == root or target.exists():
        raise AlreadyExists(f"the upload has {path!r} already", target="query.path")
    aside = aside_path(target)
    digest, size = hashlib.sha256(), 0
    with disk_full_named(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with aside.open("xb") as file:
                async for chunk in request.stream():
                    digest.update(chunk)
                    size += len(chunk)
                    await run_in_threadpool(file.write, chunk)
                file.flush()
                await run_in_threadpool(os.fsync, file.fileno())
            found = digest.hexdigest()
            if x_content_sha256 is not None and x_content_sha256.lower() != found:
                raise InvalidData(
                    f"what arrived has the hash {found[:12]}…, sent was {x_content_sha256[:12]}…",
                    target=path,
                    way_out="send it again",
                )
            aside.rename(target)
        finally:
            aside.unlink(missing_ok=True)
    return UploadedFile(upload=upload, root=str(root), path=str(target), sha256=found, size_bytes=size)
