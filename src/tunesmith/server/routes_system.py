"""The server itself: health, status, doctor, shutdown, and the way in for browsers."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import RedirectResponse, Response

from tunesmith._version import __version__
from tunesmith.records.base import Request as RequestRecord
from tunesmith.records.jobs import Job, JobStatus
from tunesmith.records.workspace import Doctor, Health, LoginLink, WorkspaceInfo
from tunesmith.server.auth import SESSION_SECONDS, Sessions
from tunesmith.server.dependencies import LifecycleOf, ServicesOf

router = APIRouter(tags=["workspace"])
public = APIRouter(tags=["workspace"])


class Shutdown(RequestRecord):
    """How to stop."""

    everything: bool = False
    """Also cancel the jobs that run, and end the instances of the deployments."""


@public.get("/healthz")
async def health(services: ServicesOf, lifecycle: LifecycleOf) -> Health:
    """Whether the server is ready. Needs no token."""
    stopping = lifecycle.stopping.is_set()
    return Health(status="stopping" if stopping else "ready", version=__version__, workspace_id=services.id)


@public.get("/login", include_in_schema=False)
async def login(request: Request, code: Annotated[str, Query()], to: Annotated[str, Query()] = "/") -> Response:
    """Open a browser session from a one-time link, and go on to a page of this server."""
    sessions: Sessions = request.app.state.sessions
    value = sessions.open(code)
    # Only a path of this server: `//elsewhere` and `/\elsewhere` would lead a browser away.
    local = to.startswith("/") and not to.startswith(("//", "/\\"))
    response = RedirectResponse(to if local else "/", status_code=303)
    response.set_cookie(
        sessions.cookie,
        value,
        max_age=SESSION_SECONDS,
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )
    response.headers["cache-control"] = "no-store"
    return response


@router.get("/workspace")
def get_workspace(services: ServicesOf, lifecycle: LifecycleOf) -> WorkspaceInfo:
    """The workspace and its server."""
    import psutil

    return WorkspaceInfo(
        id=services.id,
        name=services.name,
        home=str(services.paths.home),
        version=__version__,
        url=lifecycle.url,
        mlflow_url=f"{lifecycle.url}/mlflow/",
        docs_url=f"{lifecycle.url}/docs",
        pid=lifecycle.pid,
        created_at=services.created_at,
        started_at=lifecycle.started_at,
        memory_bytes=psutil.Process().memory_info().rss,
        jobs_running=len(_unfinished(services)),
        endpoints=len(services.endpoints.list()),
    )


@router.get("/doctor")
async def doctor(services: ServicesOf) -> Doctor:
    """What the machine has, which optional parts are there, and what is missing."""
    from tunesmith.compute.doctor import examine

    return await run_in_threadpool(examine, services.paths.home)


@router.post("/login-links", status_code=201)
async def new_login_link(request: Request, lifecycle: LifecycleOf) -> LoginLink:
    """A link that opens MLflow and the other pages in a browser: for one use, within ten minutes."""
    sessions: Sessions = request.app.state.sessions
    return LoginLink(url=f"{lifecycle.url}/login?code={sessions.new_link()}")


@router.post("/shutdown", status_code=202)
async def shutdown(services: ServicesOf, lifecycle: LifecycleOf, request: Shutdown | None = None) -> Health:
    """Stop the server. Jobs and the instances of deployments go on, unless `everything` is asked for."""
    if request is not None and request.everything:
        lifecycle.end_instances = True
        for job in await run_in_threadpool(_unfinished, services):
            await run_in_threadpool(services.jobs.cancel, job.name)
    # The answer goes out first.
    asyncio.get_running_loop().call_later(0.05, lifecycle.stop)
    return Health(status="stopping", version=__version__, workspace_id=services.id)


def _unfinished(services: Any) -> list[Job]:
    """The jobs that have not ended; those that have may be many thousands, and are not read."""
    return [job for status in JobStatus if not status.terminal for job in services.jobs.list(status=status)]
