"""The controller's side of the service: what is wanted, and what became of it."""

from __future__ import annotations

import logging
from collections import defaultdict, deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from tunesmith.endpoints.store import DeploymentDocument
from tunesmith.endpoints.table import EndpointTable, Key
from tunesmith.records.assets import ModelVersion
from tunesmith.records.base import utcnow
from tunesmith.records.endpoints import ProvisioningState, ScaleEvent

logger = logging.getLogger(__name__)

SCALING_FILE = "scaling.jsonl"
"""In a deployment's folder: every change by autoscale, one a line."""
EVENTS_SHOWN = 20


class Outcomes:
    """Reads and reports for one controller, from any thread."""

    def __init__(self, table: EndpointTable, probes_of: Callable[[ModelVersion], Path | None]) -> None:
        self._table = table
        self._probes_of = probes_of
        self._scaled: dict[Key, deque[ScaleEvent]] = defaultdict(lambda: deque(maxlen=EVENTS_SHOWN))
        for document in table.wanted:
            if document.spec.autoscale is not None:
                self._scaled[document.key].extend(read_scale_events(self._scaling_file(document.key)))

    def model_files(self, document: DeploymentDocument) -> tuple[Path, Path | None]:
        """The folder of a deployment's model, and its recorded answers where there are some. Raises
        ``InvalidModel``."""
        model = self._table.model(document.spec.model)
        return Path(model.path or ""), self._probes_of(model)

    def adapter_folders(self, document: DeploymentDocument) -> dict[str, Path]:
        """The folders of a deployment's adapters, by name. Raises ``NotFound`` or ``InvalidModel``."""
        return {name: self._table.adapter(name, reference)[1] for name, reference in document.spec.adapters.items()}

    def report(
        self,
        key: Key,
        generation: int,
        state: ProvisioningState,
        *,
        error: dict[str, Any] | None = None,
        log_tail: Iterable[str] = (),
        notices: Iterable[str] = (),
        instance_count: int | None = None,
    ) -> None:
        """What became of a deployment's generation.

        A report about an older one, or about another ``instance_count`` than is wanted now, is ignored.
        """
        with self._table.lock:
            known = self._table.deployments.get(key)
            if known is None or known.generation != generation or known.state == "Deleting":
                return
            if instance_count is not None and known.spec.instance_count != instance_count:
                return
            told = [*known.notices, *(notice for notice in notices if notice not in known.notices)]
            changed = known.model_copy(
                update={"state": state, "error": error, "log_tail": [*log_tail], "notices": told}
            )
            if changed != known:
                self._table.keep_deployment(changed, quiet=True)

    def scale(self, key: Key, generation: int, count: int, reason: str) -> None:
        """Want ``count`` instances because the load asks for them; written down beside the deployment's logs.

        Ignored when the deployment was changed in the meantime.
        """
        with self._table.lock:
            known = self._table.deployments.get(key)
            if known is None or known.generation != generation or known.state in ("Deleting", "Failed"):
                return
            limits = known.spec.autoscale
            before = known.spec.instance_count
            if limits is None or count == before or not limits.min_instances <= count <= limits.max_instances:
                return
            self._table.keep_deployment(
                known.model_copy(
                    update={
                        "spec": known.spec.model_copy(update={"instance_count": count}),
                        "state": "Creating" if known.state == "Creating" else "Updating",
                    }
                )
            )
            event = ScaleEvent(time=utcnow(), from_instances=before, to_instances=count, reason=reason)
            self._scaled[key].append(event)
        logger.info("deployment %s of endpoint %s: %s", key[1], key[0], describe(event))
        path = self._scaling_file(key)
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with path.open("a", encoding="utf-8") as file:
            file.write(event.model_dump_json() + "\n")

    def scale_events(self, key: Key) -> list[ScaleEvent]:
        """The last changes by autoscale, the newest last."""
        return list(self._scaled[key]) if key in self._scaled else []

    def forget_deployment(self, key: Key) -> None:
        """The deployment's processes are gone: so is it."""
        with self._table.lock:
            document = self._table.deployments.get(key)
            if document is None or document.state != "Deleting":
                return
            self._table.forget_deployment(key)
            self._scaled.pop(key, None)
            parent = self._table.endpoints.get(key[0])
            if parent is not None and (key[1] in parent.traffic or key[1] in parent.mirror_traffic):
                self._table.keep_endpoint(
                    parent.model_copy(
                        update={
                            "traffic": {name: share for name, share in parent.traffic.items() if name != key[1]},
                            "mirror_traffic": {n: s for n, s in parent.mirror_traffic.items() if n != key[1]},
                        }
                    )
                )

    def forget_endpoint(self, name: str) -> None:
        """All behind the endpoint is gone: so is it."""
        with self._table.lock:
            if name in self._table.endpoints and not self._table.names(name):
                self._table.forget_endpoint(name)

    def _scaling_file(self, key: Key) -> Path:
        return self._table.folder / key[0] / key[1] / SCALING_FILE


def read_scale_events(path: Path, last: int = EVENTS_SHOWN) -> list[ScaleEvent]:
    """The last changes in a file that ``scale`` wrote; a line that was cut short is left out."""
    try:
        lines = path.read_text("utf-8").splitlines()[-last:]
    except FileNotFoundError:
        return []
    events = []
    for line in lines:
        try:
            events.append(ScaleEvent.model_validate_json(line))
        except ValueError:
            logger.warning("%s: a line cannot be read", path)
    return events


def describe(event: ScaleEvent) -> str:
    """A change in a line."""
    return f"autoscale: {event.from_instances} → {event.to_instances} instances: {event.reason}"
