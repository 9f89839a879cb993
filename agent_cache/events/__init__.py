"""What happened, in a file: an observer that writes events as JSON lines, and a reader of such files.

=======  ===================================================================================================================
lines    an event as a line, and back; what a line says unless more is asked for
log      :class:`EventLog`, the observer: bounded, rotating, written by a thread of its own
reading  :func:`read_events`: files of events, rotated ones included, as one history
=======  ===================================================================================================================

What events mean is :mod:`agent_cache.model`'s business; what is made of many of them :mod:`agent_cache.reporting`'s.
"""

from __future__ import annotations

from agent_cache.events.lines import Recorded
from agent_cache.events.log import EventLog
from agent_cache.events.reading import Unread, read_events

__all__ = ["EventLog", "Recorded", "Unread", "read_events"]
