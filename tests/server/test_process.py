"""The process: its lock, its port, its files, its end."""

from __future__ import annotations

import http.client
import json
import socket
import stat
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import httpx
import psutil
import pytest

from tests.support.server import running_server, start_server
from tunesmith.client.discovery import find_server
from tunesmith.server.http_protocol import HEAD_BYTES

READ = ("workspace", "registries/azureml/models", "registries/azureml/components", "doctor", "jobs", "endpoints")


def run(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tunesmith.server", "--workspace", str(home), *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_one_server_a_workspace_from_its_start_to_a_kill_and_after(tmp_path: Path) -> None:
    home = tmp_path / "home"
    server = start_server(home)
    address = json.loads((home / "server.json").read_text())
    assert address["pid"] == server.process.pid
    assert address["process_started"] == psutil.Process(server.process.pid).create_time()
    for name in ("server.json", "server.lock", "server.port", "token", "logs/server.log"):
        assert stat.S_IMODE((home / name).stat().st_mode) == 0o600, name

    second = run(home)
    assert second.returncode == 2
    assert server.url in second.stderr and str(server.process.pid) in second.stderr
    assert "tunesmith down" in second.stderr
    assert find_server(home) is not None, "the first one is as it was"

    server.kill()
    assert (home / "server.json").exists(), "a kill leaves it behind"
    assert find_server(home) is None, "and nobody believes it"

    command = [sys.executable, "-m", "tunesmith.server", "--workspace", str(home)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as after:
        assert after.stdout is not None
        assert server.url in after.stdout.readline(), "the next one takes the same port"
        after.terminate()
        assert after.wait(60) == 0
    assert not (home / "server.json").exists()
    assert find_server(home) is None
    assert "Traceback" not in (home / "logs" / "server.log").read_text() + server.output.read_text()


def test_a_port_in_use_is_an_error_with_a_way_out(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run(tmp_path / "home", "--port", str(port))
    assert done.returncode == 2
    assert f"port {port} of 127.0.0.1 is in use by process" in done.stderr and "--port" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "home" / "server.json").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--host", "0.0.0.0"], "--allow-remote"),
        (["--host", "::"], "unencrypted"),
        (["--host", "no.such.name.invalid", "--allow-remote"], "not an address"),
        (["--tls-certificate", "x.pem"], "a certificate needs its key"),
        (["--port", "70000"], "port"),
    ],
)
def test_an_unsafe_or_wrong_address_is_refused(tmp_path: Path, arguments: list[str], words: str) -> None:
    done = run(tmp_path / "home", *arguments)
    assert done.returncode == 2
    assert words in done.stderr and "Traceback" not in done.stderr


def test_beyond_loopback_when_told_so(tmp_path: Path) -> None:
    with running_server(tmp_path / "home", "--host", "0.0.0.0", "--allow-remote") as server:
        assert server.url.startswith("http://127.0.0.1:")
        headers = {"host": "evil.example"}
        assert httpx.get(f"{server.url}/healthz", headers=headers, trust_env=False).status_code == 403
        assert httpx.get(f"{server.url}/healthz", headers={"host": "10.1.2.3"}, trust_env=False).status_code == 200
        with server.http as http:
            answer = http.post("/api/v1/shutdown")
        assert (answer.status_code, answer.json()["status"]) == (202, "stopping"), "it answers before it ends"
        assert server.process.wait(60) == 0


def test_it_imports_no_heavy_package(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    command = [sys.executable, "-X", "importtime", "-m", "tunesmith.server", "--workspace", str(home), "--port", "0"]
    with (tmp_path / "said").open("w+") as said:
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=said, text=True) as process:
            assert process.stdout is not None
            assert "Serving" in process.stdout.readline()
            address = find_server(home)
            assert address is not None
            headers = {"authorization": f"Bearer {(home / 'token').read_text().strip()}"}
            with httpx.Client(base_url=address.url, headers=headers, trust_env=False, timeout=30) as http:
                answers = [http.get(f"/api/v1/{path}").status_code for path in READ]
            process.terminate()
        said.seek(0)
        loaded = {line.rpartition("|")[2].strip().partition(".")[0] for line in said if line.startswith("import time:")}
    assert answers == [200] * len(READ)
    assert loaded & {"torch", "transformers", "mlflow", "peft", "aiohttp", "httpx"} == set()


def test_tls_with_a_certificate_of_its_own(tmp_path: Path) -> None:
    certificate, key = self_signed(tmp_path)
    arguments = ("--tls-certificate", str(certificate), "--tls-key", str(key))
    server = start_server(tmp_path / "home", *arguments)
    try:
        assert server.url.startswith("https://")
        from tunesmith import Workspace

        with Workspace(tmp_path / "home", start=False) as ws:
            assert ws.status().url == server.url
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{server.url}/healthz", trust_env=False)
    finally:
        server.stop()


def self_signed(folder: Path) -> tuple[Path, Path]:
    """A certificate for a name that is not the address, and its key."""
    import datetime

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "tunes.example")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("tunes.example")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "key.pem").write_bytes(private)
    return folder / "cert.pem", folder / "key.pem"


def test_a_head_without_an_end_is_refused_at_its_limit(tmp_path: Path) -> None:
    with running_server(tmp_path / "home") as server:
        port = int(server.url.rsplit(":", 1)[1])
        with socket.create_connection(("127.0.0.1", port), timeout=20) as raw:
            raw.sendall(b"GET /healthz HTTP/1.1\r\nhost: 127.0.0.1\r\nx-endless: " + b"x" * HEAD_BYTES)
            with suppress(ConnectionResetError):  # it closes with some of the head still on its way
                assert raw.recv(4096).startswith(b"HTTP/1.1 400 ")
                assert raw.recv(4096) == b""
        with socket.create_connection(("127.0.0.1", port), timeout=20) as raw:
            for _ in range(3):  # a connection that is kept begins to count anew with each request
                raw.sendall(b"GET /healthz HTTP/1.1\r\nhost: 127.0.0.1\r\nx: " + b"x" * 30_000 + b"\r\n\r\n")
                answer = http.client.HTTPResponse(raw)
                answer.begin()
                assert answer.status == 200
                assert b'"ready"' in answer.read()
