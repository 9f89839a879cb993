"""The pytest plugin: ``agent_cassette``, a session that records the test's tool calls once and replays them from then on.

It stands outside the package so that pytest, which loads every installed plugin at its start, does not load the cache with
it: nothing of ``agent_cache`` is imported before a test asks for the fixture.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from agent_cache import AgentCacheSession

__all__ = ["agent_cassette", "cassette_path"]

_MODES = ("once", "record", "replay", "new_episodes")
_LONGEST = 120


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--agent-cassette``."""
    parser.getgroup("agent_cache").addoption(
        "--agent-cassette",
        choices=_MODES,
        default="once",
        help="the agent_cassette fixture: record when missing, else replay (once); record anew; only replay; or replay "
        "what is there and record the rest (new_episodes)",
    )


def pytest_configure(config: pytest.Config) -> None:
    """The marker."""
    text = "agent_cassette(path=None, **options): where the test's cassette is, and options for its AgentCacheSession"
    config.addinivalue_line("markers", text)


def cassette_path(test: Path, name: str) -> Path:
    """Where a test's cassette is: ``cassettes/<module>/<test>.cassette`` beside it; odd names get a digest."""
    plain = re.sub(r"[^A-Za-z0-9_.\[\]-]", "_", name)[:_LONGEST]
    if plain != name:
        plain += "-" + hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=4).hexdigest()
    return test.parent / "cassettes" / test.stem / f"{plain}.cassette"


@pytest.fixture
def agent_cassette(request: pytest.FixtureRequest) -> Iterator[AgentCacheSession]:
    """A session to be entered around the agent: ``async with agent_cassette:`` (or ``with``).

    Records where there is no cassette of a run that ended well, else replays strictly; ``--agent-cassette`` says otherwise.
    It is not entered for the test: what a fixture opens is not open in every event loop's context.
    """
    from agent_cache import AgentCacheSession

    options: dict[str, Any] = {}
    for marker in reversed([*request.node.iter_markers("agent_cassette")]):
        options |= marker.kwargs
    given = options.pop("path", None)
    name = request.node.name if request.cls is None else f"{request.cls.__qualname__}.{request.node.name}"
    path = cassette_path(request.path, name) if given is None else request.path.parent / given
    mode = str(request.config.getoption("--agent-cassette"))
    if mode == "replay" and not path.exists():
        pytest.fail(f"there is no cassette {path}; record it with --agent-cassette=record", pytrace=False)
    how: dict[str, Any] = {"replay": path}
    if mode != "replay":
        how = {"record": path, "record_mode": "all" if mode == "record" else mode}
    session = AgentCacheSession(**how, **options)
    yield session
    if not session.was_entered:
        pytest.fail("agent_cassette was not entered: write 'async with agent_cassette:'", pytrace=False)
