"""Reports and previews for a terminal, made with Rich. The values are in ``report.py`` and ``preview.py``."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.markup import escape
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from tunesmith.chat.parsing import NOTES
from tunesmith.chat.preview import MaskPreview
from tunesmith.chat.report import CheckReport, TokenReport, counted
from tunesmith.chat.statistics import Histogram
from tunesmith.errors import Fault

BAR = 32
"""Characters of the longest bar of a histogram."""


def render_report(report: CheckReport, *, faults: int = 20) -> RenderableType:
    """A check report: at most ``faults`` faults are shown, some of each kind; the counts are of all."""
    parts: list[RenderableType] = [_overview(report)]
    if report.tokens is not None and report.tokens.lengths.rows:
        parts += [Text(), _tokens(report.tokens), Text(), render_histogram(report.tokens)]
    parts += _findings(report, faults)
    parts += [Text(), _verdict(report)]
    return Group(*parts)


def _grid() -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    return table


def _overview(report: CheckReport) -> RenderableType:
    table = _grid()
    for file in report.files:
        table.add_row(
            "file", escape(f"{file.path}  ({file.format or 'unreadable'}, {_bytes(file.bytes)}, {file.rows:,} rows)")
        )
    if not report.rows:
        return table
    formats = ", ".join(f"{name} {count:,}" for name, count in report.formats.items())
    table.add_row(
        "conversations", f"{report.rows:,}, {report.sound_rows:,} sound" + (f"  ({formats})" if formats else "")
    )
    roles = ", ".join(f"{name} {count:,}" for name, count in report.roles.items())
    table.add_row("messages", f"{sum(report.roles.values()):,}" + (f"  ({roles})" if roles else ""))
    table.add_row("turns with loss", f"{report.answers:,}")
    table.add_row("characters", f"{report.characters:,}")
    if report.with_tools:
        table.add_row("with tools", f"{report.with_tools:,}")
    table.add_row("duplicates", f"{report.duplicate_rows:,}")
    for code, count in report.notes.items():
        table.add_row("note", f"{NOTES.get(code, code)}: {count:,} rows")
    if report.ignored_fields:
        fields = ", ".join(f"{name} ({count:,})" for name, count in list(report.ignored_fields.items())[:8])
        table.add_row("fields ignored", escape(fields))
    speed = f", {report.rows / report.seconds:,.0f} rows/s" if report.seconds >= 0.05 else ""
    table.add_row("checked in", f"{report.seconds:.2f} s{speed}")
    return table


def _tokens(tokens: TokenReport) -> RenderableType:
    lengths = tokens.lengths
    table = _grid()
    table.add_row(
        "tokens a row",
        f"median {lengths.median:,}, mean {lengths.mean:,.0f}, 95 % up to {lengths.p95:,}, longest {lengths.longest:,}",
    )
    limit = "no limit given" if tokens.max_seq_length is None else f"{tokens.max_seq_length:,} tokens"
    table.add_row("max_seq_length", f"{limit}, on_too_long={tokens.on_too_long}")
    table.add_row("rows kept", f"{tokens.kept_rows:,}")
    if tokens.cut_rows:
        table.add_row("  of them cut", f"{tokens.cut_rows:,}, by {tokens.exchanges_removed:,} old exchanges")
    if tokens.dropped_too_long:
        table.add_row("dropped, too long", f"{tokens.dropped_too_long:,}")
    if tokens.dropped_without_loss:
        table.add_row("dropped, no loss", f"{tokens.dropped_without_loss:,}")
    share = tokens.trained_tokens / max(1, tokens.tokens)
    table.add_row("tokens an epoch", f"{tokens.tokens:,}")
    table.add_row("  with loss", f"{tokens.trained_tokens:,}  ({share:.0%}, loss_on={tokens.loss_on})")
    if tokens.packed_sequences is not None:
        table.add_row("packed sequences", f"{tokens.packed_sequences:,} of {tokens.max_seq_length:,} tokens")
    ends = tokens.ends_trained / max(1, tokens.kept_rows)
    table.add_row("end of turn learnt", f"in {tokens.ends_trained:,} rows ({ends:.0%})")
    if tokens.marked:
        table.add_row("found by marking", f"{tokens.marked:,} rows: the template is not prefix-stable for them")
    table.add_row("chat contract", tokens.contract_sha256[:12])
    return table


def render_histogram(tokens: TokenReport) -> RenderableType:
    """Rows by their length in tokens."""
    table = Table.grid(padding=(0, 2))
    for justify in ("right", "right", "left"):
        table.add_column(justify=justify, no_wrap=True)
    table.add_row(Text("tokens", style="bold"), Text("rows", style="bold"), "")
    for low, high, count, width in _bars(tokens.lengths.histogram):
        limit = tokens.max_seq_length
        style = "yellow" if limit is not None and high > limit + 1 else "green"
        table.add_row(f"{low:,} to {high - 1:,}", f"{count:,}", Text("█" * width, style=style))
    return table


def _bars(histogram: Histogram) -> Iterator[tuple[int, int, int, int]]:
    most = max(histogram.counts, default=1)
    for index, count in enumerate(histogram.counts):
        width = 0 if count == 0 else max(1, round(BAR * count / most))
        yield histogram.edges[index], histogram.edges[index + 1], count, width


def _findings(report: CheckReport, limit: int) -> Iterator[RenderableType]:
    """Each kind of fault with its count, some places, and the way out, said once where it is the same for all."""
    chosen = {id(fault) for fault in report.faults(limit=limit)}
    for finding in report.findings:
        style = "red" if finding.level == "error" else "yellow"
        yield Text()
        heading = Text(finding.code, style=f"bold {style}")
        heading.append(f"  {counted(finding.count, finding.level)}")
        yield heading
        shown = [fault for fault in finding.faults if id(fault) in chosen]
        ways_out = {fault.way_out for fault in shown}
        for fault in shown:
            yield _fault(fault, with_way_out=len(ways_out) > 1)
        if finding.count > len(shown):
            yield Text(f"  … and {finding.count - len(shown):,} more", style="dim")
        if len(ways_out) == 1 and (way_out := ways_out.pop()):
            yield Text(f"  → {way_out}", style="dim")


def _fault(fault: Fault, *, with_way_out: bool) -> Text:
    text = Text("  ", overflow="fold")
    text.append(fault.target or "", style="cyan")
    text.append(f"  {fault.message}")
    if with_way_out and fault.way_out:
        text.append(f"  → {fault.way_out}", style="dim")
    return text


def _verdict(report: CheckReport) -> Text:
    if not report.sound:
        return Text(f"Not sound: {report.summary()}.", style="bold red")
    return Text(f"Sound: {report.summary()}.", style="bold green" if not report.warnings else "bold yellow")


class render_preview:  # noqa: N801 - used as a function that makes a renderable
    """A row token by token: what carries loss stands out, and tokens differ from their neighbours by their shade.

    On a terminal without colours the runs that carry loss stand between ⟦ and ⟧.
    """

    def __init__(self, preview: MaskPreview) -> None:
        self._preview = preview

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw it."""
        preview = self._preview
        title = f"{preview.location}: {preview.total:,} tokens, {preview.trained:,} with loss"
        yield Rule(Text(title), align="left", style="dim")
        yield self._plain() if console.color_system is None or console.no_color else self._coloured()
        if len(preview.tokens) < preview.total:
            yield Text(f"… and {preview.total - len(preview.tokens):,} more tokens", style="dim")

    def _coloured(self) -> Text:
        text = Text(overflow="fold")
        for index, token in enumerate(self._preview.tokens):
            shades = ("black on green", "black on bright_green") if token.trained else ("bright_black", "white")
            text.append(visible(token.text), style=shades[index % 2])
        return text

    def _plain(self) -> Text:
        text = Text(overflow="fold")
        inside = False
        for token in self._preview.tokens:
            if token.trained != inside:
                text.append("⟦" if token.trained else "⟧")
                inside = token.trained
            text.append(visible(token.text))
        text.append("⟧" if inside else "")
        return text


def visible(text: str) -> str:
    """A token's text with its line breaks and control characters to be seen."""
    shown = text.replace("\n", "↵\n").replace("\t", "→\t").replace("\r", "␍")
    return "".join(letter if letter.isprintable() or letter in "\n\t" else "·" for letter in shown)


def _bytes(count: int) -> str:
    size = float(count)
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            return f"{size:,.0f} {unit}" if unit == "bytes" else f"{size:,.1f} {unit}"
        size /= 1000
    raise AssertionError("unreachable")
