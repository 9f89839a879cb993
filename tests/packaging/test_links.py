"""Every relative link in the README, in docs/ and beside them leads to a file that is there, and to a heading of it."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from pathlib import Path
from urllib.parse import unquote

import pytest

import agent_cache

ROOT = Path(__file__).parents[2]
PAGES = sorted({*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "benchmarks" / "README.md"})
_FENCED = re.compile(r"^ *(```|~~~).*?^ *\1 *$", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"(`+)(?:(?!\1).)+?\1")
_LINK = re.compile(r"!?\[[^\]]*\]\(\s*<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\s*\)|^\[[^\]]+\]:\s*(\S+)", re.MULTILINE)
_HEADING = re.compile(r"^#{1,6} +(.+?) *#* *$", re.MULTILINE)
_LINKED = re.compile(r"\[([^\]]*)\]\([^)]*\)")


def links(markdown: str) -> list[str]:
    """The targets of all links outside code."""
    text = _CODE.sub("", _FENCED.sub("", markdown))
    return [first or second for first, second in _LINK.findall(text)]


def anchors(markdown: str) -> set[str]:
    """What a link may name behind ``#``: headings, as the repository's viewers and the site spell them."""
    found: Counter[str] = Counter()
    named: set[str] = set()
    for heading in _HEADING.findall(_FENCED.sub("", markdown)):
        text = _LINKED.sub(r"\1", heading).replace("`", "").replace("*", "")
        text = unicodedata.normalize("NFKC", text).lower()
        slug = re.sub(r"[^\w\- ]", "", text).strip().replace(" ", "-")
        named.add(slug if not found[slug] else f"{slug}-{found[slug]}")
        found[slug] += 1
    return named


def broken(page: Path) -> list[str]:
    """The links of a page that lead nowhere."""
    wrong = []
    for link in links(page.read_text(encoding="utf-8")):
        if re.match(r"[a-z][a-z0-9+.-]*:", link):
            continue
        target, _, anchor = link.partition("#")
        place = (page.parent / unquote(target)).resolve() if target else page
        if link.startswith("/") or not place.is_relative_to(ROOT) or not place.exists():
            wrong.append(link)
            continue
        if anchor and (place.suffix != ".md" or anchor not in anchors(place.read_text(encoding="utf-8"))):
            wrong.append(link)
    return wrong


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    assert not broken(page), f"{page.relative_to(ROOT)} links to what is not there: {broken(page)}"


def test_the_checker_sees_what_is_wrong(tmp_path: Path) -> None:
    text = '# A `b` (c)\n## A `b` (c)\n[x](y.md#z "t") ![i](i.svg) `[no](code.md)`\n```\n[no](f.md)\n```\n[r]: r.md\n'
    assert links(text) == ["y.md#z", "i.svg", "r.md"]
    assert anchors(text) == {"a-b-c", "a-b-c-1"}
    page = ROOT / "docs" / "guarantees.md"
    assert anchors(page.read_text(encoding="utf-8")) >= {"guarantees"}
    assert broken(page) == []
    other = tmp_path / "page.md"
    other.write_text("[gone](gone.md) [up](../../../etc/passwd) [out](https://example.org)", encoding="utf-8")
    assert broken(other) == ["gone.md", "../../../etc/passwd"]


def test_every_page_is_in_the_menu_and_opens_with_an_answer() -> None:
    menu = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:\n")[2]
    for page in sorted((ROOT / "docs").glob("*.md")):
        assert re.search(rf"[ :]{re.escape(page.name)}$", menu, re.MULTILINE), f"{page.name} is not in mkdocs.yml's nav"
        text = re.sub(r"\A---\n.*?\n---\n", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        heading, _, rest = text.partition("\n")
        first = rest.strip().partition("\n\n")[0]
        assert heading.startswith("# "), f"{page.name} does not begin with a heading"
        is_text = re.match(r"[A-Za-z`*\[]", first) and not first.startswith("```")
        assert is_text, f"{page.name} does not open with a sentence"
        assert re.search(r"[.:?!]", first), f"{page.name} does not open with a sentence"


def test_every_public_name_is_in_the_reference() -> None:
    shown = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
    named = set(re.findall(r"^::: [\w.]*?(\w+)$", shown, re.MULTILINE))
    errors = {name for name, found in vars(agent_cache.errors).items() if isinstance(found, type)}
    assert set(agent_cache.__all__) - named - errors == {"GLOBAL", "__version__"}
