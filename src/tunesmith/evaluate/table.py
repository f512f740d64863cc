"""An evaluation for reading: Rich tables for a terminal, Markdown for a file."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Group, RenderableType

    from tunesmith.evaluate.result import Delta, EvaluationResult

LABELS = {
    "loss": "loss per trained token",
    "perplexity": "perplexity",
    "accuracy": "next token right",
    "end_of_turn_accuracy": "end of turn right",
    "rouge1": "ROUGE-1",
    "rouge2": "ROUGE-2",
    "rougeL": "ROUGE-L",
    "bleu": "BLEU",
    "chrf": "chrF",
    "exact": "exact match",
    "f1": "F1",
    "stop_rate": "answers that stop",
    "answer_tokens": "tokens per answer",
}


def number(value: float) -> str:
    """Four significant digits, no exponent for common sizes."""
    return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"


def change(delta: Delta) -> str:
    """The change, relative where there is something to relate it to."""
    return f"{delta.change:+.4g}" if delta.relative is None else f"{delta.relative:+.1%}"


def metrics_table(result: EvaluationResult) -> RenderableType:
    """Base beside tuned."""
    from rich.table import Table

    table = Table(title=_title(result), title_justify="left")
    table.add_column("metric")
    if result.base is not None:
        table.add_column("base", justify="right")
    table.add_column("tuned", justify="right")
    if result.base is not None:
        table.add_column("change", justify="right")
    deltas = result.deltas
    for name, value in result.tuned.metrics.items():
        cells = [LABELS.get(name, name)]
        if result.base is not None:
            delta = deltas.get(name)
            style = "" if delta is None or delta.better is None else ("green" if delta.better else "red")
            cells += ["" if delta is None else number(delta.base), number(value)]
            cells.append("" if delta is None else f"[{style}]{change(delta)}[/]" if style else change(delta))
        else:
            cells.append(number(value))
        table.add_row(*cells)
    return table


def samples_table(result: EvaluationResult, *, count: int = 2, width: int = 400) -> RenderableType:
    """``count`` sample answers side by side, each text cut at ``width`` characters for display."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title="Sample answers", title_justify="left", show_lines=True)
    table.add_column("question", ratio=1)
    table.add_column("reference", ratio=1)
    if result.base is not None:
        table.add_column("base", ratio=1)
    table.add_column("tuned", ratio=1)
    for sample in result.samples[:count]:
        cells = [str(sample.messages[-1].get("content", "")), sample.reference]
        if result.base is not None:
            cells.append(sample.base or "")
        cells.append(sample.tuned)
        table.add_row(*(Text(_cut(cell, width)) for cell in cells))
    return table


def render(result: EvaluationResult, *, samples: int = 2) -> Group:
    """Everything for a terminal: the metrics, sample answers, the gate."""
    from rich.console import Group
    from rich.text import Text

    parts: list[RenderableType] = [metrics_table(result)]
    if result.samples and samples:
        parts.append(samples_table(result, count=samples))
    if result.gate is not None:
        parts.append(Text(result.gate.message, style="green" if result.gate.passed else "bold red"))
    return Group(*parts)


def markdown(result: EvaluationResult) -> str:
    """The same as Markdown."""
    lines = [f"# {_title(result)}", ""]
    if result.base is None:
        lines += ["| metric | tuned |", "| --- | ---: |"]
        lines += [f"| {LABELS.get(name, name)} | {number(value)} |" for name, value in result.tuned.metrics.items()]
    else:
        lines += ["| metric | base | tuned | change |", "| --- | ---: | ---: | ---: |"]
        deltas = result.deltas
        for name, value in result.tuned.metrics.items():
            delta = deltas.get(name)
            before, moved = ("", "") if delta is None else (number(delta.base), change(delta))
            lines.append(f"| {LABELS.get(name, name)} | {before} | {number(value)} | {moved} |")
    if result.gate is not None:
        lines += ["", result.gate.message]
    for sample in result.samples:
        lines += ["", f"## {sample.source}", "", _quoted("question", str(sample.messages[-1].get("content", "")))]
        lines.append(_quoted("reference", sample.reference))
        if sample.base is not None:
            lines.append(_quoted("base", sample.base))
        lines.append(_quoted("tuned", sample.tuned))
    return "\n".join(lines) + "\n"


def _title(result: EvaluationResult) -> str:
    names = result.tuned.name if result.base is None else f"{result.base.name} → {result.tuned.name}"
    rows = result.tuned.loss.rows if result.tuned.loss is not None else 0
    answers = result.tuned.text.samples if result.tuned.text is not None else 0
    parts = [f"{rows:,} rows"] * bool(rows) + [f"{answers:,} answers"] * bool(answers)
    return f"Evaluation of {names}" + (f" ({', '.join(parts)})" if parts else "")


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1].rstrip() + "…"


def _quoted(label: str, text: str) -> str:
    return f"**{label}**\n\n" + "\n".join(f"> {line}" for line in text.splitlines() or [""]) + "\n"
