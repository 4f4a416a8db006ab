"""Make a page of `asv publish` work without a network: python benchmarks/asv_page.py [FOLDER]

asv's page loads scripts and styles from other servers. This writes the copies in `asv_vendor` into FOLDER (default:
benchmarks/html) and lets the page load those. The exit status is 1 if something is left that is loaded from elsewhere.
"""
from __future__ import annotations

import argparse
import re
import shutil
import sys
from pathlib import Path

VENDOR = Path(__file__).with_name("asv_vendor")
#: How an address that the page loads ends, and the copy that takes its place.
COPIES = {
    "jquery-3.3.1.min.js": "jquery.min.js", "jquery.flot.min.js": "jquery.flot.js",
    "jquery.flot.time.min.js": "jquery.flot.time.js", "jquery.flot.selection.min.js": "jquery.flot.selection.js",
    "jquery.flot.categories.min.js": "jquery.flot.categories.js",
    "jquery.flot.orderBars.js": "jquery.flot.orderBars.js", "stupidtable.min.js": "stupidtable.min.js",
    "md5.min.js": "md5.min.js", "bootstrap.min.js": "bootstrap.min.js", "bootstrap.min.css": "bootstrap.min.css",
}
LOADED = re.compile(r'<(script|link)\b([^>]*?)\b(src|href)="(https?://[^"]+)"([^>]*)>')


def local(page: str) -> str:
    """The page with every address that has a copy replaced by that copy; hashes of the former files are left out."""
    def replaced(match: re.Match[str]) -> str:
        tag, before, attribute, address, after = match.groups()
        copy = COPIES.get(address.rpartition("/")[2])
        if copy is None:
            return match[0]
        after = re.sub(r'\s(?:integrity|crossorigin|referrerpolicy)="[^"]*"', "", after)
        return f'<{tag}{before}{attribute}="vendor/{copy}"{after}>'

    return LOADED.sub(replaced, page)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", nargs="?", metavar="FOLDER", default=str(Path(__file__).with_name("html")))
    folder = Path(parser.parse_args().folder)
    index = folder / "index.html"
    if not index.is_file():
        raise SystemExit(f"asv_page.py: there is no {index}; run `asv publish` in benchmarks/ first")
    page = local(index.read_text(encoding="utf-8"))
    index.write_text(page, encoding="utf-8")
    shutil.rmtree(folder / "vendor", ignore_errors=True)
    shutil.copytree(VENDOR, folder / "vendor")
    left = [match[4] for match in LOADED.finditer(page)]
    for address in left:
        print(f"{index}: still loads {address}", file=sys.stderr)
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main())
