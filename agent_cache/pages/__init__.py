"""Self-contained HTML pages: data in, text out. No file, no clock, no store, and nothing known of a cache.

Rooms, each knowing those above it:

=========== =============================================================================================================
markup      elements whose text is escaped by construction
words       numbers, durations and moments as people read them
style       the one style sheet: light and dark, phone and desk
blocks      tables, tiles, regions that scroll
charts      small SVG charts that say in words what they show
document    the frame: head, content policy, landmarks
data        what a report page is told
report      the page: :func:`report_page`
simulation  the page of a simulation
=========== =============================================================================================================

A page needs no network, runs no script, and says so in a content policy of its own.
"""

from __future__ import annotations

from agent_cache.pages.data import Ages, Drop, Figures, LoopShown, ReportData, ShownCall, Slice, ToolSeries
from agent_cache.pages.report import report_page

__all__ = ["Ages", "Drop", "Figures", "LoopShown", "ReportData", "ShownCall", "Slice", "ToolSeries", "report_page"]
