"""Draws docs/study.png, the top of a study's page: python docs/make_pictures.py [--study DIR].

Carries out the default study (a minute) unless DIR holds one already, draws its page anew, and photographs the part
that a wide screen shows first. Needs `pip install '.[lab]'` and Chromium.
"""
from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

WIDTH, HEIGHT = 1240, 904
HERE = Path(__file__).parent
QUIET = ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--study", type=Path, metavar="DIR", help="what `fastlr study --out DIR` wrote")
    given = parser.parse_args().study
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        sys.exit("make_pictures: needs Chromium")
    with tempfile.TemporaryDirectory() as folder:
        study = given or Path(folder) / "study"
        if given is None:
            subprocess.run([sys.executable, "-m", "fastlr", "study", "--out", str(study)], check=True,
                           stdout=subprocess.DEVNULL)
        photograph(browser, study, Path(folder))


def photograph(browser: str, study: Path, folder: Path) -> None:
    from PIL import Image

    from fastlr.study.page import render

    page, shot = folder / "page.html", folder / "shot.png"
    page.write_text(render(json.loads((study / "results.json").read_text(encoding="utf-8"))), encoding="utf-8")
    # (a window's own height is less than what is asked for: take more, and cut)
    subprocess.run([browser, *QUIET, f"--user-data-dir={folder / 'profile'}", f"--window-size={WIDTH},{HEIGHT + 200}",
                    f"--screenshot={shot}", page.as_uri()], check=True, capture_output=True, timeout=120)
    with Image.open(shot) as image:
        cut = image.convert("RGB").crop((0, 0, WIDTH, HEIGHT))
    cut.quantize(128, dither=Image.Dither.NONE).save(HERE / "study.png", optimize=True)
    print(f"{HERE / 'study.png'}: {(HERE / 'study.png').stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
