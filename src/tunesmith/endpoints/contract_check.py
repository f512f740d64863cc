"""The last check before an instance takes traffic: does it say what the model said when it was evaluated?

Two parts. The package's probe conversations must give the recorded token ids. And where evaluation recorded greedy
answers (``greedy_probes.json``), the engine must give them again: token for token in the same engine in fp32. In a
shorter precision near ties may fall otherwise (with the number of threads, or between engines), so there the answers
must begin alike, and how much agrees is said.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.chat.messages import Message
from tunesmith.errors import DeploymentFailed, InvalidModel
from tunesmith.generate.types import Engine, GenerateRequest, collect

GREEDY_PROBES_FILE = "greedy_probes.json"
EXACT = "32"
"""The precision in which one engine gives the same tokens again, whatever the number of threads."""


@dataclass(frozen=True, slots=True)
class GreedyProbe:
    """One answer that evaluation recorded with temperature 0 (``evaluate.probes`` writes them)."""

    request: GenerateRequest
    token_ids: tuple[int, ...]
    engine: str
    precision: str
    prompt_ids: tuple[int, ...] | None = None

    @classmethod
    def from_dict(cls, body: Mapping[str, Any]) -> GreedyProbe:
        """Read one entry of the file."""
        ids = tuple(int(token) for token in body["token_ids"])
        messages = tuple(Message.from_openai(message) for message in body["messages"])
        prompt = body.get("prompt_ids")
        return cls(
            GenerateRequest(messages, temperature=0, max_tokens=max(1, len(ids))),
            ids,
            str(body.get("engine", "")),
            str(body.get("precision", "")),
            None if prompt is None else tuple(int(token) for token in prompt),
        )


def find_greedy_probes(*places: Path | None) -> list[GreedyProbe]:
    """The recorded answers in the first of ``places`` (files, or folders with the file) that has some; none otherwise.

    Raises ``InvalidModel`` for a faulty file.
    """
    for place in places:
        path = place / GREEDY_PROBES_FILE if place is not None and place.is_dir() else place
        if path is None or not path.is_file():
            continue
        try:
            return [GreedyProbe.from_dict(entry) for entry in json.loads(path.read_text("utf-8"))]
        except (ValueError, KeyError, TypeError) as error:
            raise InvalidModel(f"the recorded answers cannot be read: {error!r}", target=str(path)) from None
    return []


async def check_greedy(engine: Engine, probes: list[GreedyProbe]) -> list[str]:
    """Compare the engine's greedy answers with the recorded ones; what to say about it.

    Raises ``DeploymentFailed`` when a question becomes other ids, when an answer differs in the same engine in fp32, or
    when not one answer even begins as recorded.
    """
    if not probes:
        return []
    here = engine.description
    agreed: list[float] = []
    exact = 0
    for probe in probes:
        if (
            probe.prompt_ids is not None
            and tuple(engine.tokenizer.encode_prompt(probe.request.messages)) != probe.prompt_ids
        ):
            raise DeploymentFailed(
                "a recorded question does not become the token ids that evaluation saw",
                target=GREEDY_PROBES_FILE,
                way_out="the package's chat template or tokenizer changed: register the model again",
            )
        result = await collect(engine.generate(probe.request))
        given = result.choices[0].token_ids
        shared = _common_prefix(given, probe.token_ids)
        same = shared == len(probe.token_ids)
        exact += same
        agreed.append(shared / max(1, len(probe.token_ids)))
        if not same and probe.precision == here.precision == EXACT and probe.engine == here.engine:
            raise DeploymentFailed(
                f"the model does not give the answer that evaluation recorded: token {shared + 1} of "
                f"{len(probe.token_ids)} differs, in the same engine ({here.engine}) and precision ({here.precision})",
                target=GREEDY_PROBES_FILE,
                way_out="the package's weights or adapter are not those that were evaluated: register the model again",
            )
    if not any(agreed):
        raise DeploymentFailed(
            f"none of the {len(probes)} answers that evaluation recorded even begins the same",
            target=GREEDY_PROBES_FILE,
            way_out="the package's weights or adapter are not those that were evaluated: register the model again",
        )
    said = f"contract check: {exact} of {len(probes)} recorded greedy answers come back token for token"
    if exact < len(probes):
        mean = sum(agreed) / len(agreed)
        said += (
            f"; on average the first {mean:.0%} agrees (recorded with {probes[0].engine} {probes[0].precision}, "
            f"served with {here.engine} {here.precision})"
        )
    return [said]


def _common_prefix(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    count = 0
    for left, right in zip(a, b, strict=False):
        if left != right:
            break
        count += 1
    return count
