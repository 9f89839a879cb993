"""The ``agent_cassette`` fixture, in runs of pytest of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

TESTS = """
import pytest
from agent_cache import watched

calls = []

@watched
def roll(sides: int, token: str = "hunter2") -> int:
    calls.append(sides)
    return len(calls)

def test_roll(agent_cassette):
    with agent_cassette:
        assert roll(6) == 1
    print("ran", len(calls))

@pytest.mark.agent_cassette(redact="token", path="own/place.cassette")
@pytest.mark.parametrize("sides", ["a b"])
async def test_async(agent_cassette, sides):
    calls.clear()
    async with agent_cassette:
        assert roll(8) == 1
    print("ran", len(calls))

class TestOdd:
    @pytest.mark.parametrize("x", ["a/b"])
    def test_names(self, agent_cassette, x):
        with agent_cassette:
            pass
"""


def pytest_in(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Without the plugins that happen to be installed: some load what is not to be loaded."""
    command = [sys.executable, "-m", "pytest", "-p", "agent_cache_pytest", "-p", "pytest_asyncio.plugin", "-q", "-s"]
    more = ["-p", "no:cacheprovider", "-o", "asyncio_mode=auto", "--strict-markers", "--rootdir", str(folder), *options]
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    return subprocess.run([*command, *more], cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_it_records_once_and_replays_from_then_on(tmp_path: Path) -> None:
    test = tmp_path / "test_dice.py"
    test.write_text(TESTS)
    missing = pytest_in(tmp_path, "--agent-cassette=replay", "-k", "roll")
    assert "there is no cassette" in missing.stdout
    assert missing.returncode == 1
    for ran in (1, 0):
        done = pytest_in(tmp_path)
        assert done.returncode == 0, done.stdout
        assert done.stdout.count(f"ran {ran}") == 2
    cassettes = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.cassette"))
    assert cassettes[1:] == ["cassettes/test_dice/test_roll.cassette", "own/place.cassette"]
    assert cassettes[0].startswith("cassettes/test_dice/TestOdd.test_names[a_b]-")
    assert "hunter2" not in (tmp_path / "own/place.cassette").read_text()
    test.write_text(TESTS.replace("roll(6)", "roll(7)"))
    unseen = pytest_in(tmp_path, "-k", "roll")
    assert 'nearest is roll(sides=6, token="hunter2"): sides is 7, recorded 6' in unseen.stdout
    assert pytest_in(tmp_path, "-k", "roll", "--agent-cassette=record").returncode == 0


def test_a_fixture_that_is_not_entered_is_said(tmp_path: Path) -> None:
    (tmp_path / "test_x.py").write_text("def test_x(agent_cassette):\n    pass\n")
    done = pytest_in(tmp_path)
    assert "agent_cassette was not entered" in done.stdout
    assert done.returncode == 1


def test_it_loads_nothing_of_the_cache_by_itself(tmp_path: Path) -> None:
    test = "import sys\ndef test_x():\n    assert not {'agent_cache', 'pydantic'} & set(sys.modules)\n"
    (tmp_path / "test_x.py").write_text(test)
    done = pytest_in(tmp_path)
    assert done.returncode == 0, done.stdout
