"""The locks, the errors and the pages of a running server."""

from __future__ import annotations

import json
import re
import socket
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from tests.support.server import RunningServer


def bare(server: RunningServer, **how: Any) -> httpx.Client:
    return httpx.Client(base_url=server.url, trust_env=False, timeout=30, **how)


def error_of(response: httpx.Response) -> dict[str, Any]:
    body: dict[str, Any] = response.json()["error"]
    return body


def test_health_needs_no_token(server: RunningServer) -> None:
    with bare(server) as client:
        answer = client.get("/healthz")
    assert answer.status_code == 200
    assert answer.json()["status"] == "ready"
    assert answer.json()["workspace_id"] == json.loads((server.home / "workspace.json").read_text())["id"]


GUARDED = ["/api/v1/workspace", "/api/v1/nothing", "/mlflow/", "/mlflow", "/api/v1/uploads"]


@pytest.mark.parametrize("path", GUARDED)
@pytest.mark.parametrize(
    "token", [None, "", "Bearer", "Bearer wrong", "Basic {token}", "{token}", "Bearer {token}x", "Bearer ü"]
)
def test_without_the_token_nothing_opens(server: RunningServer, path: str, token: str | None) -> None:
    headers = {} if token is None else {"authorization": token.format(token=server.token).encode("latin-1")}
    with bare(server, headers=headers) as client:
        answer = client.get(path)
    assert answer.status_code == 401
    assert error_of(answer)["code"] == "Unauthorized"
    assert answer.headers["www-authenticate"] == "Bearer"
    assert server.token not in answer.text


@pytest.mark.parametrize("path", ["/healthz", "/api/v1/workspace", "/docs", "/endpoints/x/score"])
@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example:80", "10.0.0.1"])
def test_a_foreign_host_is_refused_everywhere(server: RunningServer, path: str, host: str) -> None:
    with bare(server, headers={"authorization": f"Bearer {server.token}", "host": host}) as client:
        answer = client.get(path)
    assert answer.status_code == 403
    assert error_of(answer)["target"] == "Host"


def test_a_request_without_host_or_with_two_is_refused(server: RunningServer) -> None:
    where = urlsplit(server.url)
    for hosts in (b"", b"Host: localhost\r\nHost: evil.example\r\n"):
        with socket.create_connection((where.hostname, where.port), timeout=10) as raw:
            raw.sendall(b"GET /healthz HTTP/1.0\r\n" + hosts + b"\r\n")
            status = raw.recv(4096).split(b" ", 2)[1]
        assert status in {b"400", b"403"}


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:1", "file://", "http://["])
def test_pages_of_other_origins_are_refused(server: RunningServer, origin: str) -> None:
    with bare(server, headers={"authorization": f"Bearer {server.token}", "origin": origin}) as client:
        answer = client.get("/api/v1/workspace")
    assert answer.status_code == 403
    assert error_of(answer)["target"] == "Origin"
    assert "access-control-allow-origin" not in answer.headers


def test_its_own_pages_may_ask(server: RunningServer) -> None:
    with bare(server, headers={"authorization": f"Bearer {server.token}", "origin": server.url}) as client:
        assert client.get("/api/v1/workspace").status_code == 200


def test_a_one_time_link_opens_a_browser_session(server: RunningServer, http: httpx.Client) -> None:
    link = http.post("/api/v1/login-links").json()["url"]
    with bare(server) as browser:
        answer = browser.get(link)
        assert (answer.status_code, answer.headers["location"]) == (303, "/")
        cookie = answer.headers["set-cookie"]
        assert "HttpOnly" in cookie and "SameSite=strict" in cookie
        assert server.token not in cookie
        assert browser.get("/api/v1/workspace").status_code == 200
        again = httpx.get(link, trust_env=False)
        assert again.status_code == 401 and "used already" in error_of(again)["message"]
        evil = browser.post("/api/v1/shutdown", headers={"origin": "http://evil.example"})
        assert evil.status_code == 403


