"""A house whose endpoint ``chat`` is served by a scripted instance (see ``backend``), for tests of the faces."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.backend import Backend
from tests.support.house import House
from tunesmith.records.endpoints import CreateDeployment, CreateEndpoint, RequestSettings, UpdateEndpoint


@contextmanager
def scripted_house(home: Path) -> Iterator[tuple[House, Backend]]:
    """The running house and the instance behind ``chat``; deployment ``blue`` has all the traffic."""
    model = home / "model"
    model.mkdir(parents=True)
    house = House(home / "house", {"m": model}, controller=False).start()
    house.service.create_or_update(CreateEndpoint(name="chat"))
    settings = RequestSettings(request_timeout_ms=5000, max_concurrent_requests_per_instance=64)
    house.service.create_or_update_deployment(
        CreateDeployment(name="blue", endpoint="chat", model="m", request_settings=settings)
    )
    house.service.update("chat", UpdateEndpoint(traffic={"blue": 100}))
    backend = house.run(Backend().start())

    async def stand() -> None:
        house.pool.add(backend.target("chat", "blue"))

    house.run(stand())
    try:
        yield house, backend
    finally:
        house.run(backend.stop())
        house.stop()
