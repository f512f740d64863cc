"""How many instances the load asks for: a rule over what the gateway sees, and its memory.

It knows no instances and starts nothing. The rule: as many instances as leave no more than ``target_queue_length``
requests waiting for each. Upwards it holds at once; downwards it holds once fewer instances have sufficed for the
whole of ``cool_down_s``, and then no lower than what was needed in that time.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

from tunesmith.records.endpoints import Autoscale


@dataclass(frozen=True, slots=True)
class Load:
    """What the gateway sees of one deployment."""

    in_flight: int
    """Requests that run."""
    queued: int
    """Requests that wait for a slot."""
    slots: int
    """Requests that one instance runs at once."""


@dataclass(frozen=True, slots=True)
class Decision:
    """Another number of instances, and why."""

    count: int
    reason: str


def needed(limits: Autoscale, load: Load) -> int:
    """The fewest instances that keep the queue short enough, within the limits."""
    each = load.slots + limits.target_queue_length
    return min(max(math.ceil((load.in_flight + load.queued) / each), limits.min_instances), limits.max_instances)


class Autoscaler:
    """Decides for one deployment. ``now`` is seconds of any clock that only goes forward."""

    def __init__(self, now: float) -> None:
        self._quiet_since = now
        # What was needed, newest last, each above all that follow: the first is the most within the cool-down.
        self._peaks: deque[tuple[float, int]] = deque()

    def decide(self, limits: Autoscale, count: int, load: Load, now: float) -> Decision | None:
        """Another number than ``count``, or None to leave it."""
        wanted = needed(limits, load)
        while self._peaks and self._peaks[-1][1] <= wanted:
            self._peaks.pop()
        self._peaks.append((now, wanted))
        while self._peaks[0][0] < now - limits.cool_down_s:
            self._peaks.popleft()
        if wanted > count:
            self._quiet_since = now
            return Decision(
                wanted,
                f"{load.queued} requests wait and {load.in_flight} run; at most {limits.target_queue_length} "
                f"are to wait for each instance",
            )
        most = self._peaks[0][1]
        if most >= count:
            return None
        if now - self._quiet_since < limits.cool_down_s:
            return None
        self._quiet_since = now
        return Decision(most, f"{most} sufficed for {limits.cool_down_s} s")
