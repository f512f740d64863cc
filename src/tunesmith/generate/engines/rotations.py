"""Rotary embeddings that are not the same for every position of every conversation."""

from __future__ import annotations

from typing import Any

from tunesmith.errors import InvalidModel


def rotation_switch(config: Any) -> int | None:
    """The length from which a model rotates every position otherwise (longrope); None for fixed rotations.

    ``config`` is transformers'. Raises ``InvalidModel`` for rotations that change with every length.
    """
    parameters = getattr(config, "rope_parameters", None) or {}
    kinds = parameters.values() if all(isinstance(value, dict) for value in parameters.values()) else [parameters]
    switch = None
    for kind in kinds:
        name = kind.get("rope_type", "default")
        if name == "longrope":
            switch = int(kind.get("original_max_position_embeddings") or config.original_max_position_embeddings)
        elif "dynamic" in name:
            raise InvalidModel(
                f"rotary embeddings of type {name} change with a conversation's length, which batches cannot follow",
                way_out="set rope_parameters in config.json to a fixed type, such as yarn",
            )
    return switch
