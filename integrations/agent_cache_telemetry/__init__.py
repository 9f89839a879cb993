"""What the cache does, for OpenTelemetry and Prometheus: ``agent_cache_telemetry.otel`` and ``agent_cache_telemetry.prometheus``.

Figures are read from :func:`agent_cache.get_metrics` when somebody collects them, so they cost no call anything. What needs
each single call (spans, durations) is an observer, and observers take the hits off the fast path.

Nothing is imported here: each of the two needs its own extra, ``agent-cache[opentelemetry]`` or ``agent-cache[prometheus]``.
"""
