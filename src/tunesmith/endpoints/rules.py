"""What Azure ML asks of names, traffic, mirrored traffic and scaling.

Pure functions: they return the faults they find and know nothing of databases or processes. The limits are those of
managed online endpoints: a name of 3 to 32 characters, traffic in whole percent that sums to 0 or 100, at most one
mirror of at most 50 %.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterator, Mapping

from tunesmith.errors import Fault
from tunesmith.records.endpoints import Autoscale

NAME = re.compile(r"[a-zA-Z]([-a-zA-Z0-9]*[a-zA-Z0-9])?")
"""The rule for endpoints and deployments; the length is checked apart."""

ADAPTER_NAME = re.compile(r"[a-zA-Z0-9][-._a-zA-Z0-9]{0,63}")

MAX_DEPLOYMENTS = 20
"""Deployments behind one endpoint."""
MAX_MIRROR_PERCENT = 50


def name_faults(name: str, field: str = "name") -> Iterator[Fault]:
    """Faults of a name: 3 to 32 letters, digits and hyphens, a letter first, no hyphen last."""
    if not 3 <= len(name) <= 32:
        yield Fault(f"{name[:40]!r} has {len(name)} characters; a name has 3 to 32", target=field, code="InvalidName")
    if not NAME.fullmatch(name):
        yield Fault(
            f"{name[:40]!r} is not a name",
            target=field,
            code="InvalidName",
            way_out="letters, digits and hyphens; start with a letter, end with a letter or a digit",
        )


def traffic_faults(traffic: Mapping[str, int], deployments: Collection[str], field: str = "traffic") -> Iterator[Fault]:
    """Faults of a traffic split over ``deployments``: known names, whole percents, a sum of 0 or 100."""
    yield from _unknown(traffic, deployments, field)
    for name, percent in traffic.items():
        if not 0 <= percent <= 100:
            yield Fault(f"{percent} is not between 0 and 100", target=f"{field}.{name}", code="InvalidTraffic")
    total = sum(traffic.values())
    if total not in (0, 100):
        shares = ", ".join(f"{name} {percent}" for name, percent in traffic.items())
        yield Fault(
            f"the shares sum to {total} ({shares}); they must sum to 0 or 100", target=field, code="InvalidTraffic"
        )


def mirror_faults(
    mirror: Mapping[str, int], deployments: Collection[str], field: str = "mirror_traffic"
) -> Iterator[Fault]:
    """Faults of mirrored traffic: at most one deployment, at most 50 %."""
    yield from _unknown(mirror, deployments, field)
    if len([name for name, percent in mirror.items() if percent]) > 1:
        yield Fault(
            f"traffic is mirrored to one deployment at most, not to {', '.join(mirror)}",
            target=field,
            code="InvalidTraffic",
        )
    for name, percent in mirror.items():
        if not 0 <= percent <= MAX_MIRROR_PERCENT:
            yield Fault(
                f"{percent} is not between 0 and {MAX_MIRROR_PERCENT}", target=f"{field}.{name}", code="InvalidTraffic"
            )


def autoscale_faults(limits: Autoscale, instance_count: int | None, field: str = "autoscale") -> Iterator[Fault]:
    """Faults of scaling limits, and of an instance count that was asked for beside them."""
    if limits.min_instances > limits.max_instances:
        yield Fault(
            f"min_instances {limits.min_instances} is above max_instances {limits.max_instances}",
            target=f"{field}.min_instances",
            code="InvalidScaleSettings",
        )
    elif instance_count is not None and not limits.min_instances <= instance_count <= limits.max_instances:
        yield Fault(
            f"{instance_count} is not between {field}.min_instances {limits.min_instances} and "
            f"{field}.max_instances {limits.max_instances}",
            target="instance_count",
            code="InvalidScaleSettings",
            way_out="leave instance_count out: the load decides",
        )


def adapter_faults(names: Collection[str], taken: Mapping[str, str], field: str = "adapters") -> Iterator[Fault]:
    """Faults of the names that adapters are called by; ``taken`` has the names that mean something else already."""
    for name in names:
        if not ADAPTER_NAME.fullmatch(name):
            yield Fault(
                f"{name[:70]!r} is not a name for an adapter",
                target=f"{field}.{name[:70]}",
                code="InvalidName",
                way_out="1 to 64 letters, digits, dots, hyphens and underscores; start with a letter or a digit",
            )
        elif name in taken:
            yield Fault(f"{name!r} is the name of {taken[name]}", target=f"{field}.{name}", code="NameTaken")


def whole_split(traffic: Mapping[str, int], names: Collection[str]) -> dict[str, int]:
    """A split that names every deployment, so that a reader sees the zeros."""
    return {**traffic, **{name: 0 for name in sorted(names) if name not in traffic}}


def _unknown(shares: Mapping[str, int], deployments: Collection[str], field: str) -> Iterator[Fault]:
    for name in shares:
        if name not in deployments:
            close = difflib.get_close_matches(name, deployments, n=1)
            known = ", ".join(sorted(deployments)) or "none yet"
            yield Fault(
                f"there is no deployment {name!r} behind this endpoint (there are: {known})",
                target=f"{field}.{name}",
                code="UnknownDeployment",
                way_out=f"did you mean {close[0]!r}?" if close else "create the deployment first, then give it traffic",
            )
