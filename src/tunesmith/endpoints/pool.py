"""Ready instances and the requests that wait for them.

The controller adds and removes instances; the gateway takes a slot on the least busy one and gives it back. A
deployment serves ``max_concurrent_requests_per_instance`` requests on each instance at once; as many again may wait,
in order of arrival, for at most ``max_queue_wait_ms``; the next one is refused at once (429). All of it runs on one
event loop.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from tunesmith.endpoints.routing import DeploymentRoute
from tunesmith.errors import TooManyRequests, Unavailable

Key = tuple[str, str]


@dataclass(slots=True, eq=False)
class Target:
    """One ready instance, as the gateway sees it."""

    key: Key
    instance: str
    url: str
    """Base URL on loopback."""
    secret: str = field(repr=False)
    model: str
    in_flight: int = 0
    open: bool = True
    """False from the moment it is drained or found dead: no new request goes there."""
    idle: asyncio.Event = field(default_factory=asyncio.Event, repr=False)
    """Set while nothing is in flight."""

    def __post_init__(self) -> None:
        self.idle.set()


@dataclass(slots=True, eq=False)
class _Lane:
    targets: list[Target] = field(default_factory=list)
    waiters: deque[asyncio.Future[Target]] = field(default_factory=deque)
    limit: int = 1


class InstancePool:
    """The ready instances of every deployment."""

    def __init__(self) -> None:
        self._lanes: dict[Key, _Lane] = {}

    def add(self, target: Target) -> None:
        """Let requests go to ``target``; those that wait get its slots at once."""
        lane = self._lanes.setdefault(target.key, _Lane())
        if target not in lane.targets:
            target.open = True
            lane.targets.append(target)
        self._serve(lane)

    def remove(self, target: Target) -> None:
        """Let no new request go to ``target``; those in flight go on."""
        target.open = False
        lane = self._lanes.get(target.key)
        if lane and target in lane.targets:
            lane.targets.remove(target)

    def forget(self, key: Key, error: Exception) -> None:
        """The deployment is gone: whoever waits for it gets ``error``."""
        lane = self._lanes.pop(key, None)
        for waiter in lane.waiters if lane else ():
            if not waiter.done():
                waiter.set_exception(error)

    def targets(self, key: Key) -> list[Target]:
        """The instances that take requests now."""
        lane = self._lanes.get(key)
        return list(lane.targets) if lane else []

    def queued(self, key: Key) -> int:
        """How many requests wait."""
        lane = self._lanes.get(key)
        return sum(not waiter.done() for waiter in lane.waiters) if lane else 0

    def in_flight(self, key: Key) -> int:
        """How many requests are with open instances."""
        return sum(target.in_flight for target in self.targets(key))

    def keys(self) -> Iterator[Key]:
        """Every deployment that has, or had, instances or waiters."""
        return iter(list(self._lanes))

    async def acquire(self, route: DeploymentRoute, *, avoid: Target | None = None) -> Target:
        """A slot on the least busy instance of ``route``, waiting for one when all are taken.

        ``avoid`` is an instance that just failed this request; another is taken when there is one. Raises
        ``TooManyRequests`` when the queue is full or the wait too long, ``Unavailable`` when no instance is ready.
        """
        lane = self._lanes.setdefault(route.key, _Lane())
        limit = lane.limit = route.settings.max_concurrent_requests_per_instance
        if not lane.waiters:
            target = self._free(lane, avoid)
            if target is not None:
                return self._take(target)
        room = max(limit * len(lane.targets), route.queue_room)
        wait_s = route.settings.max_queue_wait_ms / 1000
        if not lane.targets and (route.state == "Failed" or route.instance_count == 0):
            raise self._none_ready(route)
        if self.queued(route.key) >= room or wait_s <= 0:
            if not lane.targets:
                raise self._none_ready(route)
            raise self._busy(route, lane, f"{limit * len(lane.targets)} requests are running and {room} wait")
        waiter: asyncio.Future[Target] = asyncio.get_running_loop().create_future()
        lane.waiters.append(waiter)
        try:
            async with asyncio.timeout(wait_s):
                return await waiter
        except TimeoutError:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                return waiter.result()  # the slot came in the very moment the wait ran out
            if not lane.targets:
                raise self._none_ready(route) from None
            waited = f"no slot came free in {route.settings.max_queue_wait_ms} ms"
            raise self._busy(route, lane, waited) from None
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self.release(waiter.result())
            raise
        finally:
            if waiter in lane.waiters:
                lane.waiters.remove(waiter)

    def release(self, target: Target) -> None:
        """Give a slot back; the first that waits gets it."""
        target.in_flight -= 1
        if target.in_flight == 0:
            target.idle.set()
        lane = self._lanes.get(target.key)
        if lane is not None:
            self._serve(lane)

    def _free(self, lane: _Lane, avoid: Target | None = None) -> Target | None:
        best: Target | None = None
        for target in lane.targets:
            if target is avoid and len(lane.targets) > 1:
                continue
            if target.in_flight < lane.limit and (best is None or target.in_flight < best.in_flight):
                best = target
        if best is not None and len(lane.targets) > 1:
            # Instances that are equally busy take turns.
            lane.targets.remove(best)
            lane.targets.append(best)
        return best

    def _take(self, target: Target) -> Target:
        target.in_flight += 1
        target.idle.clear()
        return target

    def _serve(self, lane: _Lane) -> None:
        while lane.waiters:
            waiter = lane.waiters[0]
            if waiter.done():
                lane.waiters.popleft()
                continue
            target = self._free(lane)
            if target is None:
                return
            lane.waiters.popleft()
            waiter.set_result(self._take(target))

    def _busy(self, route: DeploymentRoute, lane: _Lane, why: str) -> TooManyRequests:
        waiting = sum(not waiter.done() for waiter in lane.waiters)
        retry = max(1, min(30, math.ceil(waiting / max(1, lane.limit * len(lane.targets)))))
        return TooManyRequests(
            f"deployment {route.name!r} of endpoint {route.endpoint!r} is busy: {why}",
            way_out="try again after Retry-After, add instances, or raise max_concurrent_requests_per_instance",
            extra={"retry_after": retry},
        )

    def _none_ready(self, route: DeploymentRoute) -> Unavailable:
        cause = f": {route.cause}" if route.cause else ""
        return Unavailable(
            f"no instance of deployment {route.name!r} of endpoint {route.endpoint!r} is ready "
            f"(state {route.state}, {route.instance_count} wanted){cause}",
            way_out="look at its phases and its log, or send the request to another deployment",
            extra={"retry_after": 5},
        )
