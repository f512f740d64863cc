"""A scripted house for the module."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.support.backend import Backend
from tests.support.house import House
from tests.support.scripted import scripted_house


@pytest.fixture(scope="module")
def scripted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[House, Backend]]:
    with scripted_house(tmp_path_factory.mktemp("scripted")) as made:
        yield made


@pytest.fixture
def house(scripted: tuple[House, Backend]) -> House:
    return scripted[0]


@pytest.fixture
def backend(scripted: tuple[House, Backend]) -> Backend:
    scripted[1].requests.clear()
    return scripted[1]


@pytest.fixture
def client(house: House) -> Iterator[httpx.Client]:
    with house.client("chat") as opened:
        yield opened
