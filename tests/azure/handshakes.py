"""TLS handshakes in memory."""

from __future__ import annotations

import ssl
from pathlib import Path


def handshake(server: ssl.SSLContext, authority: Path, host: str) -> str:
    """What a client that trusts the file or folder ``authority`` finds: the certificate's names, or its complaint."""
    if authority.is_dir():
        client = ssl.create_default_context(capath=str(authority))
    else:
        client = ssl.create_default_context(cafile=str(authority))
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    near = client.wrap_bio(to_client, to_server, server_hostname=host)
    far = server.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(6):
        for side in (near, far):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLCertVerificationError as error:
                return error.verify_message
    found = near.getpeercert()
    assert found is not None
    return ",".join(str(entry[1]) for entry in found["subjectAltName"])
