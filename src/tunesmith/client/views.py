"""The records as the SDK returns them: the same values, which also print well in a terminal and in a notebook.

``str`` gives plain text, ``__rich__`` what ``rich.print`` shows, ``_repr_html_`` what a notebook shows. Each class
*is* the record of the same name, so whatever takes a record takes it.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from tunesmith.client.printing import Shown, as_html, card, seconds_of, text_of
from tunesmith.display.units import size as size_of
from tunesmith.errors import error_from_dict
from tunesmith.records import assets, compute, endpoints, jobs, workspace

if TYPE_CHECKING:
    from rich.console import RenderableType


def _asset_rows(asset: assets.AssetVersion) -> list[tuple[str, object]]:
    return [
        ("id", asset.id),
        ("registry", asset.registry),
        ("description", asset.description),
        ("labels", asset.labels),
        ("tags", asset.tags),
        ("archived", asset.archived or None),
        ("created", asset.created_at),
    ]


class Model(Shown, assets.ModelVersion):
    """A model version."""

    def __rich__(self) -> RenderableType:
        from rich.console import Group
        from rich.text import Text
        from rich.tree import Tree

        head = card(
            f"{self.name}:{self.version}  {self.state}",
            [
                *_asset_rows(self),
                ("license", self.license),
                ("source", self.source),
                ("architecture", self.architecture),
                ("parameters", f"{self.parameter_count:,}" if self.parameter_count else None),
                ("context", f"{self.context_length:,} tokens" if self.context_length else None),
                ("size", size_of(self.size_bytes)),
                ("path", self.path),
                ("chat contract", self.chat_contract and self.chat_contract[:12]),
                ("metrics", self.metrics),
            ],
        )
        if self.lineage is None:
            return head
        tree = Tree(Text(f"made by {self.lineage.created_by} {self.lineage.job or ''}".strip()))
        for item in self.lineage.items:
            line = f"{item.role}: {item.reference}" + (f"  {item.sha256[:12]}" if item.sha256 else "")
            branch = tree.add(Text(line))
            if item.detail:
                branch.add(Text(text_of(item.detail)))
        return Group(head, tree)


class Data(Shown, assets.DataVersion):
    """A data asset's version."""

    def __rich__(self) -> RenderableType:
        return card(
            f"{self.name}:{self.version}  {self.type}",
            [
                *_asset_rows(self),
                ("path", self.path),
                ("size", size_of(self.size_bytes)),
                ("rows", self.rows),
                ("format", self.format),
                ("sha256", self.sha256),
            ],
        )


class Component(Shown, assets.ComponentVersion):
    """A component's version."""

    def __rich__(self) -> RenderableType:
        return card(
            f"{self.name}:{self.version}  {self.type}",
            [
                *_asset_rows(self),
                ("inputs", list(self.spec.get("inputs") or {})),
                ("outputs", list(self.spec.get("outputs") or {})),
                ("sha256", self.sha256),
            ],
        )


class Environment(Shown, assets.EnvironmentVersion):
    """An environment's version."""

    def __rich__(self) -> RenderableType:
        return card(f"{self.name}:{self.version}", [*_asset_rows(self), ("sha256", self.sha256)])


class Compute(Shown, compute.Compute):
    """A compute."""

    def __rich__(self) -> RenderableType:
        return card(
            f"{self.name}  {self.provisioning_state}",
            [
                ("type", self.type),
                ("size", self.size),
                ("promises", f"{self.vcpus} vCPUs, {self.memory_gb:g} GB, {self.gpus} GPUs"),
                ("difference", self.difference),
                ("instances", f"{self.min_instances} to {self.max_instances}"),
                ("tier", self.tier),
                ("description", self.description),
                ("tags", self.tags),
            ],
        )


class MachineView(Shown, compute.Machine):
    """This machine, or the server's."""

    def __rich__(self) -> RenderableType:
        return card(
            "machine",
            [
                ("processor", self.processor),
                ("cores", self.cores),
                ("memory", size_of(self.memory_bytes)),
                ("gpus", [f"{gpu.name} ({size_of(gpu.memory_bytes)})" for gpu in self.gpus] or "none"),
                ("instructions", self.instructions),
                ("disk free", size_of(self.disk_free_bytes)),
                ("platform", self.platform),
            ],
        )


STATUS_STYLES = {
    "Completed": "green",
    "Succeeded": "green",
    "Ready": "green",
    "Running": "cyan",
    "Updating": "cyan",
    "Creating": "cyan",
    "Failed": "red",
    "Canceled": "yellow",
    "CancelRequested": "yellow",
}


class Job(Shown, jobs.Job):
    """A job with its steps; prints as a tree."""

    def __rich__(self) -> RenderableType:
        from rich.text import Text
        from rich.tree import Tree

        tree = Tree(_line(self.display_name or self.name, self.status, self.started_at, self.ended_at, self.name))
        branches: dict[str, Any] = {"": tree}
        for step in self.steps:
            parent, _, name = step.name.rpartition("/")
            line = _line(name, step.status, step.started_at, step.ended_at, None)
            if step.reused_from:
                line.append(f"  reused from {step.reused_from}", style="dim")
            branch = branches.get(parent, tree).add(line)
            branches[step.name] = branch
            if step.error:
                branch.add(_cause(step.error))
        for name, output in self.outputs.items():
            tree.add(Text.assemble(("output ", "dim"), name, ("  " + output.uri, "dim")))
        for notice in self.notices:
            tree.add(Text(f"{notice.level}: {notice.message}", style="yellow"))
        if self.error:
            tree.add(_cause(self.error))
        return tree


