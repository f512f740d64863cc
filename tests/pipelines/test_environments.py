from __future__ import annotations

import platform
from importlib import metadata
from typing import Any

import pytest

from tunesmith.pipelines.environments import differences

INSTALLED = metadata.version("pyyaml")


HERE = platform.python_version()
FIT = "its 1 packages are installed here in versions that fit"


def pip(*requirements: str) -> dict[str, Any]:
    return {"dependencies": [{"pip": list(requirements)}]}


@pytest.mark.parametrize(
    ("conda", "said"),
    [
        ({"dependencies": [f"python={HERE}"]}, FIT),
        (
            "dependencies:\n  - python=2.7\n",
            f"of its 1 packages 1 differ here: python==2.7.* (Python {HERE} is here)",
        ),
        (pip("pyyaml", "-r more.txt", "# note"), FIT),
        (
            pip("pyyaml<1", "not-there"),
            f"of its 2 packages 2 differ here: pyyaml<1 ({INSTALLED} is installed); not-there (not installed)",
        ),
        (pip("git+https://a/b"), "of its 1 packages 1 differ here: git+https://a/b (not understood)"),
        (pip("nothing==1; sys_platform == 'win32'"), FIT),
        ("env/conda.yml", "its packages are not known: the file env/conda.yml is not read"),
        ("a: [", "its packages are not known: the conda file is no YAML"),
        ("- a\n- b: c\n", "its packages are not known: the conda file is no mapping"),
    ],
)
def test_packages_are_compared_with_what_is_installed(conda: Any, said: str) -> None:
    assert differences("e", {"conda_file": conda}) == ["the environment e is recorded and not built", said]


def test_images_and_builds_are_not_used() -> None:
    assert differences("e", {"image": "i", "build": {"contextUri": "x"}}) == [
        "the environment e is recorded and not built",
        "its image i is not used: steps are processes of this machine",
        "its Docker build is not run: steps are processes of this machine",
    ]


def test_an_unknown_environment_is_said_to_be_unknown() -> None:
    assert differences("e", None) == [
        "the environment e is recorded and not built; the workspace does not know what is in it"
    ]
