"""A cache in one SQLite file, shared by the processes of one host.

=========== ======================================================================
module      what belongs there
=========== ======================================================================
names       how tags, chains, groups and keys are called in the file; the seal of an entry
clocks      which clock, which boot
schema      the SQL text of the tables
files       the file itself: creating, checking, setting aside, opening; errors in our words
tagrows     the rules: versions, fences, markers, on one connection inside one transaction
room        keeping the file within its bounds
watch       whether anything was committed since, for next to nothing
nearby      entries read a moment ago, decoded
leases      open windows and leads of this process
leadtable   who loads what on this host: locks and slots of a small file beside the cache
pending     fills not yet in the file
writer      the one thread that writes
reading     looking entries up
store       the blocking surface for tools' entries
figures     figures over time (record_stats)
keyvalue    the blocking surface for people
backend     the asynchronous surface
=========== ======================================================================
"""

from agent_cache.backends.disk.backend import DiskBackend

__all__ = ["DiskBackend"]
