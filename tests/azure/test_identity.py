from __future__ import annotations

import base64
import json

import pytest

from tunesmith.azure.identity import TOKEN_SECONDS, AzureKeys
from tunesmith.errors import NotAuthenticated

KEYS = AzureKeys("token", "11111111-2222-3333-4444-555555555555")


def _claims(token: str) -> dict[str, object]:
    part = token.split(".")[1]
    read: dict[str, object] = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    return read


@pytest.mark.parametrize(
    "resource",
    ["https://management.azure.com", "https://ml.azure.com", "https://localhost:4433", "https://ml.azure.local"],
)
def test_a_token_has_the_resource_as_its_audience_and_is_believed(resource: str) -> None:
    made = KEYS.issue(resource)
    claims = KEYS.check(f"Bearer {made.token}")
    assert claims == _claims(made.token)
    assert claims["aud"] == resource
    assert claims["tid"] == KEYS.workspace_id
    assert made.expires_on == claims["exp"] == int(str(claims["iat"])) + TOKEN_SECONDS


def test_tokens_and_secrets_outlive_a_restart_and_differ_between_workspaces() -> None:
    again = AzureKeys("token", KEYS.workspace_id)
    other = AzureKeys("another", KEYS.workspace_id)
    assert again.check(f"Bearer {KEYS.issue('https://ml.azure.com').token}")["aud"] == "https://ml.azure.com"
    assert again.proxy_password == KEYS.proxy_password
    secrets = {KEYS.proxy_password, KEYS.identity_header, other.proxy_password, other.identity_header}
    assert len(secrets) == 4


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (None, "the request has no access token"),
        ("Basic abc", "the request has no access token"),
        ("Bearer abc", "the access token was not made by this workspace"),
        (f"Bearer {AzureKeys('another', 'w').issue('https://ml.azure.com').token}",
         "the access token was not made by this workspace"),
        (f"Bearer {KEYS.issue('https://vault.azure.net').token}", "the access token is for 'https://vault.azure.net'"),
        (f"Bearer {KEYS.issue('https://ml.azure.com', seconds=0).token}", "the access token's time is over"),
    ],
)  # fmt: skip
def test_refusals(header: str | None, message: str) -> None:
    with pytest.raises(NotAuthenticated) as error:
        KEYS.check(header)
    assert error.value.message == message


def test_a_changed_claim_breaks_the_signature() -> None:
    head, body, signature = KEYS.issue("https://ml.azure.com").token.split(".")
    claims = {**_claims(f"{head}.{body}.{signature}"), "exp": 9_999_999_999}
    forged = base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=").decode()
    with pytest.raises(NotAuthenticated, match="not made by this workspace"):
        KEYS.check(f"Bearer {head}.{forged}.{signature}")
