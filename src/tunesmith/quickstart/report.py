"""The quickstart's closing page: what was gained, where it answers, and how to stop it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from tunesmith.display.endpoints import calls
from tunesmith.display.units import seconds
from tunesmith.errors import NotFound

if TYPE_CHECKING:
    from tunesmith.client import Workspace
    from tunesmith.evaluate.result import EvaluationResult
    from tunesmith.records.assets import ModelVersion
    from tunesmith.records.endpoints import Endpoint
    from tunesmith.records.jobs import Job
    from tunesmith.records.workspace import WorkspaceInfo

EVALUATION_OUTPUT = "evaluation_result"


def load_evaluation(ws: Workspace, job: Job) -> EvaluationResult:
    """The evaluation a job made of the base model beside the tuned one.

    Raises:
        NotFound: the job has no such output.
    """
    from tunesmith.evaluate.result import EvaluationResult

    output = ws.jobs.outputs(job.name).get(EVALUATION_OUTPUT)
    if output is None or output.path is None:
        raise NotFound(f"job {job.name} has no output {EVALUATION_OUTPUT}", way_out="give the job a test file")
    return EvaluationResult.load(Path(output.path))


def closing(
    console: Console,
    *,
    evaluation: EvaluationResult,
    job: Job,
    model: ModelVersion,
    endpoint: Endpoint,
    key: str,
    info: WorkspaceInfo,
    times: Sequence[tuple[str, float]],
    total: float,
) -> None:
    """Print it."""
    from tunesmith.evaluate.table import metrics_table, samples_table

    console.print(Rule("[bold]Result", align="left", style="green"))
    console.print(metrics_table(evaluation))
    console.print(samples_table(evaluation, count=2))
    gained = evaluation.deltas.get("perplexity")
    if gained is not None and gained.relative is not None:
        verb = "lower" if gained.change < 0 else "higher"
        console.print(
            Text(
                f"Perplexity on held-out answers: {gained.base:.2f} → {gained.tuned:.2f}, "
                f"{abs(gained.relative):.0%} {verb}.",
                "bold green" if gained.change < 0 else "bold red",
            )
        )
    spent = Table(box=None, show_header=False, pad_edge=False)
    spent.add_column(style="dim")
    spent.add_column(justify="right", style="dim")
    for title, took in times:
        spent.add_row(title, seconds(took))
    spent.add_row("together", seconds(total))
    console.print(spent)
    console.print(Rule("[bold]It answers here", align="left", style="green"))
    console.print(Text(calls(endpoint, key).strip()), soft_wrap=True)
    console.print(Rule("[bold]Next", align="left", style="green"))
    lines = [
        ("lineage of the model", f"tunesmith models show {model.name}:{model.version}"),
        ("why each step ran", f"tunesmith jobs explain {job.name}"),
        ("metrics in MLflow", info.mlflow_url),
        ("HTTP API", info.docs_url),
        ("stop the server", "tunesmith down        (the endpoint goes on; with --all it stops too)"),
        ("remove all of it", "make quickstart CLEANUP=1"),
    ]
    grid = Table(box=None, show_header=False, pad_edge=False)
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for what, how in lines:
        grid.add_row(what, Text(how))
    console.print(grid)
