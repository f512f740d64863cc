"""What a preparation has to say: everything that was left out, cut or read otherwise, with its count."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tunesmith.chat.parsing import NOTES
from tunesmith.chat.prepared import PrepareReport
from tunesmith.errors import InvalidData
from tunesmith.reporting import Reporter


def say(report: PrepareReport, reporter: Reporter) -> None:
    """Tell everything there is to tell."""
    rows = f"of {report.rows_read:,} conversations"
    texts = {
        "too_long": "were left out: longer than max_seq_length"
        + (" even with their newest turn alone" if report.on_too_long == "truncate_turns" else ""),
        "no_trained_tokens": "were left out: no token of them carries loss",
        "faulty": "were left out: faulty",
    }
    codes = {"too_long": "RowsTooLong", "no_trained_tokens": "RowsWithoutLoss", "faulty": "RowsFaulty"}
    for reason, count in report.dropped.items():
        shown = ", ".join(count.places[:5]) + (", …" if count.count > 5 else "")
        reporter.notice(codes[reason], f"{count.count:,} {rows} {texts[reason]} ({shown})", count=count.count)
    if report.cut.count:
        reporter.notice(
            "RowsCut",
            f"{report.cut.count:,} {rows} were shortened to {report.max_seq_length:,} tokens: "
            f"{report.exchanges_removed:,} old exchanges left out",
            count=report.cut.count,
        )
    if report.tools_ignored:
        reporter.notice(
            "ToolsIgnored",
            f"{report.tools_ignored:,} {rows} describe tools, which this model's chat template does not write",
            count=report.tools_ignored,
        )
    if report.marked:
        reporter.notice(
            "TemplateNotPrefixStable",
            f"in {report.marked:,} {rows} the answers were found by marking: "
            "the chat template writes earlier turns otherwise once more follow",
            level="info",
            count=report.marked,
        )
    if report.surplus_prompt:
        reporter.notice(
            "PromptSurplus",
            f"the model is asked with {report.surplus_prompt!r} after the header of its answer; finished conversations "
            "have no such text in this chat template, so answers are learnt without it",
            level="info",
        )
    if report.ends_trained < report.rows_kept:
        left = report.rows_kept - report.ends_trained
        reporter.notice(
            "EndOfTurnWithoutLoss",
            f"in {left:,} {rows} no end-of-turn token carries loss: from them the model does not learn to stop",
            count=left,
        )
    if report.ignored_fields:
        shown = ", ".join(f"{name} ({count:,})" for name, count in list(report.ignored_fields.items())[:8])
        reporter.notice(
            "FieldsIgnored", f"fields without a meaning here: {shown}", level="info", count=len(report.ignored_fields)
        )
    for code, times in report.notes.items():
        reporter.notice(code, f"{NOTES.get(code, code)}: {times:,} {rows}", level="info", count=times)


def nothing_left(report: PrepareReport, files: Sequence[Path]) -> InvalidData:
    """The error of a preparation that kept no row."""
    reasons = ", ".join(f"{count.count:,} {reason.replace('_', ' ')}" for reason, count in report.dropped.items())
    return InvalidData(
        f"no conversation is left to train on ({report.rows_read:,} read" + (f": {reasons})" if reasons else ")"),
        target=", ".join(str(file) for file in files),
        way_out="see `tunesmith data check FILE`; raise max_seq_length, "
        "or give conversations with answers of the assistant",
    )
