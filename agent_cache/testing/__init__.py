"""Tools for testing what is built on agent_cache, and agent_cache itself.

Here live a clock that only moves when told, an event loop whose time is virtual, and (in
:mod:`agent_cache.testing.litmus`) the litmus: random but repeatable schedules of reads and writes that search for a
stale answer. Nothing in here is imported by the library at run time, and nothing in here needs a test framework:
fixtures and test cases do not belong here.

The litmus is not imported with the package, so that it also runs as ``python -m agent_cache.testing.litmus``.
"""

from __future__ import annotations

from agent_cache.testing.clock import FakeClock, HangError, VirtualTimeLoop, run_virtual
from agent_cache.testing.contract import BackendContract as BackendContract

__all__ = ["FakeClock", "HangError", "VirtualTimeLoop", "run_virtual"]
