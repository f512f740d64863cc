"""The whole evaluation of tiny models: text through a real engine, side by side, artifact, table, gate."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tests.evaluate.conftest import Packages, PreparedFor
from tests.support.tiny import tiny_model
from tunesmith.chat.messages import Conversation, Message
from tunesmith.errors import InvalidData, NotFound
from tunesmith.evaluate import (
    EvaluationResult,
    EvaluationSettings,
    ModelEvaluation,
    compare,
    evaluate_model,
    evaluate_text_async,
    gate,
)
from tunesmith.evaluate.table import markdown, render
from tunesmith.evaluate.text import draw, question_of
from tunesmith.generate import GenerateRequest, collect, open_engine
from tunesmith.models import import_model
from tunesmith.reporting import NullReporter

SETTINGS = EvaluationSettings(num_samples=5, max_new_tokens=12, num_shown=2, num_probes=2)


class Notices(NullReporter):
    def __init__(self) -> None:
        self.found: list[tuple[str, int | None]] = []
        self.phases: list[tuple[str, float, float | None]] = []

    def notice(self, code: str, message: str, *, level: Any = "warning", count: int | None = None) -> None:
        self.found.append((code, count))

    def progress(self, phase: str, done: float, total: float | None, **others: Any) -> None:
        self.phases.append((phase, done, total))


@pytest.fixture(scope="module")
def result(packages: Packages, prepared_for: PreparedFor, tmp_path_factory: pytest.TempPathFactory) -> EvaluationResult:
    folder = tmp_path_factory.mktemp("tuned")
    tuned = import_model(
        str(tiny_model("qwen2", folder / "source", seed=1)), folder / "package", downloads=folder, name="tuned"
    )
    prepared = prepared_for("qwen2")
    base_evaluation, _ = evaluate_model(packages("qwen2"), prepared, SETTINGS, name="base")
    tuned_evaluation, probes = evaluate_model(tuned, prepared, SETTINGS, probes=True)
    return compare(
        base_evaluation,
        tuned_evaluation,
        settings=SETTINGS,
        data="test.jsonl",
        data_key=prepared.report.key,
        greedy_probes=probes,
    )


def test_metrics_deltas_and_samples(result: EvaluationResult) -> None:
    assert result.base is not None and result.tuned.text is not None and result.tuned.loss is not None
    metrics = result.metrics
    assert metrics["perplexity"] == result.tuned.loss.perplexity
    assert metrics["base_loss"] == result.base.metrics["loss"]
    assert {"rouge1", "rouge2", "rougeL", "bleu", "chrf", "exact", "f1", "stop_rate", "answer_tokens"} <= set(metrics)
    assert set(result.deltas) == set(result.tuned.metrics)
    delta = result.deltas["loss"]
    assert delta.change == delta.tuned - delta.base
    assert delta.relative == delta.change / delta.base
    assert delta.better is (delta.change < 0)
    assert result.deltas["answer_tokens"].better is None
    assert len(result.tuned.text.answers) == 5
    assert len(result.samples) == 2
    for sample, answer in zip(result.samples, result.tuned.text.answers, strict=False):
        assert sample.tuned == answer.answer
        assert sample.base is not None
        assert sample.messages[-1]["role"] == "user"
        assert sample.reference.startswith("It is ")


def test_artifact_round_trip(result: EvaluationResult, folder: Path) -> None:
    judged = result.with_gate("loss < 1000")
    judged.save(folder)
    assert EvaluationResult.load(folder) == judged
    assert json.loads((folder / "metrics.json").read_text()) == judged.metrics
    lines = (folder / "samples.jsonl").read_text().splitlines()
    assert [json.loads(line)["tuned"] for line in lines] == [sample.tuned for sample in judged.samples]
    assert (folder / "summary.md").read_text() == markdown(judged)
    (folder / "evaluation.json").write_text("{}")
    with pytest.raises(InvalidData, match="cannot be read"):
        EvaluationResult.load(folder)
    (folder / "evaluation.json").unlink()
    with pytest.raises(NotFound):
        EvaluationResult.load(folder)


def test_gate_over_a_result(result: EvaluationResult) -> None:
    assert result.base is not None
    wanted = result.tuned.metrics["perplexity"] <= result.base.metrics["perplexity"]
    assert gate("perplexity <= base", result).passed is wanted
    assert gate("perplexity > base", result).passed is not wanted


def test_table_shows_both_models(result: EvaluationResult) -> None:
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: PTH123, SIM115
    console.print(render(result.with_gate("loss < 1000")))
    console.file.close()
    shown = console.export_text()
    for text in ("perplexity", "ROUGE-L", "base", "tuned", "change", "Sample answers", "the gate 'loss < 1000' holds"):
        assert text in shown
    alone = compare(None, result.tuned)
    assert "| metric | tuned |" in markdown(alone)
    assert alone.deltas == {}


async def test_probes_are_the_greedy_answers(result: EvaluationResult, packages: Packages) -> None:
    assert len(result.greedy_probes) == 2
    engine = open_engine(packages("qwen2"), precision="32")
    try:
        for probe in result.greedy_probes:
            request = GenerateRequest.from_dict({"messages": list(probe.messages), "temperature": 0, "max_tokens": 24})
            other = (await collect(engine.generate(request))).choices[0].token_ids
            assert probe.prompt_ids == tuple(engine.tokenizer.encode_prompt(request.messages))
            assert other != probe.token_ids  # another model does not give them
    finally:
        engine.close()


def test_questions_are_last_turns_and_drawn_by_seed() -> None:
    def chat(*turns: tuple[str, str]) -> Conversation:
        return Conversation(tuple(Message(role, content) for role, content in turns))

    good = chat(("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"), ("user", "e"))
    question = question_of(good)
    assert question is not None
    assert [message.content for message in question.messages] == ["a", "b", "c"]
    assert question.reference == "d"
    assert question_of(chat(("system", "s"), ("assistant", "b"))) is None
    assert question_of(chat(("user", "a"), ("assistant", " "))) is None
    assert question_of(chat(("user", "a"))) is None
    many = [chat(("user", str(number)), ("assistant", str(number))) for number in range(20)] + [chat(("user", "x"))]
    first, without = draw(many, 5, seed=0)
    again, _ = draw(many, 5, seed=0)
    other, _ = draw(many, 5, seed=1)
    assert without == 1
    assert first == again != other
    assert [int(item.reference) for item in first] == sorted(int(item.reference) for item in first)
    assert len(draw(many, 50, seed=0)[0]) == 20


async def test_what_cannot_be_answered_is_counted(packages: Packages) -> None:
    long = Conversation((Message("user", "word " * 600), Message("assistant", "b")))
    none = Conversation((Message("user", "a"),))
    good = Conversation((Message("user", "Hello"), Message("assistant", "Hello there.")))
    engine = open_engine(packages("llama"), precision="32")
    try:
        notices = Notices()
        found = await evaluate_text_async(engine, [long, none, good], SETTINGS, reporter=notices)
        assert notices.found == [("NoAnswerToCompare", 1), ("PromptTooLong", 1)]
        assert notices.phases == [("answers", 1, 1)]
        assert (found.samples, found.skipped) == (1, 2)
        with pytest.raises(InvalidData, match="no test conversation"):
            await evaluate_text_async(engine, [long, none], SETTINGS)
    finally:
        engine.close()


def test_only_the_loss_loads_no_engine(packages: Packages, prepared_for: PreparedFor) -> None:
    settings = EvaluationSettings(metrics=("loss",))
    found, probes = evaluate_model(packages("llama"), prepared_for("llama"), settings, label="base")
    assert isinstance(found, ModelEvaluation)
    assert found.engine == "" and found.text is None and probes == ()
    assert set(found.metrics) == {"loss", "perplexity", "accuracy", "end_of_turn_accuracy"}
