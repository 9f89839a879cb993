"""Cassettes: the tool calls of one run, recorded, and given again without running a tool.

========  ==========================================================================
room      what it does
========  ==========================================================================
values    an argument as readable JSON that tells types apart; redaction; the call's key
outcomes  what a tool returned or raised as data, and back
lines     one recorded call and its line in the file; everything that is checked of a line
files     reading a file that may be hostile, writing one that may be torn off
nearest   the recorded call most like one that was not recorded
checks    what a recorded run says of its tools' declarations
tape      one run over a cassette: what is asked next, what is kept
========  ==========================================================================

What does not belong here: running tools, waiting, and loop detection (:mod:`agent_cache.engine.taped`); what a session
is. Nothing here imports by a name found in a file, and nothing pickles.
"""

from agent_cache.cassette.checks import find_narrow_writes
from agent_cache.cassette.files import Cassette, load
from agent_cache.cassette.lines import RecordedCall
from agent_cache.cassette.outcomes import replayable
from agent_cache.cassette.tape import Asked, Played, RecordMode, Tape, Taping
from agent_cache.cassette.values import Redact

__all__ = [
    "Asked",
    "Cassette",
    "Played",
    "RecordMode",
    "RecordedCall",
    "Redact",
    "Tape",
    "Taping",
    "find_narrow_writes",
    "load",
    "replayable",
]
