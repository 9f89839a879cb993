"""Answering reads and carrying out writes.

* :mod:`.tools`: a decorated tool, compiled.
* :mod:`.calls`: one call of it: key, tags, scope, backend; or why it cannot be cached.
* :mod:`.guard`: the session's loop detector, asked before a call and told after it.
* :mod:`.lines`: the read line and the write line: every decision, no waiting.
* :mod:`.outbox`: invalidations a backend could not take yet; :mod:`.couriers`: who delivers them.
* :mod:`.drivers`: carries a line out, asynchronously or blocking: every wait, no decision.

Decorating, configuring and entering sessions happen outside.
"""
