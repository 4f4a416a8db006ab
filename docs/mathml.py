"""Formulas of the site as MathML, which browsers draw by themselves, without scripts or pictures.

A displayed formula is cut at a blank line, and at a `\\quad` or `\\\\` that is not in braces or between \\left and
\\right. The parts stand beside each other where there is room, and below each other on a narrow screen.
"""
from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from math_core import LatexError, LatexToMathML
from sphinx.application import Sphinx
from sphinx.errors import SphinxError

CONVERTER = LatexToMathML()
TOKEN = re.compile(r"\\(?:left|right|begin|end|quad|\\)(?![a-zA-Z])|\\.|[{}]|[^\\{}]+", re.S)


def converted(latex: str, display: bool) -> str:
    """One formula; SphinxError, which names it, where it cannot be converted."""
    try:
        return CONVERTER.convert_with_local_state(latex, displaystyle=display)
    except LatexError as error:
        raise SphinxError(f"this formula cannot be converted to MathML: {latex}\n{error}") from error


def parts(latex: str) -> list[str]:
    """A displayed formula, cut at its blank lines and its outermost `\\quad` and `\\\\`."""
    found, depth = [""], 0
    for token in TOKEN.findall(latex.replace("\n\n", r"\\")):
        depth += token in ("{", r"\left", r"\begin")
        depth -= token in ("}", r"\right", r"\end")
        if depth == 0 and token in (r"\quad", "\\\\"):
            found.append("")
        else:
            found[-1] += token
    return [part.strip() for part in found if part.strip()]


def inline(self: Any, node: nodes.math) -> None:
    self.body.append(f'<span class="math">{converted(node.astext(), False)}</span>')
    raise nodes.SkipNode


def displayed(self: Any, node: nodes.math_block) -> None:
    formulas = "\n".join(f"<span>{converted(part, True)}</span>" for part in parts(node.astext()))
    self.body.append(f'<div class="math displayed">{formulas}</div>\n')
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_html_math_renderer("mathml", (inline, None), (displayed, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
