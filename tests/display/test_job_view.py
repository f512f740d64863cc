"""What a watcher sees of a job, in a pipe and in a terminal."""

from io import StringIO
from typing import Any

from rich.console import Console

from tunesmith.display.job_view import _Live, _Plain, amount, short, values_text
from tunesmith.records.workspace import JobEvent

STEP = "chat_completion_pipeline/chat_completion_finetune"


def event(kind: str, t: float = 0.0, **data: Any) -> JobEvent:
    return JobEvent(id=f"{t}", kind=kind, t=t, step=STEP, data=data)


def life() -> list[JobEvent]:
    values = {"loss": 2.5, "tokens_per_second": 1234.4, "eta_s": 9.0}
    return [
        event("step", 10.0, status="Running"),
        event("progress", 11.0, phase="train", done=1, total=2, unit="steps", values=values),
        event("progress", 11.1, phase="train", done=1, total=2, unit="steps", values=values),
        event("notice", 11.5, code="RowsCut", message="1 of 3 conversations were shortened", level="warning", count=1),
        event("progress", 12.0, phase="train", done=2, total=2, unit="steps", values={"loss": 2.25}),
        event("step", 12.5, status="Completed"),
    ]


def test_plain_lines() -> None:
    out = StringIO()
    with _Plain(Console(file=out, width=100)) as view:
        for each in life():
            view.take(each)
    assert out.getvalue().splitlines() == [
        "finetune: Running",
        "  finetune: train 1/2 steps  loss 2.500  1,234 tok/s",
        "  ! 1 of 3 conversations were shortened",
        "  finetune: train 2/2 steps  loss 2.250",
        "finetune: Completed (2.5 s)",
    ]


def test_plain_says_causes_and_reuse() -> None:
    out = StringIO()
    view = _Plain(Console(file=out, width=200))
    view.take(event("step", status="Failed", error={"error": {"message": "the loss became NaN"}}))
    view.take(event("step", status="Completed", reused_from="job1/step"))
    assert out.getvalue() == "finetune: Failed: the loss became NaN\nfinetune: Completed (reused from job1/step)\n"


def test_live_bars() -> None:
    out = StringIO()
    with _Live(Console(file=out, width=120, force_terminal=True, color_system=None)) as view:
        for each in life():
            view.take(each)
    text = out.getvalue()
    assert "finetune: train" in text
    assert "2/2 steps" in text
    assert "loss 2.250" in text
    assert "! 1 of 3 conversations were shortened" in text
    assert "✓ finetune  2.5 s" in text


def test_amounts_values_and_names() -> None:
    assert amount(3, 60, "steps") == "3/60 steps"
    assert amount(92_871_040, 98_362_432, "bytes") == "92.9 MB of 98.4 MB"
    assert amount(5, None, "rows") == "5 rows"
    assert values_text({"loss": 1.23456, "learning_rate": 0.001, "unknown": 3}) == "loss 1.235  lr 1.0e-03"
    assert short(STEP) == "finetune"
