from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.errors import ValidationFailed
from tunesmith.storage import names
from tunesmith.storage.paths import WorkspacePaths

RULES = [value for value in vars(names).values() if isinstance(value, names.Rule)]
EVIL = ["", ".", "..", "../x", "a/b", "a\\b", "/a", "a\0b", "a\n", ".hidden", "-flag", "a b", "ä", "a" * 300]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.what)
@pytest.mark.parametrize("text", EVIL)
def test_no_rule_admits_what_could_leave_a_folder(rule: names.Rule, text: str) -> None:
    with pytest.raises(ValidationFailed) as caught:
        rule.check(text, "field")
    assert caught.value.target == "field"
    assert rule.words in str(caught.value.way_out)


@given(st.text(max_size=40))
def test_what_any_rule_admits_is_one_plain_part_of_a_path(text: str) -> None:
    for rule in RULES:
        if rule.admits(text):
            assert names.PLAIN_NAME.admits(text)
            assert (Path("/root") / text).parent == Path("/root")


@pytest.mark.parametrize(
    ("rule", "good", "bad"),
    [
        (names.ASSET_NAME, ["Phi-3.5-mini_instruct", "1", "a" * 255], ["a" * 256, "_a"]),
        (names.ASSET_VERSION, ["1", "2026-11-24T10.30", "1.0.0+cpu", "v2~rc1"], ["1:2", "+1", "v" * 101]),
        (names.COMPUTE_NAME, ["cpu", "gpu-cluster-big", "a" * 24], ["ab", "a" * 25, "1ab", "ab-", "a_b"]),
        (names.ENDPOINT_NAME, ["chat", "my-endpoint-1", "a" * 32], ["ab", "a" * 33, "1ab", "ab-", "a.b"]),
        (names.LABEL, ["latest", "stable.1"], ["1", "a@b"]),
        (names.REGISTRY_NAME, ["azureml", "azureml-meta"], ["a", "a.b", "a" * 34]),
        (names.JOB_NAME, ["quiet_river_123", "1-2"], ["a.b", "_a"]),
    ],
    ids=lambda value: value.what if isinstance(value, names.Rule) else "",
)
def test_the_rules_are_azures(rule: names.Rule, good: list[str], bad: list[str]) -> None:
    assert [text for text in good if not rule.admits(text)] == []
    assert [text for text in bad if rule.admits(text)] == []


def test_joining_stays_below_the_root(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    assert names.safe_join(tmp_path, "inner/new.txt") == tmp_path / "inner" / "new.txt"
    assert names.safe_join(tmp_path, "") == tmp_path
    assert names.safe_join(tmp_path, "./inner//x") == tmp_path / "inner" / "x"


@pytest.mark.parametrize("path", ["..", "../x", "inner/../../x", "/etc/passwd", "a\\..\\b", "a\0b", "inner/.."])
def test_joining_refuses_ways_out(tmp_path: Path, path: str) -> None:
    with pytest.raises(ValidationFailed, match="may leave its folder"):
        names.safe_join(tmp_path, path)


def test_joining_refuses_links_that_lead_out(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "secret").write_text("x")
    (root / "link").symlink_to(tmp_path / "secret")
    (root / "folder").symlink_to(tmp_path)
    (root / "fine").symlink_to(root / "other")
    for path in ("link", "folder/secret"):
        with pytest.raises(ValidationFailed, match="link that leaves its folder"):
            names.safe_join(root, path)
    assert names.safe_join(root, "fine") == root / "fine"


def test_paths_of_the_workspace_refuse_names_that_leave_it(tmp_path: Path) -> None:
    paths = WorkspacePaths(tmp_path)
    makers: tuple[Callable[[str], Path], ...] = (
        lambda name: paths.job(name),
        lambda name: paths.job_output("job", name),
        lambda name: paths.package("azureml", name, "1"),
        lambda name: paths.package("azureml", "a", name),
        lambda name: paths.package(name, "a", "1"),
        lambda name: paths.endpoint(name),
        lambda name: paths.deployment("endpoint", name),
        lambda name: paths.instance("endpoint", "blue", name),
        lambda name: paths.cached_step(name),
    )
    for make in makers:
        with pytest.raises(ValidationFailed):
            make("../x")


def test_every_path_of_the_workspace_lies_in_it(tmp_path: Path) -> None:
    paths = WorkspacePaths(tmp_path / "home")
    paths.make()
    found = [getattr(paths, name) for name, value in vars(WorkspacePaths).items() if isinstance(value, property)]
    assert len(found) > 20
    assert all(path.is_relative_to(tmp_path / "home") for path in found)
    assert all(path.stat().st_mode & 0o777 == 0o700 for path in (tmp_path / "home").iterdir())
