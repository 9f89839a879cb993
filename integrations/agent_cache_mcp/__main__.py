"""``python -m agent_cache_mcp proxy ...`` is ``agent-cache mcp-proxy ...``."""

from __future__ import annotations

import sys

from agent_cache_mcp.proxy import main

if __name__ == "__main__":
    if sys.argv[1:2] != ["proxy"]:
        sys.exit("usage: python -m agent_cache_mcp proxy [OPTIONS] -- COMMAND ARGS...")
    sys.exit(main(sys.argv[2:], "python -m agent_cache_mcp proxy"))
