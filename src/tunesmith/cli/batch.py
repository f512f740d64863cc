"""``tunesmith batch``."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tunesmith.cli.context import connect, options
from tunesmith.cli.output import emit, say
from tunesmith.cli.talking import Target, parameters
from tunesmith.errors import Conflict, UserError

if TYPE_CHECKING:
    from tunesmith.cli.batch_askers import Asker
    from tunesmith.cli.batch_run import Progress

LINE_EVERY_S = 10.0
"""How often progress is told where there is no terminal."""


def add_to(app: typer.Typer) -> None:
    """Put the command at the root of ``app``."""
    app.command()(batch)


def batch(
    target: Annotated[
        str, typer.Argument(help="ENDPOINT, ENDPOINT/DEPLOYMENT, or a model: azureml:NAME:VERSION, azureml://…")
    ],
    source: Annotated[Path, typer.Option("--in", help="JSONL: messages rows, or OpenAI's batch file.")],
    out: Annotated[Path, typer.Option(help="JSONL with the answers, in the order of the input.")],
    concurrency: Annotated[int, typer.Option(help="Lines asked at once.", min=1, max=256)] = 8,
    max_tokens: Annotated[
        int | None, typer.Option(help="Longest answer, for lines that do not say.", show_default=False)
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(help="For lines that do not say; 0 is greedy.", show_default=False)
    ] = None,
    seed: Annotated[int | None, typer.Option(help="For lines that do not say.", show_default=False)] = None,
    engine: Annotated[str, typer.Option(help="Of a model: the engine.")] = "auto",
    precision: Annotated[str, typer.Option(help="Of a model: the precision.")] = "auto",
    retry_errors: Annotated[bool, typer.Option("--retry-errors", help="Ask again the lines that failed.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Begin anew, whatever is in --out.")] = False,
) -> None:
    """Answer a file of conversations, several at once.

    Answers are written as they come. After a kill, the same command goes on where it stopped. Lines that fail are
    counted, said and written with their error; then the exit status is 1. A model is loaded in a process of its own,
    without a deployment, and ended with the batch.
    """
    from tunesmith.cli.batch_rows import look_over
    from tunesmith.cli.batch_run import earlier, run_batch

    if out.resolve() == source.resolve():
        raise UserError("is the input itself", target="--out", way_out="name another file")
    model = target.startswith("azureml:")
    if not model and (engine, precision) != ("auto", "auto"):
        raise UserError("is for models; a deployment has its own", target="--engine", way_out="leave it out")
    overview = look_over(source)
    defaults = parameters(max_tokens, temperature, None, seed)
    asker = _model(target, engine, precision) if model else _endpoint(target)
    run = {"target": target, "input_sha256": overview.sha256, "parameters": defaults}
    if model:
        run |= {"engine": engine, "precision": precision}
    try:
        kept = earlier(out, run, retry_errors=retry_errors, overwrite=overwrite)
        say(
            f"{overview.rows:,} lines for {asker.about}"
            + (f", {len(kept.answered):,} answered before" if kept.answered else "")
            + (f", {len(kept.failed):,} failed before" if kept.failed else "")
        )
        if overview.expected:
            say(f"{overview.expected:,} conversations end with the assistant: that turn is kept as `expected`")
        with _watching(overview.rows) as watch:
            progress = run_batch(
                asker,
                source,
                overview,
                out,
                defaults=defaults,
                kept=kept,
                concurrency=concurrency,
                watch=watch,
            )
    except KeyboardInterrupt:
        say("Stopped. The answers so far are kept; the same command goes on.")
        raise
    finally:
        asker.close()
    _report(progress, out)
    if progress.failed:
        raise typer.Exit(1)


def _endpoint(target: str) -> Asker:
    from tunesmith.cli.batch_askers import EndpointAsker

    return EndpointAsker(connect(), Target.parse(target, "TARGET"))


def _model(reference: str, engine: str, precision: str) -> Asker:
    from tunesmith.cli.batch_askers import ModelAsker

    found = connect().models.get(reference)
    if found.path is None:
        raise Conflict(
            f"the weights of {found.name} are not imported yet",
            target="TARGET",
            way_out=f"tunesmith models import {found.name}",
        )
    folder = Path(found.path)
    if not folder.is_dir():
        raise UserError(
            f"{found.name} is on the server's machine, not on this one",
            target="TARGET",
            way_out="deploy it and give its endpoint, or run this command there",
        )
    return ModelAsker(found.name, folder, engine=engine, precision=precision)


@contextmanager
def _watching(rows: int) -> Iterator[Callable[[Progress], None]]:
    """Shows progress on standard error: a bar on a terminal, else a line now and then."""
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bars

        columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
        with Bars(*columns, console=Console(stderr=True)) as bars:
            bar = bars.add_task("", total=rows)

            def show(progress: Progress) -> None:
                bars.update(bar, completed=progress.done, description=_speed(progress))

            yield show
        return
    last = time.monotonic()

    def tell(progress: Progress) -> None:
        nonlocal last
        if time.monotonic() - last >= LINE_EVERY_S:
            last = time.monotonic()
            print(f"{progress.done:,} of {progress.rows:,} lines, {_speed(progress)}", file=sys.stderr, flush=True)

    yield tell


def _speed(progress: Progress) -> str:
    words = f"{progress.tokens / max(progress.seconds, 1e-9):.1f} tokens/s"
    return words + (f", {progress.failed:,} failed" if progress.failed else "")


def _report(progress: Progress, out: Path) -> None:
    if options.json:
        summary: dict[str, Any] = {
            "rows": progress.rows,
            "kept": progress.kept,
            "answered": progress.answered,
            "failed": progress.failed,
            "errors": dict(progress.errors),
            "completion_tokens": progress.tokens,
            "seconds": round(progress.seconds, 3),
            "out": str(out),
        }
        emit(summary)
        return
    say(f"{progress.answered:,} lines answered in {progress.seconds:,.1f} s ({_speed(progress)}), in {out}")
    for code, count in progress.errors.most_common():
        say(f"  {count:,} failed with {code}, first {progress.examples[code]}")
    if progress.failed:
        say("  --retry-errors asks them again")
