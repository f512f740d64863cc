"""Other adapters for an instance that goes on serving.

Where nothing of a deployment changed but its adapters, a ready instance is asked to take the new ones. Its engine may
refuse: then the deployment rolls, as for any other change.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import orjson

from tunesmith.endpoints.documents import MADE_OF, SECRET_HEADER, InstanceConfig
from tunesmith.errors import TunesmithError, Unavailable, error_from_dict
from tunesmith.records.endpoints import CreateDeployment

if TYPE_CHECKING:
    import aiohttp

SWAP_SECONDS = 300.0
"""The longest that an instance may take to load its new adapters."""


def only_adapters_differ(config: InstanceConfig, wanted: CreateDeployment) -> bool:
    """Whether an instance made by ``config`` is what ``wanted`` asks for, its adapters aside."""
    return all(getattr(config, made) == getattr(wanted, asked) for asked, made in MADE_OF.items())


async def ask_to_swap(
    session: aiohttp.ClientSession, url: str, secret: str, adapters: Mapping[str, Path]
) -> TunesmithError | None:
    """Ask the instance at ``url`` to serve ``adapters`` and no others; why it did not, or None where it does."""
    import aiohttp

    body = {"adapters": {name: str(folder) for name, folder in adapters.items()}}
    try:
        async with session.post(
            f"{url}/adapters",
            data=orjson.dumps(body),
            headers={SECRET_HEADER: secret},
            timeout=aiohttp.ClientTimeout(total=SWAP_SECONDS),
        ) as response:
            said = await response.read()
            return None if response.status == 200 else error_from_dict(orjson.loads(said)["error"])
    except TimeoutError:
        return Unavailable(f"the instance did not take its adapters within {SWAP_SECONDS:g} s")
    except (aiohttp.ClientError, OSError, ValueError, KeyError) as error:
        return Unavailable(f"the instance could not be asked: {error}")
