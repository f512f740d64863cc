from __future__ import annotations

import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.pipelines import expressions
from tunesmith.pipelines.expressions import ExpressionError


def render(command: str, **inputs: str | None) -> str:
    return expressions.render_command(command, inputs=inputs, outputs={"out": "/tmp/o"}, name="job_1")


def words(command: str) -> list[str]:
    """What a program gets when a shell runs ``printf`` with the command's words."""
    done = subprocess.run(["bash", "-c", f"printf '%s\\0' {command}"], capture_output=True, check=True)
    return done.stdout.decode().split("\0")[:-1]


@pytest.mark.parametrize(
    ("text", "form", "names"),
    [
        ("${{inputs.x}}", "input", ("x",)),
        ("${{ inputs.x }}", "input", ("x",)),
        ("${{inputs.x.path}}", "input", ("x",)),
        ("${{outputs.x}}", "output", ("x",)),
        ("${{parent.inputs.x}}", "parent_input", ("x",)),
        ("${{parent.outputs.x}}", "parent_output", ("x",)),
        ("${{parent.jobs.my-step.outputs.o}}", "node_output", ("my-step", "o")),
        ("${{name}}", "name", ()),
    ],
)
def test_forms(text: str, form: str, names: tuple[str, ...]) -> None:
    found = expressions.whole(text)
    assert found is not None
    assert (found.form, found.names) == (form, names)


def test_what_is_no_expression() -> None:
    assert expressions.whole("plain") is None
    assert expressions.whole("a ${{inputs.x}}") is None
    with pytest.raises(ExpressionError, match="is not an expression that is known here"):
        expressions.whole("${{secrets.x}}")
    with pytest.raises(ExpressionError, match="not closed"):
        expressions.find("echo ${{inputs.x")


def test_values_and_optional_parts() -> None:
    command = "run --a ${{inputs.a}} $[[--b ${{inputs.b}}]] $[[--c ${{inputs.c}} --out ${{outputs.out}}]] ${{name}}"
    assert render(command, a="1", b=None, c="3").split() == ["run", "--a", "1", "--c", "3", "--out", "/tmp/o", "job_1"]
    assert expressions.required_inputs(command) == {"a"}


def test_a_required_value_that_is_missing() -> None:
    with pytest.raises(KeyError, match="needs a value for the input 'a'"):
        render("run ${{inputs.a}}", a=None)


@given(st.text(alphabet=st.characters(exclude_characters="\0", exclude_categories=["Cs"])))
def test_a_value_is_one_word_wherever_it_stands(value: str) -> None:
    """Text from outside never becomes a command: unquoted, in single quotes, in double quotes, inside a word."""
    command = "${{inputs.v}} '${{inputs.v}}' \"${{inputs.v}}\" --x=${{inputs.v}} \"a'${{inputs.v}}\" 'b\"${{inputs.v}}'"
    assert words(render(command, v=value)) == [value, value, value, f"--x={value}", f"a'{value}", f'b"{value}']


def test_an_escaped_quote_does_not_open_quotes() -> None:
    assert words(render("\\' ${{inputs.v}}", v="a b; c")) == ["'", "a b; c"]
