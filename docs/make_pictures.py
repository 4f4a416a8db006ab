"""Draws docs/study*.png, parts of a study's page: python docs/make_pictures.py [--study DIR].

Carries out the default study (a minute) unless DIR holds one already, draws its page anew, and photographs the part
that a wide screen shows first, and the figures of some sections. Needs `pip install '.[lab]'` and Chromium.
"""
from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

WIDTH, HEIGHT = 1240, 1004
#: The pictures of single sections: the name of the section, by the name of the picture.
SECTIONS = {"study_curves": "accuracy", "study_escape": "escape-rate"}
ALONE = """<style>header, nav, footer, .table, .scale, .choose, .motion, .finding, .method, figcaption, h2,
    section:not(#{0}) {{ display: none !important }}
.layout {{ display: block !important; padding: 0 !important }}
main, section, figure {{ margin: 0 !important; padding: 4px !important; max-width: none !important }}
</style>"""
HERE = Path(__file__).parent
QUIET = ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run",
         "--force-prefers-reduced-motion", "--disable-background-networking", "--disable-component-update",
         "--disable-sync")


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
    from PIL import Image, ImageChops

    from fastlr.study.page import render

    html = render(json.loads((study / "results.json").read_text(encoding="utf-8")))
    # (a window's own height is less than what is asked for: take more, and cut)
    save(shot(browser, folder, html, WIDTH, HEIGHT + 200).crop((0, 0, WIDTH, HEIGHT)), "study")
    for name, section in SECTIONS.items():
        image = shot(browser, folder, html.replace("</head>", ALONE.format(section) + "</head>"), 960, 1200)
        box = ImageChops.difference(image, Image.new("RGB", image.size, image.getpixel((0, 0)))).getbbox()
        save(image.crop((0, 0, image.width, box[3] + 12)), name)


def shot(browser: str, folder: Path, html: str, width: int, height: int) -> Any:
    from PIL import Image

    page, file = folder / "page.html", folder / "shot.png"
    page.write_text(html, encoding="utf-8")
    subprocess.run([browser, *QUIET, f"--user-data-dir={folder / 'profile'}", f"--window-size={width},{height}",
                    f"--screenshot={file}", page.as_uri()], check=True, capture_output=True, timeout=120)
    with Image.open(file) as image:
        return image.convert("RGB")


def save(image: Any, name: str) -> None:
    from PIL import Image

    path = HERE / f"{name}.png"
    image.quantize(128, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
