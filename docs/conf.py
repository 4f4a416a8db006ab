"""The documentation site: `sphinx-build -W -b html docs build/site`. Nothing on its pages is loaded from elsewhere.

Pages about optimizers, schedules, functions and other libraries' names are made from the declarations and docstrings
into docs/generated (see site_pages.py), which git ignores.
"""
import sys
from pathlib import Path

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS))

import site_pages  # noqa: E402

import fastlr  # noqa: E402

project = "fastlr"
author = copyright = "the authors of fastlr"
version = release = fastlr.__version__

extensions = ["myst_parser", "mathml"]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
exclude_patterns = ["static", "generated/extra", "generated/included"]
default_role = "code"
primary_domain = "py"
nitpicky = True
nitpick_ignore_regex = [("py:class", ".*")]

myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 4
myst_links_external_new_tab = False

html_theme = "furo"
html_title = f"fastlr {release}"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_extra_path = ["generated/extra"]
html_math_renderer = "mathml"
html_show_sphinx = False
html_copy_source = False
html_show_sourcelink = False
html_use_index = True
html_theme_options = {"navigation_with_keys": True}
pygments_style = "friendly"
pygments_dark_style = "github-dark"


def setup(app):
    site_pages.write(DOCS / "generated")
    app.connect("source-read", site_pages.link_names)
