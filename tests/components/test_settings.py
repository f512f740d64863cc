from __future__ import annotations

from pathlib import Path

import pytest

from tests.components.support import Recorder
from tunesmith.components.steps.settings import finetune_parameters, training_values
from tunesmith.errors import ValidationFailed


def test_a_configuration_fills_what_stands_at_its_default(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("learning_rate: 1e-4\nlora_r: 16\napply_lora: true\n")
    recorder = Recorder()
    given = {"learning_rate": "2e-05", "lora_r": "4", "apply_lora": "false", "model_path": "x", "deepspeed": None}
    parameters = finetune_parameters(given, config, recorder)
    assert (parameters.learning_rate, parameters.lora_r, parameters.apply_lora) == (1e-4, 4, True)
    assert recorder.notices == [("ConfigOverridden", "lora_r = 4 as given with the job; 16 in config.yaml is not used")]


def test_unknown_names_and_files_that_are_none(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text('{"learning_rat": 1}')
    with pytest.raises(ValidationFailed) as caught:
        training_values({}, config, Recorder())
    assert [(f.target, f.way_out) for f in caught.value.details] == [
        (f"{config}#learning_rat", 'did you mean "learning_rate"?')
    ]
    for text in ("[1]", "a: [", "\x00"):
        config.write_text(text)
        with pytest.raises(ValidationFailed):
            training_values({}, config, Recorder())
