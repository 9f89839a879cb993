"""What a cache would have saved on recorded traffic, before a line of code is changed.

========  ==================================================================================
room      what it does
========  ==================================================================================
traffic   one recorded call, and what a reader of a format hands on
formats/  chat-completions logs, LangChain dumps, OpenTelemetry spans, plain lines → calls
rules     what a policy says of a call: read, write or neither; whose; under which resources
ledger    the model of a cache: what is stored, when which tag was moved, in bounded memory
tally     what is counted, by tool and in all
loops     the loop detector, asked about each session
run       one pass over the files
suggest   a policy proposed from names and from what was observed
========  ==================================================================================

The cache is a model without delay that never runs out of room; the rules of tags and the loop detector are the library's
own. What does *not* belong here: anything that calls a tool, and the terminal.
"""

from agent_cache.simulate.formats import read_trace
from agent_cache.simulate.rules import Rules
from agent_cache.simulate.run import Options, simulate
from agent_cache.simulate.suggest import Suggested, Suggestion, suggest
from agent_cache.simulate.tally import LoopFound, Report, ToolTally
from agent_cache.simulate.traffic import Call, TraceError, Turn

__all__ = [
    "Call",
    "LoopFound",
    "Options",
    "Report",
    "Rules",
    "Suggested",
    "Suggestion",
    "ToolTally",
    "TraceError",
    "Turn",
    "read_trace",
    "simulate",
    "suggest",
]
