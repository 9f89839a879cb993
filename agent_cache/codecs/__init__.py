"""Results in and out of storage: a hit equals a miss.

This room answers one question: how is a tool's result kept so that every caller gets
an equal value of its own, of the same types at every depth? What cannot be kept that
way is refused with :class:`~agent_cache.errors.UnstorableResultError`, never bent.

========  =======================================================================
room      what it does
========  =======================================================================
compare   strict deep equality (:func:`same`) and the digest that goes with it
near      the form kept in the process: shared, marshalled, copied (:class:`Stored`)
tree      the tagged JSON text a far tier keeps
types     which classes a return annotation reaches, and the schema fingerprint
frame     the head of every written form
packed    a written form made smaller, and out again within a limit
tool      choosing among these per tool (:class:`ToolCodec`)
lasting   exceptions as answers, and a source's version beside a value
========  =======================================================================

What does not belong here: keys (arguments have their own canonical form), where bytes
are kept, how long, and whether they are still current. Nothing here imports a class by
a name found in data, and nothing pickles.
"""

from agent_cache.codecs.compare import same
from agent_cache.codecs.lasting import Failure, LastingCodec, Marked
from agent_cache.codecs.near import Stored
from agent_cache.codecs.tool import Codec, ToolCodec, codec_for, with_user_codec

__all__ = ["Codec", "Failure", "LastingCodec", "Marked", "Stored", "ToolCodec", "codec_for", "same", "with_user_codec"]
