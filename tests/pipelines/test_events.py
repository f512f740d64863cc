from __future__ import annotations

from pathlib import Path

import pytest

from tunesmith.errors import UserError
from tunesmith.pipelines import events
from tunesmith.pipelines.events import JobEvents, read_lines
from tunesmith.pipelines.graph import Graph, GraphStep
from tunesmith.pipelines.layout import JobFolder, append_line

GRAPH = Graph(
    steps=[
        GraphStep(
            name=name, component="c", component_version="1", component_id="c", component_sha256="", command="true"
        )
        for name in ("one", "p/two")
    ]
)


def test_whole_lines_only(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    assert read_lines(path, 0) == ([], 0)
    path.write_text('{"kind": "a"}\nnot json\n[1]\n{"kind": "b"}\n{"kind": "c"')
    found, offset = read_lines(path, 0)
    assert [event["kind"] for _, event in found] == ["a", "b"]
    assert read_lines(path, offset) == ([], offset)
    with path.open("a") as file:
        file.write("}\n")
    assert [event["kind"] for _, event in read_lines(path, offset)[0]] == ["c"]
    assert [event["kind"] for _, event in read_lines(path, found[0][0])[0]] == ["b", "c"]


def test_a_line_longer_than_a_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "BLOCK", 16)
    path = tmp_path / "events.jsonl"
    path.write_text('{"kind": "log", "message": "' + "x" * 100 + '"}\n{"kind": "b"}\n')
    seen, offset = [], 0
    while found := read_lines(path, offset)[0]:
        seen += [event["kind"] for _, event in found]
        offset = found[-1][0]
    assert seen == ["log", "b"]


def test_a_line_after_one_that_was_cut_starts_afresh(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text('{"kind": "a"}\n{"kind": "cu')
    append_line(path, {"kind": "b"})
    assert [event["kind"] for _, event in read_lines(path, 0)[0]] == ["a", "b"]


def test_one_stream_in_order_of_time_that_goes_on_from_any_event(tmp_path: Path) -> None:
    folder = JobFolder(tmp_path)
    for step in GRAPH.steps:
        folder.step(step.folder).root.mkdir(parents=True)
    append_line(folder.events, {"t": 1, "kind": "job", "status": "Running"})
    append_line(folder.events, {"t": 5, "kind": "step", "step": "one", "status": "Completed"})
    append_line(folder.step("one").events, {"t": 2, "kind": "metric", "step": 7, "values": {"loss": 1.0}})
    append_line(folder.step("one").events, {"t": 4, "kind": "log", "message": "x"})
    append_line(folder.step("p.two").events, {"t": 3, "kind": "notice", "code": "N", "message": "m"})
    found = JobEvents(folder, GRAPH).read()
    assert [(event.t, event.kind, event.step) for event in found] == [
        (1.0, "job", None),
        (2.0, "metric", "one"),
        (3.0, "notice", "p/two"),
        (4.0, "log", "one"),
        (5.0, "step", "one"),
    ]
    assert found[1].data == {"step": 7, "values": {"loss": 1.0}}
    for position, event in enumerate(found):
        assert JobEvents(folder, GRAPH, event.id).read() == found[position + 1 :]
    for wrong in ("x", "1-2", "-1-0-0", "1--2-3"):
        with pytest.raises(UserError):
            JobEvents(folder, GRAPH, wrong)
