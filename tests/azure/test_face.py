from __future__ import annotations

import asyncio
import json
import ssl
from pathlib import Path

import httpx

from tests.support.workspace import temporary_workspace
from tunesmith.azure.face import AzureFace
from tunesmith.endpoints.gateway import Gateway
from tunesmith.endpoints.pool import InstancePool
from tunesmith.records.azure import AzureSession
from tunesmith.server.http_protocol import LimitedHttp
from tunesmith.workspace import Services


def new_face(services: Services) -> AzureFace:
    return AzureFace(services, Gateway(services.endpoints, InstancePool()), LimitedHttp)


async def ask(session: AzureSession, url: str) -> httpx.Response:
    """A call with a token, through the proxy."""
    base = f"127.0.0.1:{session.proxy_port}"
    async with httpx.AsyncClient(trust_env=False) as client:
        answer = await client.get(
            f"http://{base}/azure/msi/token?resource=https://management.azure.com",
            headers={"X-IDENTITY-HEADER": session.identity_header},
        )
    trust = ssl.create_default_context(cafile=session.certificate)
    proxy = f"http://tunesmith:{session.proxy_password}@{base}"
    async with httpx.AsyncClient(proxy=proxy, verify=trust, trust_env=False) as client:
        return await client.get(url, headers={"Authorization": f"Bearer {answer.json()['access_token']}"})


async def test_it_opens_when_it_is_asked_for_and_stays_where_it_was(tmp_path: Path) -> None:
    url = (
        "https://management.azure.com/subscriptions/s/resourceGroups/g/providers"
        "/Microsoft.MachineLearningServices/workspaces/w"
    )
    with temporary_workspace(tmp_path / "home") as services:
        unused = new_face(services)
        await unused.resume()
        assert not unused.folder.exists()

        face = new_face(services)
        first, second = await asyncio.gather(face.session(), face.session())
        assert first == second
        assert json.loads((face.folder / "ports.json").read_text()) == [first.proxy_port, first.direct_port]
        assert (face.folder / "ports.json").stat().st_mode & 0o777 == 0o600
        answer = await ask(first, url)
        assert answer.json()["properties"]["workspaceId"] == services.id
        assert (await face.session()).connections == {"azure": 1}
        await face.stop()

        # The next server opens it where kernels and shells look for it.
        again = new_face(services)
        await again.resume()
        after = await again.session()
        assert (after.proxy_port, after.direct_port) == (first.proxy_port, first.direct_port)
        assert (after.proxy_password, after.certificate) == (first.proxy_password, first.certificate)
        assert (await ask(first, url)).status_code == 200
        await again.stop()


async def test_nothing_answers_once_it_is_closed(tmp_path: Path) -> None:
    with temporary_workspace(tmp_path / "home") as services:
        face = new_face(services)
        session = await face.session()
        await face.stop()
        try:
            await ask(session, "https://management.azure.com/")
        except httpx.ConnectError as error:
            assert "refused" in str(error) or "failed" in str(error)
        else:
            raise AssertionError("something answered")
