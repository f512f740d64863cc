"""Names, sessions and one-time links, without a server."""

from __future__ import annotations

import pytest

from tunesmith.errors import NotAuthenticated
from tunesmith.server.auth import HostRule, Sessions


@pytest.mark.parametrize("host", ["localhost", "localhost:8787", "127.0.0.1:1", "[::1]:8787", "127.9.9.9", "LOCALHOST"])
def test_loopback_is_called_by_its_own_names(host: str) -> None:
    assert HostRule.of("127.0.0.1").admits(host)


@pytest.mark.parametrize(
    "host",
    [
        "",
        "evil.example",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "10.0.0.7",
        "user@localhost.evil.example",
        "[::1].evil.example",
        "0.0.0.0",
        "[::",
    ],
)
def test_loopback_is_not_called_by_other_names(host: str) -> None:
    assert not HostRule.of("127.0.0.1").admits(host)


def test_a_server_beyond_loopback_takes_literal_addresses_and_the_names_it_was_given() -> None:
    rule = HostRule.of("0.0.0.0", ["tunes.example"])
    assert all(rule.admits(host) for host in ("10.0.0.7:80", "[fe80::1]:80", "tunes.example:443", "Tunes.Example"))
    assert not any(rule.admits(host) for host in ("evil.example", "tunes.example.evil.example"))


def test_a_link_opens_one_session_once() -> None:
    sessions = Sessions("token", "0123456789")
    code = sessions.new_link()
    value = sessions.open(code)
    assert sessions.admits(value)
    with pytest.raises(NotAuthenticated):
        sessions.open(code)
    with pytest.raises(NotAuthenticated):
        sessions.open("ä")


def test_sessions_outlive_the_server_but_not_its_token() -> None:
    before, after = Sessions("token", "0123456789"), Sessions("token", "0123456789")
    value = before.open(before.new_link())
    assert after.admits(value)
    assert not Sessions("another", "0123456789").admits(value)


def test_a_forged_or_old_session_is_refused() -> None:
    sessions = Sessions("token", "0123456789")
    value = sessions.open(sessions.new_link())
    until, nonce, signature = value.split(".")
    assert not sessions.admits(f"{int(until) + 1}.{nonce}.{signature}")
    old = f"1.{nonce}"
    assert not sessions.admits(f"{old}.{sessions._sign(old)}")
    assert not any(sessions.admits(text) for text in ("", ".", "..", "a.b.ü", value + "0"))


def test_two_workspaces_on_one_machine_do_not_share_a_cookie() -> None:
    assert Sessions("a", "11111111-x").cookie != Sessions("a", "22222222-x").cookie
