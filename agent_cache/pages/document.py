"""The frame of a page: head, content policy, landmarks, a way past the navigation."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence

from agent_cache.pages.markup import Content, Html, el
from agent_cache.pages.style import STYLE

__all__ = ["POLICY", "document"]

_DIGEST = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
POLICY = f"default-src 'none'; style-src 'sha256-{_DIGEST}'; base-uri 'none'; form-action 'none'"
"""Nothing is loaded, nothing runs; the style sheet is known by its digest."""


def document(
    title: str,
    intro: Sequence[Content],
    links: Sequence[tuple[str, str]],
    body: Sequence[Content],
    foot: Sequence[Content],
) -> str:
    """A whole page. ``links`` are (anchor, text) of the sections, in order."""
    head = el(
        "head",
        None,
        el("meta", {"charset": "utf-8"}),
        el("meta", {"http-equiv": "Content-Security-Policy", "content": POLICY}),
        el("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}),
        el("meta", {"name": "color-scheme", "content": "light dark"}),
        el("meta", {"name": "referrer", "content": "no-referrer"}),
        el("meta", {"name": "robots", "content": "noindex"}),
        el("title", None, title),
        el("style", None, Html(STYLE)),
    )
    ways = [el("li", None, el("a", {"href": f"#{anchor}"}, text)) for anchor, text in links]
    page = el(
        "body",
        None,
        el("a", {"class": "skip", "href": "#content"}, "Skip to the figures"),
        el("header", None, el("h1", None, title), *intro),
        el("nav", {"aria-label": "Sections"}, el("ul", None, ways)),
        el("main", {"id": "content", "tabindex": -1}, *body),
        el("footer", None, *foot),
    )
    return f"<!doctype html>\n{el('html', {'lang': 'en'}, head, page)}\n"
