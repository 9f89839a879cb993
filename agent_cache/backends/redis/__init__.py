"""Entries, tags and write windows in Redis, shared by any number of processes and hosts.

==========  ==========================================================================
room        what it does
==========  ==========================================================================
records     what is written in Redis, byte by byte: keys, tag records, entries
scripts     the Lua: every change of a tag record is one script, one round trip
blueprint   where Redis is and how to make a connection to it (URL, Sentinel, Cluster, a client handed in)
resp        commands as bytes, and replies from bytes
plans       a call's tags as keys: which stand in one slot
looks       the reads of one tick as one command
stream      one connection's bytes, once redis-py has made it
wire        one connection on one loop: what is asked in one tick travels together
links       the wires of one backend on every loop, slots, the breaker
sizes       values that were too large for this Redis lately
keeper      what must go on meanwhile: renewing windows and leads, ends not delivered
bus         word of every invalidation, and proof that none is missing
opened      entries opened lately: the same bytes are not opened again
keyvalue    the plain key-value cache
backend     the protocol itself, on top of all of these
doctor      what is wrong with a Redis, and what mends it
==========  ==========================================================================

``import agent_cache`` does not come here: redis-py is an extra.
"""

from agent_cache.backends.redis.backend import RedisBackend

__all__ = ["RedisBackend"]
