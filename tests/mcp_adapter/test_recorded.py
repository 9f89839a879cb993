"""An MCP client's calls recorded and replayed: the server is not asked, failures included."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agent_cache import AgentCacheSession


@pytest.mark.parametrize("door", ["client"])
async def test_calls_of_a_client(doors: Any, door: str, tmp_path: Path) -> None:
    async with doors.open(door) as call:

        async def run() -> list[Any]:
            results = [await call("get_user", user_id="1"), await call("set_user", user_id="1", name="new")]
            results += [await call("get_user", user_id="1"), await call("fails", user_id="1"), await call("touch")]
            return [(result.content, result.is_error) for result in results]

        async with AgentCacheSession(record=tmp_path / "c"):
            seen = await run()
        before = (await call("counts")).content
        async with AgentCacheSession(replay=tmp_path / "c") as session:
            assert await run() == seen
        assert session.unplayed() == ()
        assert (await call("counts")).content == before
    assert seen[3][1] is True
