"""The litmus with real processes: workers that share one backend, faults, and a referee that numbers every event.

========  ==============================================================================================
room      what it does
========  ==============================================================================================
referee   the source of truth, the number of every event, and the verdict on every read
channel   one connection between the referee and a worker; many requests on their way at once
caches    how a cache is put in front of the tools: agent_cache, the naive ones, and whose promises they make
shapes    agent_cache put in front of them in other ways: dependencies found at run time, nested tools, functions, lineage
orders    what a process is told, from its greeting to its goodbye: configuration, mixes, orders
worker    one process: sessions, tools, calls; ``python -m agent_cache.testing.processes.worker``
rollouts  the same for sessions that have a world of their own, and its verdicts
servers   the backend under test: a disk file, a Redis alone, behind Sentinel, or a Cluster, and its proxies
faults    what is broken meanwhile, each fault a class with a name
runner    starts it all, looks at every key in the end, adds up; the command line
========  ==============================================================================================

``python -m agent_cache.testing.litmus --backend redis:// --server own --processes 4 --seconds 60 --faults all``
"""
