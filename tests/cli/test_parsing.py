"""What the command line reads from options and files, and how it says what is wrong."""

from pathlib import Path

import pytest

from tunesmith.cli.parsing import pairs, read_json, read_yaml, reference, traffic
from tunesmith.errors import InvalidData, NotFound, UserError


def test_pairs() -> None:
    assert pairs(["a=1", "b=x=y"], "--set") == {"a": "1", "b": "x=y"}


def test_pairs_names_the_option() -> None:
    with pytest.raises(UserError, match=r"--tag: 'a' is not of the form key=value"):
        pairs(["a"], "--tag")


def test_traffic() -> None:
    assert traffic("blue=90,green=10") == {"blue": 90, "green": 10}
    assert traffic("") == {}


def test_traffic_wants_whole_numbers() -> None:
    with pytest.raises(UserError, match=r"traffic.blue: '9.5' is not a whole number"):
        traffic("blue=9.5")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("m", ("m", None, None)),
        ("m:3", ("m", "3", None)),
        ("m@latest", ("m", None, "latest")),
        ("m:a:b", ("m", "a:b", None)),
    ],
)
def test_reference(text: str, parts: tuple[str, str | None, str | None]) -> None:
    assert reference(text) == parts


def test_yaml_fault_has_its_line(tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_text("a: 1\nb: [1,\nc: 2\n")
    with pytest.raises(InvalidData, match=r"job.yaml:\d: not valid YAML"):
        read_yaml(file)


def test_yaml_must_be_a_mapping(tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_text("- 1\n")
    with pytest.raises(InvalidData, match="holds no mapping"):
        read_yaml(file)


def test_yaml_must_be_text(tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_bytes(b"\xff\xfe\x00a")
    with pytest.raises(InvalidData, match="not UTF-8"):
        read_yaml(file)


def test_missing_files(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="there is no file"):
        read_yaml(tmp_path / "none.yaml")
    with pytest.raises(NotFound, match="there is no file"):
        read_json(tmp_path / "none.json")


def test_json_fault_has_its_line(tmp_path: Path) -> None:
    file = tmp_path / "request.json"
    file.write_text('{\n"a": }')
    with pytest.raises(InvalidData, match=r"request.json:2: not valid JSON"):
        read_json(file)
