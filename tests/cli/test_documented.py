"""A command without help or documentation fails here, and an exit code without a line in the table."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from agent_cache.cli.app import COMMANDS, FAILED, INTERRUPTED, OK, UNREACHABLE, USAGE, app

PAGE = (Path(__file__).parents[2] / "docs" / "terminal.md").read_text("utf-8")


def _command(name: str) -> click.Command:
    found = app.get_command(click.Context(app), name)
    assert found is not None
    return found


@pytest.mark.parametrize("name", app.list_commands(click.Context(app)))
def test_every_command_has_help_and_a_place_in_the_docs(name: str) -> None:
    command = _command(name)
    assert command.name == name
    assert command.help
    assert command.get_short_help_str(60)
    assert not command.get_short_help_str(60).endswith("...")
    assert f"`agent-cache {name}" in PAGE


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_has_help_or_speaks_for_itself(name: str) -> None:
    command = _command(name)
    options = [one for one in command.params if isinstance(one, click.Option)]
    assert "--json" in {flag for one in options for flag in one.opts}
    for one in options:
        assert one.help or isinstance(one.type, click.Choice), one.name
        assert max(one.opts, key=len) in PAGE, f"{name} {one.opts} is not in docs/terminal.md"


@pytest.mark.parametrize("code", [OK, FAILED, USAGE, UNREACHABLE, INTERRUPTED])
def test_every_exit_code_is_documented(code: int) -> None:
    assert f"| {code} |" in PAGE
