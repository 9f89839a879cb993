"""``python -m agent_cache.cli …`` is ``agent-cache …``."""

from __future__ import annotations

import sys

from agent_cache.cli import main

sys.exit(main())
