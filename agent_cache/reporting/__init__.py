"""Reports for people: what the figures, the recorded sums and the events say, gathered into the data of a page.

=========  =================================================================================================================
timeline   sums by tool over time, in as many slices as a chart can show
told       from events (:mod:`agent_cache.events`): everything, loops with their evidence included
summed     from the sums a store keeps (``record_stats=True``)
counted    from ``get_metrics()``
door       :func:`report_html`: which of them says what, where there are several
=========  =================================================================================================================

How a page looks is :mod:`agent_cache.pages`' business.
"""

from __future__ import annotations

from agent_cache.reporting.door import report_html

__all__ = ["report_html"]
