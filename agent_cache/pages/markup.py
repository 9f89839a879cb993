"""Elements of HTML and SVG. Text is escaped because it is text: only what :func:`el` made goes in as it stands."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping
from html import escape

__all__ = ["Content", "Html", "el", "name", "plain"]

_VOID = frozenset({"meta", "br", "hr", "col"})
_MAX_TEXT = 2_000
_MAX_NAME = 160


class Html(str):
    """Markup that is safe to put into a page. Made by :func:`el` only."""

    __slots__ = ()


Content = Html | str | int | None | Iterable["Content"]


def el(element: str, attributes: Mapping[str, str | int | float | None] | None = None, *content: Content) -> Html:
    """An element. Attributes that are None are left out; content is escaped unless it is :class:`Html`."""
    given = (attributes or {}).items()
    opened = "".join(f' {key}="{escape(plain(str(value)))}"' for key, value in given if value is not None)
    if element in _VOID:
        return Html(f"<{element}{opened}>")
    return Html(f"<{element}{opened}>{''.join(_inside(content))}</{element}>")


def _inside(content: Iterable[Content]) -> Iterable[str]:
    for part in content:
        if part is None:
            continue
        if isinstance(part, Html):
            yield str(part)
        elif isinstance(part, str | int):
            yield escape(plain(str(part)))
        else:
            yield from _inside(part)


def plain(text: str, longest: int = _MAX_TEXT) -> str:
    """Text that shows what it is: control, direction-changing and unpaired characters are spelt out, and it ends somewhere."""
    if len(text) > longest:
        text = text[: longest - 1] + "…"
    return "".join(_spelt(character) for character in text)


def _spelt(character: str) -> str:
    if character in "\n\t" or unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Zl", "Zp"):
        return character
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def name(text: str) -> Html:
    """A name somebody else chose: kept apart from the direction of the text around it, and not too long."""
    return el("bdi", {"class": "name"}, plain(text, _MAX_NAME))
