"""Named computes: what a job asks for by name, and what this machine gives.

A compute is a name with a size. Every job runs on this machine; a size that it does not have is a difference that is
said, never an error. ``local`` is always there; ``serverless`` is Azure ML's name for "any", and is ``local`` here.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

from sqlalchemy import select

from tunesmith.compute import machine as machines
from tunesmith.compute.sizes import AZURE_SIZES, LOCAL, describe, difference, find_size, local_size
from tunesmith.errors import Conflict, Fault, NotFound, ValidationFailed
from tunesmith.records.base import utcnow
from tunesmith.records.compute import AllowListCheck, Compute, ComputeSize, CreateCompute, Machine
from tunesmith.records.jobs import JobStatus
from tunesmith.storage import names
from tunesmith.storage.database import Database
from tunesmith.storage.tables import ComputeRow, JobRow

SERVERLESS = "serverless"
RESERVED = frozenset({LOCAL, SERVERLESS})

Purpose = Literal["finetune", "inference"]
ALLOW_LIST_TAGS: dict[Purpose, str] = {
    "finetune": "finetune_compute_allow_list",
    "inference": "inference_compute_allow_list",
}


@dataclass(frozen=True, slots=True)
class Target:
    """Where a job or a step runs, and what has to be said about it."""

    name: str
    size: ComputeSize
    notices: tuple[str, ...] = ()


class ComputeService:
    """The workspace's computes.

    Args:
        database: where they are kept.
        disk: a path on the disk whose free bytes the machine reports.
        detect: finds out what the machine has; asked once, but for the free bytes.
        created_at: when the workspace was made, which is when ``local`` came to be.
    """

    def __init__(
        self,
        database: Database,
        disk: Path,
        *,
        detect: Callable[[Path], Machine] = machines.detect,
        created_at: datetime | None = None,
    ) -> None:
        self._database = database
        self._disk = disk
        self._detect = detect
        self._created_at = created_at or utcnow()
        self._machine: Machine | None = None

    def machine(self) -> Machine:
        """What this machine has now."""
        if self._machine is None:
            self._machine = self._detect(self._disk)
        return self._machine.model_copy(update={"disk_free_bytes": machines.free_bytes(self._disk)})

    def sizes(self) -> list[ComputeSize]:
        """Every size: this machine's own first, then Azure's."""
        return [local_size(self.machine()), *AZURE_SIZES]

    def size(self, name: str, *, target: str = "size") -> ComputeSize:
        """The size called ``name``, in any case.

        Raises:
            ValidationFailed: there is none; the closest are named.
        """
        return find_size(name, self.machine(), target=target)

    def list(self) -> list[Compute]:
        """``local`` first, then the named ones by name."""
        with self._database.reading() as session:
            rows = session.scalars(select(ComputeRow).order_by(ComputeRow.name)).all()
        return [self._local(), *(self._record(row) for row in rows)]

    def get(self, name: str) -> Compute:
        """The compute called ``name`` (in any case, as Azure has it).

        Raises:
            NotFound: there is none.
        """
        if name.lower() == LOCAL:
            return self._local()
        with self._database.reading() as session:
            row = _find(session.scalars(select(ComputeRow)).all(), name)
        if row is None:
            raise _missing(name)
        return self._record(row)

    def create_or_update(self, request: CreateCompute) -> Compute:
        """Create the compute, or change it to what is asked.

        Raises:
            ValidationFailed: the name, the size or the counts are wrong; every fault at once.
            Conflict: the name is ``local`` or ``serverless``.
        """
        if request.name.lower() in RESERVED:
            raise Conflict(
                f"{request.name!r} is always there and cannot be changed", target="name", way_out="choose another name"
            )
        faults: list[Fault] = []
        if not names.COMPUTE_NAME.admits(request.name):
            rule = names.COMPUTE_NAME
            faults.append(Fault(f"{request.name[:80]!r} is not a {rule.what}", "name", way_out=rule.words))
        size = LOCAL
        try:
            size = self.size(request.size).name
        except ValidationFailed as error:
            faults.append(Fault(error.message, error.target, way_out=error.way_out))
        if request.min_instances > request.max_instances:
            faults.append(
                Fault(
                    f"min_instances is {request.min_instances} and max_instances {request.max_instances}",
                    "min_instances",
                    way_out="min_instances may be at most max_instances",
                )
            )
        if faults:
            raise ValidationFailed("the compute is faulty", target=request.name[:80], details=faults)
        with self._database.session() as session:
            row = _find(session.scalars(select(ComputeRow)).all(), request.name)
            if row is None:
                row = ComputeRow(name=request.name, created_at=utcnow())
                session.add(row)
            row.type = request.type
            row.size = size
            row.min_instances = request.min_instances
            row.max_instances = request.max_instances
            row.idle_time_before_scale_down = request.idle_time_before_scale_down
            row.tier = request.tier
            row.description = request.description
            row.tags = dict(request.tags)
        return self._record(row)

    def delete(self, name: str) -> None:
        """Delete the compute.

        Raises:
            NotFound: there is none.
            Conflict: it is ``local``, or a job that has not ended runs on it.
        """
        if name.lower() in RESERVED:
            raise Conflict(f"{name!r} is always there and cannot be deleted", target="name")
        with self._database.session() as session:
            row = _find(session.scalars(select(ComputeRow)).all(), name)
            if row is None:
                raise _missing(name)
            ended = [status.value for status in JobStatus if status.terminal]
            busy = session.scalars(
                select(JobRow.name).where(JobRow.compute == row.name, JobRow.status.not_in(ended)).limit(3)
            ).all()
            if busy:
                raise Conflict(
                    f"the compute {row.name!r} is in use by {', '.join(busy)}",
                    target="name",
                    way_out=f"wait for the job, or: tunesmith jobs cancel {busy[0]}",
                )
            session.delete(row)

    def resolve(self, text: str | None, *, target: str = "compute") -> Target:
        """Where ``text`` leads: a name, ``azureml:NAME``, an ARM id, ``serverless``; ``None`` is ``local``.

        Raises:
            NotFound: there is no such compute.
        """
        if text is None or not text.strip():
            return Target(LOCAL, local_size(self.machine()))
        name = text.strip().removeprefix("azureml:").rstrip("/").rsplit("/", 1)[-1]
        if name.lower() == SERVERLESS:
            notice = "compute 'serverless' is 'local' here: jobs run on this machine"
            return Target(LOCAL, local_size(self.machine()), (notice,))
        try:
            compute = self.get(name)
        except NotFound as error:
            raise NotFound(error.message, target=target, way_out=error.way_out) from None
        size = self.size(compute.size)
        return Target(compute.name, size, (compute.difference,) if compute.difference else ())

    def check(self, model: str, tags: Mapping[str, str], compute: str, purpose: Purpose) -> AllowListCheck:
        """Whether the allow-list in a model's tags admits the size of ``compute``.

        A model without a list admits every size. The list names Azure's sizes; ``local`` is none of them and is always
        admitted: whether a model fits into this machine is what the estimate before a job tells.

        Args:
            model: the model's name, for the message.
            tags: the model's.
            compute: a compute, or a size.
            purpose: which of the two lists.

        Raises:
            NotFound: there is no such compute, and no such size.
            ValidationFailed: the tag is not a list.
        """
        chosen = self._compute_or_size(compute)
        size = chosen.size.name
        allowed = parse_allow_list(tags.get(ALLOW_LIST_TAGS[purpose], ""), target=f"tags.{ALLOW_LIST_TAGS[purpose]}")
        admitted = size == LOCAL or not allowed or size.lower() in {name.lower() for name in allowed}
        if not allowed:
            message = f"{model} has no list of sizes for {purpose}: every size will do"
        elif size == LOCAL:
            message = f"{chosen.name} is this machine ({describe(chosen.size)}); the list names Azure's sizes"
        elif admitted:
            message = f"{size} is one of the sizes for {purpose} of {model}"
        else:
            message = f"{size} is not one of the sizes for {purpose} of {model}: {', '.join(allowed)}"
        return AllowListCheck(
            model=model,
            compute=chosen.name,
            size=size,
            purpose=purpose,
            allow_list=list(allowed),
            allowed=admitted,
            message=message,
        )

    def _compute_or_size(self, text: str) -> Target:
        try:
            return self.resolve(text)
        except NotFound:
            try:
                size = self.size(text)
            except ValidationFailed:
                size = None
            if size is None:
                raise
            return Target(size.name, size)

    def _local(self) -> Compute:
        size = local_size(self.machine())
        return Compute(
            name=LOCAL,
            type="local",
            size=LOCAL,
            min_instances=1,
            max_instances=1,
            idle_time_before_scale_down=0,
            tier="dedicated",
            provisioning_state="Succeeded",
            description="This machine",
            created_at=self._created_at,
            vcpus=size.vcpus,
            memory_gb=size.memory_gb,
            gpus=size.gpus,
        )

    def _record(self, row: ComputeRow) -> Compute:
        size = self.size(row.size)
        return Compute(
            name=row.name,
            type=row.type,
            size=row.size,
            min_instances=row.min_instances,
            max_instances=row.max_instances,
            idle_time_before_scale_down=row.idle_time_before_scale_down,
            tier=row.tier,
            provisioning_state="Succeeded",
            description=row.description,
            tags=dict(row.tags),
            created_at=row.created_at,
            vcpus=size.vcpus,
            memory_gb=size.memory_gb,
            gpus=size.gpus,
            difference=difference(size, self.machine()),
        )


def parse_allow_list(text: str, *, target: str) -> tuple[str, ...]:
    """A tag such as ``['Standard_ND40rs_v2']``: a list written as Python's or as JSON's; empty text is no list.

    Raises:
        ValidationFailed: it is neither.
    """
    if not text.strip():
        return ()
    value: object = None
    for read in (json.loads, ast.literal_eval):
        with suppress(ValueError, SyntaxError, MemoryError, RecursionError):
            value = read(text)
            break
    if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
        raise ValidationFailed(f"{text[:100]!r} is not a list of sizes", target=target, way_out="['Standard_NC6s_v3']")
    return tuple(value)


def _find(rows: Sequence[ComputeRow], name: str) -> ComputeRow | None:
    return next((row for row in rows if row.name.lower() == name.lower()), None)


def _missing(name: str) -> NotFound:
    return NotFound(
        f"there is no compute {name[:80]!r}",
        target="compute",
        way_out=f"'local' is this machine; or create it: tunesmith compute create {name[:24]} --size SIZE",
    )
