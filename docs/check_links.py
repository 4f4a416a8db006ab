"""Checks the built site without a network: `python docs/check_links.py build/site`.

Every link to a file of the site leads to one, every `#name` to an element of that name, and nothing that a page shows
or runs comes from elsewhere. Links to other sites are not followed.
"""
from __future__ import annotations

import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

#: What a browser loads by itself, by element; a link that is followed by the reader alone is not among it.
LOADED = {("script", "src"), ("img", "src"), ("iframe", "src"), ("source", "src"), ("source", "srcset"),
          ("audio", "src"), ("video", "src"), ("object", "data"), ("embed", "src"), ("use", "href"), ("image", "href")}
LOADED_LINKS = {"stylesheet", "icon", "preload", "preconnect", "manifest", "modulepreload"}


class Page(HTMLParser):
    """The names on a page, its links, and what it loads."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attributes}
        self.names |= {given[key] for key in ("id", "name") if key in given}
        for name, value in given.items():
            if (tag, name) in LOADED or (tag == "link" and name == "href"
                                         and LOADED_LINKS & set(given.get("rel", "").split())):
                self.loads.append(value)
            elif name in ("href", "action"):
                self.links.append(value)
        self.loads += re.findall(r"url\(['\"]?([^'\")]+)", given.get("style", ""))


def faults(site: Path) -> list[str]:
    """What is wrong with the site, one line each."""
    pages = {path: Page(path.read_text(encoding="utf-8")) for path in sorted(site.rglob("*.html"))}
    found = []
    for path, page in pages.items():
        where = path.relative_to(site)
        for target in (*page.links, *page.loads):
            url = urlsplit(target)
            if url.scheme in ("data", "mailto", "javascript"):
                continue
            if url.scheme or url.netloc:
                if target in page.loads:
                    found.append(f"{where}: loads {target}")
                continue
            file = (path.parent / unquote(url.path)).resolve() if url.path else path
            file = file / "index.html" if file.is_dir() else file
            if not file.is_file():
                found.append(f"{where}: {target} leads to no file")
            elif url.fragment and file in pages and unquote(url.fragment) not in pages[file].names:
                found.append(f"{where}: {target} leads to no element of that name")
    for path in sorted(site.rglob("*.css")):
        text = path.read_text(encoding="utf-8")
        for target in re.findall(r"url\(['\"]?([^'\")]+)|@import\s+['\"]([^'\"]+)", text):
            if urlsplit(target[0] or target[1]).netloc:
                found.append(f"{path.relative_to(site)}: loads {target[0] or target[1]}")
    if not pages:
        found.append(f"{site} has no pages")
    return found


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: check_links.py FOLDER")
    wrong = faults(Path(sys.argv[1]).resolve())
    print("\n".join(wrong) or f"{sys.argv[1]}: every link leads somewhere, and nothing is loaded from elsewhere")
    sys.exit(bool(wrong))