def _cause(body: dict[str, Any]) -> Any:
    """An error in its wire form, in one line, with the way out below it."""
    from rich.text import Text

    error = error_from_dict(body)
    text = Text(error.message, style="red")
    return text.append(f"\n{error.way_out}", style="cyan") if error.way_out else text


def _line(name: str, status: str, start: datetime | None, end: datetime | None, note: str | None) -> Any:
    from rich.text import Text

    line = Text.assemble((name, "bold"), "  ", (str(status), STATUS_STYLES.get(str(status), "")))
    if took := seconds_of(start, end):
        line.append(f"  {took}", style="dim")
    if note and note != name:
        line.append(f"  {note}", style="dim")
    return line


class Endpoint(Shown, endpoints.Endpoint):
    """An endpoint."""

    def __rich__(self) -> RenderableType:
        return card(
            f"{self.name}  {self.provisioning_state}",
            [
                ("score", self.scoring_uri),
                ("openai", self.openai_uri),
                ("auth", self.auth_mode),
                ("deployments", self.deployments),
                ("traffic", {name: f"{share} %" for name, share in self.traffic.items()}),
                ("mirror", {name: f"{share} %" for name, share in self.mirror_traffic.items()}),
                ("description", self.description),
                ("tags", self.tags),
                ("created", self.created_at),
            ],
        )


class EndpointKeys(Shown, endpoints.EndpointKeys):
    """The keys of an endpoint. They show in full only where they are asked for: ``keys.primary_key``."""

    def __rich__(self) -> RenderableType:
        return card("keys", [("primary", f"{self.primary_key[:4]}…"), ("secondary", f"{self.secondary_key[:4]}…")])

    def __repr__(self) -> str:
        return "EndpointKeys(primary_key='…', secondary_key='…')"


class Deployment(Shown, endpoints.Deployment):
    """A deployment with its instances and their phases."""

    def __rich__(self) -> RenderableType:
        from rich.console import Group
        from rich.text import Text

        parts: list[RenderableType] = [
            card(
                f"{self.endpoint}/{self.name}  {self.provisioning_state}",
                [
                    ("model", self.model),
                    ("ready", f"{self.ready_instances} of {self.instance_count}"),
                    ("engine", f"{self.engine}, precision {self.precision}"),
                    ("instance type", self.instance_type),
                    *[
                        (
                            f"instance {instance.id}",
                            f"{instance.state}: "
                            + " → ".join(
                                phase.name + (f" {phase.seconds:.1f} s" if phase.seconds is not None else " …")
                                for phase in instance.phases
                            ),
                        )
                        for instance in self.instances
                    ],
                ],
            )
        ]
        parts += [Text(notice, style="yellow") for notice in self.notices]
        if self.error:
            parts.append(_cause(self.error))
            parts += [Text(f"  {line}", style="dim") for line in self.log_tail]
        return Group(*parts)


class Info(Shown, workspace.WorkspaceInfo):
    """The workspace and its server."""

    def __rich__(self) -> RenderableType:
        return card(
            f"{self.name}  {self.url}",
            [
                ("folder", self.home),
                ("server", f"{self.version}, pid {self.pid}, {size_of(self.memory_bytes)}"),
                ("since", self.started_at),
                ("jobs running", self.jobs_running),
                ("endpoints", self.endpoints),
                ("MLflow", self.mlflow_url),
                ("API", self.docs_url),
            ],
        )


class Doctor(Shown, workspace.Doctor):
    """What the machine has and lacks."""

    def __rich__(self) -> RenderableType:
        from rich.console import Group
        from rich.text import Text

        marks = {"ok": ("✓", "green"), "absent": ("–", "dim"), "problem": ("✗", "red")}
        lines: list[RenderableType] = [MachineView.model_validate(self.machine.model_dump()).__rich__()]
        for item in self.items:
            line = Text.assemble(marks[item.state], " ", (item.name, "bold"), "  ", item.detail)
            if item.way_out:
                line.append(f"  → {item.way_out}", style="cyan")
            lines.append(line)
        return Group(*lines)


class ChatAnswer(dict[str, Any]):
    """The whole answer of ``/v1/chat/completions``, as OpenAI shapes it."""

    @property
    def text(self) -> str:
        """What the assistant says in the first choice."""
        return str(self["choices"][0]["message"].get("content") or "")

    @property
    def finish_reason(self) -> str | None:
        """Why the first choice ended: ``stop``, ``length``, ``tool_calls``."""
        reason = self["choices"][0].get("finish_reason")
        return None if reason is None else str(reason)

    @property
    def usage(self) -> dict[str, int]:
        """``prompt_tokens``, ``completion_tokens`` and ``total_tokens``."""
        return dict(self.get("usage") or {})

    def __str__(self) -> str:
        return self.text

    def __rich__(self) -> RenderableType:
        from rich.text import Text

        return Text(self.text)

    def _repr_html_(self) -> str:
        return as_html(self.__rich__())


class ChatChunk(dict[str, Any]):
    """One piece of a streamed answer, as OpenAI shapes it."""

    @property
    def text(self) -> str:
        """What this piece adds to the first choice."""
        return "".join(
            str((choice.get("delta") or {}).get("content") or "")
            for choice in self.get("choices", ())
            if choice.get("index", 0) == 0
        )

    def __str__(self) -> str:
        return self.text
