"""``evaluation_config`` and ``evaluation_config_params``."""

from __future__ import annotations

from pathlib import Path

import pytest

from tunesmith.errors import InvalidData, NotFound, ValidationFailed
from tunesmith.evaluate import EvaluationSettings


def test_file_and_text_together_the_text_wins(tmp_path: Path) -> None:
    file = tmp_path / "evaluation.yaml"
    file.write_text("num_samples: 4\nmax_new_tokens: 16\nmetrics: [loss, rouge]\n")
    found = EvaluationSettings.load(file, '{"num_samples": 2, "temperature": 0.5}')
    assert (found.num_samples, found.max_new_tokens, found.temperature) == (2, 16, 0.5)
    assert found.metrics == ("loss", "rouge")
    assert found.generates
    assert EvaluationSettings.load() == EvaluationSettings()
    assert EvaluationSettings.load(None, "  ") == EvaluationSettings()


def test_nothing_is_generated_where_nothing_needs_it() -> None:
    assert not EvaluationSettings(metrics=("loss",)).generates
    assert not EvaluationSettings(num_samples=0).generates


def test_every_fault_is_named_with_a_suggestion() -> None:
    with pytest.raises(ValidationFailed) as caught:
        EvaluationSettings.load(None, "num_sample: 3\nmax_new_tokens: 0\nmetrics: [rogue]")
    faults = {fault.target: fault for fault in caught.value.details}
    assert faults["evaluation_config.num_sample"].way_out == "did you mean num_samples?"
    assert "evaluation_config.max_new_tokens" in faults
    assert "evaluation_config.metrics.0" in faults


def test_what_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no such file"):
        EvaluationSettings.load(tmp_path / "gone.json")
    with pytest.raises(InvalidData, match="must be a mapping"):
        EvaluationSettings.load(None, "[1, 2]")
    with pytest.raises(InvalidData, match="neither JSON nor YAML"):
        EvaluationSettings.load(None, "{a: [")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InvalidData, match="not UTF-8"):
        EvaluationSettings.load(tmp_path / "binary")
