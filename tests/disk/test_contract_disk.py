"""The disk backend keeps the backend contract."""

from __future__ import annotations

from itertools import count
from pathlib import Path

import pytest

from agent_cache.backends.disk import DiskBackend
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
