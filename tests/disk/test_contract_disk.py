"""The disk backend keeps the backend contract."""

from __future__ import annotations

from itertools import count
from pathlib import Path

import pytest

from agent_cache.backends.disk import DiskBackend, files
from agent_cache.testing import BackendContract, FakeClock


class TestDisk(BackendContract):
    folder: Path
    numbers = count()

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.folder = tmp_path

    def make(self, clock: FakeClock) -> DiskBackend:
        path = self.folder / f"{next(self.numbers)}.db"
        return DiskBackend(path, settle=self.settle, clock=clock, wall=clock)

    async def settled(self) -> None:
        await self.backend.flush()


class TestSealedDisk(TestDisk):
    def make(self, clock: FakeClock) -> DiskBackend:
        path = self.folder / f"{next(self.numbers)}.db"
        return DiskBackend(path, settle=self.settle, clock=clock, wall=clock, secret="of this test")


class TestDiskThatAsksSQLite(TestDisk):
    """Where the head of the log cannot be read directly."""

    @pytest.fixture(autouse=True)
    def _unreadable(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(files, "shared_memory", lambda *_: None)
