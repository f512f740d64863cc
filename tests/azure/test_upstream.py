from __future__ import annotations

import pytest

from tunesmith.azure.upstream import PLAIN_USER, Upstream, excludes
from tunesmith.errors import ValidationFailed


def test_no_proxy_of_the_users_own() -> None:
    found = Upstream.from_environment({"HTTP_PROXY": "http://only-for-plain-http:1", "NO_PROXY": "a"})
    assert found == Upstream()
    assert found.user == PLAIN_USER
    assert not found.serves("pypi.org")


def test_the_users_proxy_travels_in_the_user_name() -> None:
    found = Upstream.from_environment(
        {"HTTPS_PROXY": "http://one:1", "https_proxy": "u:p%40@two:3128", "NO_PROXY": "localhost, .corp.example"}
    )
    assert found == Upstream("http://u:p%40@two:3128", ("localhost", ".corp.example"))
    assert Upstream.from_user(found.user) == found
    assert found.serves("pypi.org")
    assert not found.serves("git.corp.example")


def test_a_proxy_of_another_kind_is_refused_by_its_variable() -> None:
    with pytest.raises(ValidationFailed) as error:
        Upstream.from_environment({"ALL_PROXY": "socks5://h:1"})
    assert error.value.target == "ALL_PROXY"


@pytest.mark.parametrize("url", ["http://", "http://h:port", "h:99999", "h:0"])
def test_a_proxy_without_a_host_or_with_a_port_that_is_none(url: str) -> None:
    with pytest.raises(ValidationFailed, match="no host, or a port") as error:
        Upstream.from_environment({"HTTPS_PROXY": url})
    assert error.value.target == "HTTPS_PROXY"


@pytest.mark.parametrize(("url", "port"), [("http://h", 80), ("https://h", 443), ("http://h:3128", 3128)])
def test_the_port_of_a_proxy_is_that_of_its_scheme(url: str, port: int) -> None:
    assert Upstream(url).port == port


@pytest.mark.parametrize("user", ["x", "e30", "W10", "WzFd", "*"])
def test_a_user_name_that_says_nothing_is_refused(user: str) -> None:
    with pytest.raises(ValidationFailed, match="user name"):
        Upstream.from_user(user)


@pytest.mark.parametrize(
    ("entry", "host", "expected"),
    [
        ("*", "a.example", True),
        ("a.example", "a.example", True),
        ("A.example:443", "a.EXAMPLE", True),
        (".example", "a.example", True),
        ("*.example", "b.a.example", True),
        ("ample", "a.example", False),
        ("10.0.0.0/8", "10.1.2.3", True),
        ("10.0.0.0/8", "11.1.2.3", False),
        ("::1", "[::1]", True),
        ("", "a.example", False),
    ],
)
def test_entries_of_no_proxy(entry: str, host: str, expected: bool) -> None:
    assert excludes(entry, host) is expected
