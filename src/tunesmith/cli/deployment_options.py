"""The options of a deployment that several commands share, and the settings they make."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from tunesmith.errors import UserError

if TYPE_CHECKING:
    from tunesmith.records.endpoints import Autoscale, DataCollector

MinInstances = Annotated[
    int | None, typer.Option(help="Autoscale: the fewest instances (1).", show_default=False, min=1)
]
MaxInstances = Annotated[
    int | None, typer.Option(help="Autoscale: the most instances; turns it on.", show_default=False, min=1)
]
TargetQueueLength = Annotated[
    int | None,
    typer.Option(help="Autoscale: requests that may wait for each instance (2).", show_default=False, min=0),
]
CoolDown = Annotated[
    int | None,
    typer.Option(
        "--cool-down-s", help="Autoscale: seconds that fewer must have sufficed (300).", show_default=False, min=0
    ),
]
SamplingRate = Annotated[
    float | None,
    typer.Option(
        help="Keep this share of the conversations, redacted; 0 keeps none.", show_default=False, min=0.0, max=1.0
    ),
]
Redact = Annotated[
    str | None,
    typer.Option(
        help="What is taken out of them: email, phone, number with commas (all), or none.", show_default=False
    ),
]
RedactPattern = Annotated[
    list[str],
    typer.Option(help="A regular expression to take out as well; may be repeated.", show_default=False),
]


def scaling(
    min_instances: int | None,
    max_instances: int | None,
    target_queue_length: int | None,
    cool_down_s: int | None,
    known: Autoscale | None = None,
) -> dict[str, int] | None:
    """The settings of ``autoscale`` over those that are there; None where nothing was given."""
    values = {
        "min_instances": min_instances,
        "max_instances": max_instances,
        "target_queue_length": target_queue_length,
        "cool_down_s": cool_down_s,
    }
    given = {name: value for name, value in values.items() if value is not None}
    if not given:
        return None
    if known is None and max_instances is None:
        raise UserError(
            f"--{next(iter(given)).replace('_', '-')} needs --max-instances, which turns autoscale on",
            target="--max-instances",
        )
    return {**(known.model_dump() if known else {}), **given}


def collecting(
    sampling_rate: float | None, redact: str | None, patterns: list[str], known: DataCollector | None = None
) -> dict[str, Any] | None:
    """The settings of the data collector over those that are there; None where nothing was given."""
    if sampling_rate is None and redact is None and not patterns:
        return None
    if sampling_rate is None and (known is None or not known.enabled):
        raise UserError(
            "what is taken out of conversations needs --sampling-rate, which keeps them", target="--sampling-rate"
        )
    settings: dict[str, Any] = known.model_dump() if known else {}
    if sampling_rate is not None:
        settings |= {"enabled": sampling_rate > 0, "sampling_rate": sampling_rate}
    if redact is not None:
        kinds = [kind.strip() for kind in redact.split(",") if kind.strip()]
        settings["redact"] = [] if kinds == ["none"] else kinds
    if patterns:
        settings["redact_patterns"] = patterns
    return settings
