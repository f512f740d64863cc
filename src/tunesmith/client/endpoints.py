"""``workspace.endpoints``."""

from __future__ import annotations

import builtins
import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, overload
from urllib.parse import urlencode

from tunesmith.client.assets import segment
from tunesmith.client.polling import until_gone
from tunesmith.client.printing import Listing
from tunesmith.client.transport import Transport
from tunesmith.client.views import ChatAnswer, ChatChunk, Endpoint, EndpointKeys
from tunesmith.errors import Failure, NotAuthenticated, error_from_dict
from tunesmith.records.endpoints import CreateEndpoint, EndpointToken, UpdateEndpoint
from tunesmith.records.serving import ConversationExport, DeploymentMetrics, RequestLine
from tunesmith.records.validation import parse
from tunesmith.records.workspace import Deleted

PATH = "/api/v1/endpoints"
DEPLOYMENT_HEADER = "azureml-model-deployment"


class Endpoints:
    """Stable URLs with keys and a traffic split over deployments.

    Examples:
        >>> endpoint = ws.endpoints.create_or_update("chat", description="answers")
        >>> endpoint.scoring_uri == f"{ws.url}/endpoints/chat/score"
        True
        >>> old = ws.endpoints.keys("chat")
        >>> new = ws.endpoints.regenerate_key("chat", "secondary")
        >>> old.primary_key == new.primary_key, old.secondary_key == new.secondary_key
        (True, False)
        >>> freed = ws.endpoints.delete("chat")
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._keys: dict[str, str] = {}

    def create_or_update(
        self,
        name: str,
        *,
        auth_mode: Literal["key", "aml_token"] = "key",
        description: str = "",
        tags: Mapping[str, str] | None = None,
        properties: Mapping[str, str] | None = None,
        traffic: Mapping[str, int] | None = None,
        mirror_traffic: Mapping[str, int] | None = None,
    ) -> Endpoint:
        """Create an endpoint with two keys, or change it.

        Args:
            name: 3 to 32 letters, digits and hyphens, starting with a letter.
            auth_mode: ``key``, or ``aml_token`` for short-lived tokens.
            description: What it is for.
            tags: Free pairs.
            properties: Free pairs.
            traffic: Percent by deployment, summing to 0 or 100.
            mirror_traffic: Percent (at most 50) to one deployment, whose answers are dropped.
        """
        given = {
            "name": name,
            "auth_mode": auth_mode,
            "description": description,
            "tags": dict(tags or {}),
            "properties": dict(properties or {}),
            "traffic": None if traffic is None else dict(traffic),
            "mirror_traffic": None if mirror_traffic is None else dict(mirror_traffic),
        }
        body = parse(CreateEndpoint, {key: value for key, value in given.items() if value is not None})
        return Endpoint.model_validate(self._transport.request("PUT", self._path(name), body=body))

    def get(self, name: str) -> Endpoint:
        """One endpoint by name."""
        return Endpoint.model_validate(self._transport.request("GET", self._path(name)))

    def list(self) -> Listing[Endpoint]:
        """All endpoints."""
        found = [Endpoint.model_validate(item) for item in self._transport.request("GET", PATH)]
        return Listing(
            found,
            (
                ("name", lambda endpoint: endpoint.name),
                ("state", lambda endpoint: endpoint.provisioning_state),
                ("deployments", lambda endpoint: endpoint.deployments),
                ("traffic", lambda endpoint: endpoint.traffic),
                ("score", lambda endpoint: endpoint.scoring_uri),
            ),
            what="endpoints",
        )

    def update(
        self,
        name: str,
        *,
        traffic: Mapping[str, int] | None = None,
        mirror_traffic: Mapping[str, int] | None = None,
        auth_mode: Literal["key", "aml_token"] | None = None,
        description: str | None = None,
        tags: Mapping[str, str] | None = None,
        properties: Mapping[str, str] | None = None,
    ) -> Endpoint:
        """Change the parts that are given. New requests follow a new traffic split at once."""
        given = {
            "traffic": None if traffic is None else dict(traffic),
            "mirror_traffic": None if mirror_traffic is None else dict(mirror_traffic),
            "auth_mode": auth_mode,
            "description": description,
            "tags": None if tags is None else dict(tags),
            "properties": None if properties is None else dict(properties),
        }
        if auth_mode is not None:
            self._keys.pop(name, None)
        body = parse(UpdateEndpoint, {key: value for key, value in given.items() if value is not None})
        return Endpoint.model_validate(self._transport.request("PATCH", self._path(name), body=body))

    def delete(self, name: str, *, wait: bool = True, timeout: float = 300.0) -> int | None:
        """Delete an endpoint with its deployments; with ``wait``, return once their processes and ports are free.

        Returns the bytes of their folders, where known.

        Raises:
            NotFound: there is no such endpoint.
            RequestTimeout: ``timeout`` seconds have passed; the deletion goes on.
        """
        body = self._transport.request("DELETE", self._path(name), slow=True)
        self._keys.pop(name, None)
        if wait:
            until_gone(lambda: self.get(name), what=f"endpoint {name}", timeout=timeout)
        return Deleted.model_validate(body or {}).freed_bytes

    def keys(self, name: str) -> EndpointKeys:
        """The two keys of an endpoint."""
        return EndpointKeys.model_validate(self._transport.request("GET", f"{self._path(name)}/keys"))

    def regenerate_key(self, name: str, key: Literal["primary", "secondary"] | str = "primary") -> EndpointKeys:
        """Make one key anew; the other goes on working."""
        path = f"{self._path(name)}/keys/{segment(key)}/regenerate"
        self._keys.pop(name, None)
        return EndpointKeys.model_validate(self._transport.request("POST", path))

    def token(self, name: str) -> EndpointToken:
        """A short-lived token of an endpoint whose ``auth_mode`` is ``aml_token``.

        Raises:
            Conflict: it is opened by keys.
        """
        return EndpointToken.model_validate(self._transport.request("POST", f"{self._path(name)}/token"))

    def invoke(self, name: str, request: Mapping[str, Any] | str | Path, deployment: str | None = None) -> Any:
        """Call ``/score`` with one of Azure's payloads and return its JSON.

        Args:
            name: Of the endpoint.
            request: The payload, or the path of a JSON file with it.
            deployment: Go straight to this one, whatever the traffic split.

        Raises:
            ModelFailed: the model answered with an error.
            Unavailable: no instance is ready.
        """
        body = json.loads(Path(request).read_bytes()) if isinstance(request, str | Path) else request
        return self._call(name, f"/endpoints/{segment(name)}/score", body, deployment)

    @overload
    def chat(
        self,
        name: str,
        messages: Sequence[Mapping[str, Any]] | str,
        deployment: str | None = None,
        *,
        stream: Literal[False] = False,
        **parameters: Any,
    ) -> ChatAnswer: ...
    @overload
    def chat(
        self,
        name: str,
        messages: Sequence[Mapping[str, Any]] | str,
        deployment: str | None = None,
        *,
        stream: Literal[True],
        **parameters: Any,
    ) -> Iterator[ChatChunk]: ...
    def chat(
        self,
        name: str,
        messages: Sequence[Mapping[str, Any]] | str,
        deployment: str | None = None,
        *,
        stream: bool = False,
        **parameters: Any,
    ) -> ChatAnswer | Iterator[ChatChunk]:
        """Call ``/v1/chat/completions``.

        Args:
            name: Of the endpoint.
            messages: Mappings with ``role`` and ``content``, or a text: one message of the user.
            deployment: Go straight to this one, whatever the traffic split.
            stream: Return an iterator of chunks instead of the whole answer.
            parameters: OpenAI's: ``max_tokens``, ``temperature``, ``top_p``, ``stop``, ``seed``, … What the engine
                cannot honour is an error that names it.
        """
        conversation = [{"role": "user", "content": messages}] if isinstance(messages, str) else list(messages)
        body = {"model": name, "messages": conversation, **parameters}
        path = f"/endpoints/{segment(name)}/v1/chat/completions"
        if stream:
            return self._chunks(name, path, {**body, "stream": True}, deployment)
        return ChatAnswer(self._call(name, path, body, deployment))

    def call(self, name: str, path: str, body: Mapping[str, Any], deployment: str | None = None) -> Any:
        """Call ``path`` below an endpoint, such as ``v1/completions``, with its key, and return the JSON.

        Args:
            name: Of the endpoint.
            path: Below the endpoint's own.
            body: What is sent, as JSON. It cannot ask for a stream.
            deployment: Go straight to this one, whatever the traffic split.
        """
        return self._call(name, f"/endpoints/{segment(name)}/{path.lstrip('/')}", body, deployment)

    def logs(self, name: str, lines: int = 100, *, deployment: str | None = None) -> str:
        """The last ``lines`` of the log of every deployment's instances, each line headed by the deployment's name.

        Args:
            name: Of the endpoint.
            lines: Of each deployment.
            deployment: Only of this one.
        """
        text = ""
        for each in self.get(name).deployments if deployment is None else [deployment]:
            path = f"{self._path(name)}/deployments/{segment(each)}/logs"
            log = self._transport.text(path, params={"lines": lines})
            text += "".join(f"{each}: {line}\n" for line in log.splitlines())
        return text

    def metrics(self, name: str) -> builtins.list[DeploymentMetrics]:
        """The figures of each deployment since the server started."""
        body = self._transport.request("GET", f"{self._path(name)}/metrics")
        return [DeploymentMetrics.model_validate(item) for item in body]

    def requests(self, name: str, deployment: str | None = None, *, lines: int = 100) -> builtins.list[RequestLine]:
        """The newest entries of the request log, the oldest of them first."""
        params = {"deployment": deployment, "lines": lines}
        body = self._transport.request("GET", f"{self._path(name)}/requests", params=params)
        return [RequestLine.model_validate(item) for item in body]

    def export_conversations(
        self,
        name: str,
        out: str | Path,
        deployment: str | None = None,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        include_cut: bool = False,
    ) -> ConversationExport:
        """Write what the data collector kept as training rows, ``{"messages": […]}``, one a line.

        Args:
            name: Of the endpoint; it may be deleted since.
            out: The file to write; one that is there is replaced.
            deployment: Only of this one.
            since: From this time on.
            until: Before this time.
            include_cut: Also answers that were cut at their token limit.

        Returns:
            How many were written, and how many left out and why.
        """
        query = urlencode(
            {
                key: value
                for key, value in {
                    "deployment": deployment,
                    "since": None if since is None else since.isoformat(),
                    "until": None if until is None else until.isoformat(),
                    "include_cut": str(include_cut).lower(),
                }.items()
                if value is not None
            }
        )
        path = Path(out)
        received = path.with_name(path.name + ".received")
        try:
            self._transport.download(f"{self._path(name)}/conversations?{query}", received)
            return _take_report(received, path)
        finally:
            received.unlink(missing_ok=True)

    def delete_conversations(self, name: str, deployment: str | None = None) -> int | None:
        """Delete what the data collector kept; the bytes freed."""
        params = {"deployment": deployment}
        body = self._transport.request("DELETE", f"{self._path(name)}/conversations", params=params, slow=True)
        return Deleted.model_validate(body or {}).freed_bytes

    def _path(self, name: str) -> str:
        return f"{PATH}/{segment(name)}"

    def _headers(self, name: str, deployment: str | None) -> dict[str, str]:
        if name not in self._keys:
            by_token = self.get(name).auth_mode == "aml_token"
            self._keys[name] = self.token(name).access_token if by_token else self.keys(name).primary_key
        headers = {"Authorization": f"Bearer {self._keys[name]}"}
        return headers | ({DEPLOYMENT_HEADER: deployment} if deployment else {})

    def _call(self, name: str, path: str, body: Mapping[str, Any], deployment: str | None) -> Any:
        cached = name in self._keys
        try:
            return self._transport.request("POST", path, body=body, headers=self._headers(name, deployment), slow=True)
        except NotAuthenticated:
            if not cached:
                raise
        # The key was changed since it was read; the request was refused before it did anything.
        del self._keys[name]
        return self._transport.request("POST", path, body=body, headers=self._headers(name, deployment), slow=True)

    def _chunks(
        self, name: str, path: str, body: Mapping[str, Any], deployment: str | None, *, again: bool = True
    ) -> Iterator[ChatChunk]:
        cached = name in self._keys
        try:
            events = self._transport.events(path, method="POST", body=body, headers=self._headers(name, deployment))
            for event in events:
                if event.data == "[DONE]":
                    return
                chunk = json.loads(event.data)
                if "error" in chunk:
                    raise error_from_dict(chunk)
                yield ChatChunk(chunk)
        except NotAuthenticated:
            if not (cached and again):
                raise
            del self._keys[name]
            yield from self._chunks(name, path, body, deployment, again=False)
            return
        raise Failure(f"the answer of endpoint {name} broke off", way_out="try again; the instance's log has the cause")


def _take_report(received: Path, out: Path) -> ConversationExport:
    """Move the rows of ``received`` to ``out``, and read the report that is its last line."""
    aside = out.with_name(out.name + ".part")
    report: ConversationExport | None = None
    with received.open("rb") as lines, aside.open("wb") as rows:
        for line in lines:
            if line.startswith(b'{"export"'):
                report = ConversationExport.model_validate(json.loads(line)["export"])
            else:
                rows.write(line)
    if report is None:
        aside.unlink()
        raise Failure("the export broke off: its last line is missing", target=str(out), way_out="try again")
    aside.replace(out)
    return report
