"""Takes what stands at the top of the repository into the site, and makes links between the two hold in both places.

A link in ``docs/`` is written as it works for whoever reads the repository (``../benchmarks/README.md``). In the site the pages of
``docs/`` and those taken in share one root; what the site does not have (a folder, a program) is shown without a link.
"""

from __future__ import annotations

import re
from pathlib import Path
from posixpath import dirname, join, normpath
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[2]
TAKEN = (
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "benchmarks/README.md",
    "benchmarks/results/bench.svg",
    "benchmarks/results/scale.svg",
)
_FENCED = re.compile(r"(^ *(?:```|~~~).*?^ *(?:```|~~~) *$|`[^`\n]+`)", re.MULTILINE | re.DOTALL)
_ROLE = re.compile(r":(?:class|func|meth|mod|attr|data|exc):<code>~?(?:[\w.]+\.)?(\w+)</code>")
_INCLUDE = re.compile(r"^<!-- include: (\S+) -->$", re.MULTILINE)
_LINK = re.compile(r"(?P<image>!?)\[(?P<text>[^\]\n]*)\]\((?P<target>[^)\s#:]+)(?P<anchor>#[^)\s]*)?\)")


def on_files(files: Any, config: Any) -> Any:
    for name in TAKEN:
        if (ROOT / name).is_file():
            files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
    return files


def on_page_content(html: str, page: Any, config: Any, files: Any) -> str:
    """What docstrings say in the words of another markup: roles, and two colons before an example."""
    html = _ROLE.sub(r"<code>\1</code>", html)
    return html.replace("<p>::</p>", "").replace("::</p>", ":</p>")


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Links as they hold in the site."""
    source = page.file.src_uri
    here = source if source in TAKEN else f"docs/{source}"

    def replaced(match: re.Match[str]) -> str:
        target = normpath(join(dirname(here), match["target"])).removeprefix("docs/")
        if files.get_file_from_path(target) is None:
            return match["image"] + match["text"] if not match["image"] else ""
        up = "../" * dirname(source).count("/") + ("../" if dirname(source) else "")
        return f"{match['image']}[{match['text']}]({up}{target}{match['anchor'] or ''})"

    markdown = _INCLUDE.sub(lambda match: (ROOT / dirname(here) / match[1]).read_text(encoding="utf-8"), markdown)
    pieces = _FENCED.split(markdown)
    return "".join(piece if at % 2 else _LINK.sub(replaced, piece) for at, piece in enumerate(pieces))