@pytest.mark.parametrize("to", ["https://evil.example", "//evil.example", "/\\evil.example", "evil"])
def test_a_link_leads_to_no_other_place(server: RunningServer, http: httpx.Client, to: str) -> None:
    link = http.post("/api/v1/login-links").json()["url"]
    assert httpx.get(link, params={"code": link.split("=")[1], "to": to}, trust_env=False).headers["location"] == "/"


def test_unknown_paths_and_methods_are_errors_of_ours(http: httpx.Client) -> None:
    missing = http.get("/api/v1/nothing")
    assert (missing.status_code, error_of(missing)["code"]) == (404, "ResourceNotFound")
    wrong = http.post("/api/v1/workspace")
    assert wrong.status_code == 405 and wrong.headers["allow"] == "GET"
    assert "GET" in error_of(wrong)["message"]


def test_unknown_query_parameters_say_what_was_meant(http: httpx.Client) -> None:
    answer = http.get("/api/v1/jobs", params={"experiment": "x", "limt": 3})
    assert answer.status_code == 400
    faults = {fault["target"]: fault for fault in error_of(answer)["details"]}
    assert faults["query.experiment"]["way_out"] == "did you mean 'experiment_name'?"
    assert faults["query.limt"]["way_out"] == "did you mean 'limit'?"


def test_faulty_bodies_name_every_field(http: httpx.Client) -> None:
    answer = http.put("/api/v1/endpoints/chat", json={"name": "chat", "descripton": "x", "traffic": {"blue": "all"}})
    assert answer.status_code == 400
    faults = {fault["target"]: fault for fault in error_of(answer)["details"]}
    assert set(faults) == {"descripton", "traffic.blue"}
    assert faults["descripton"]["way_out"] == "did you mean 'description'?"


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"{", "application/json"),
        (b"\xff\xfe", "application/json"),
        (b"[]", "application/json"),
        (b"null", "application/json"),
        (b"", "application/json"),
        (b"{}", "text/plain"),
        (b'{"name": NaN}', "application/json"),
        (b"[" * 100_000, "application/json"),
    ],
)
def test_bodies_that_are_no_json_object_are_refused(http: httpx.Client, body: bytes, kind: str) -> None:
    answer = http.put("/api/v1/endpoints/chat", content=body, headers={"content-type": kind})
    assert answer.status_code == 400
    assert error_of(answer)["code"] == "ValidationFailed"


def test_a_body_that_is_too_large_is_cut_off(http: httpx.Client) -> None:
    def endless() -> Any:
        for _ in range(50):
            yield b"x" * 1_000_000

    try:
        answer = http.put("/api/v1/endpoints/chat", content=endless(), headers={"content-type": "application/json"})
    except httpx.WriteError:
        return  # the server closed before everything was sent
    assert answer.status_code == 413
    assert error_of(answer)["code"] == "TooLarge"


def test_every_answer_has_a_request_id(http: httpx.Client) -> None:
    assert http.get("/healthz", headers={"x-request-id": "mine-1"}).headers["x-request-id"] == "mine-1"
    made = http.get("/healthz", headers={"x-request-id": "no\tgood"}).headers["x-request-id"]
    assert re.fullmatch(r"[0-9a-f]{32}", made)


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_the_pages_load_nothing_from_elsewhere(server: RunningServer, path: str) -> None:
    page = httpx.get(server.url + path, trust_env=False)
    assert page.status_code == 200
    assert "https://" not in page.text and "http://" not in page.text and "src=" not in page.text
    assert "default-src 'none'" in page.headers["content-security-policy"]


def test_the_document_describes_the_api(http: httpx.Client) -> None:
    document = http.get("/openapi.json").json()
    assert document["openapi"].startswith("3.")
    assert "/api/v1/jobs/{name}/events" in document["paths"]
    assert document["paths"]["/api/v1/jobs"]["get"]["security"] == [{"workspace": []}]
    fields = document["components"]["schemas"]["CreateDeployment"]["properties"]
    assert fields["model"]["description"] == "Reference of a model version."
    operations = [op["operationId"] for methods in document["paths"].values() for op in methods.values()]
    assert len(operations) == len(set(operations))
