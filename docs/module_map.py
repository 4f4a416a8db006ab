"""The map of the modules in CONTRIBUTING.md, made from their docstrings: `python docs/module_map.py` writes it there.

A module is a name that can be imported or cimported; its line is the first of its docstring, whichever of its files
(.py, .pyx, .pxd, .pxi) has one. A folder that is not in FOLDERS is an error: say what belongs there.
"""
from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "CONTRIBUTING.md"
BEGIN, END = "<!-- modules: python docs/module_map.py -->\n", "<!-- end of modules -->\n"
KINDS = (".pyx", ".py", ".pxd", ".pxi")        # the first of these that has a docstring says what a module does
GENERATED = {"rules/signatures.py"}            # (by setup.py)

#: The folders of fastlr/, each layer after those that it may use, and what belongs there.
FOLDERS = {
    "rules": "The formulas: one element and named scalars of a step. Nothing about arrays, threads, storage or Python.",
    "_kernels": "Loops over contiguous tiles, compiled once per instruction set. They know neither optimizers nor "
                "Python objects.",
    "_engine": "One step over tensors, compiled once: arrays, layout, gradients, scalars, clipping, rows, threads. It "
               "knows no rule by name: a rule is a table of function pointers (`_kernels/rule_table.pxd`).",
    "_matrix": "Rules that see a tensor as a matrix, one module each, and the driver that calls their phases.",
    "schedules": "Learning rates as pure functions of t. They do not know optimizers.",
    "optimizers": "A class per rule: formula, citation, bounded defaults; groups, state by name, wrappers. They do not "
                  "know bytes or threads.",
    "_c_api": "Plans of the C interface: what `plan_...` of `include/fastlr/fastlr.h` does, by means of an optimizer's "
              "class before the first step and of its plan after it.",
    "monitor": "The numbers of a run, and what they say about its learning rate.",
    "tuning": "Search for a learning rate.",
    "torch": "Torch optimizers over fastlr's. The only folder that imports torch; nothing outside imports it.",
    "thinc": "Thinc optimizers over fastlr's, for spaCy. Only this folder imports thinc; nothing outside imports it.",
    "jax": "Steps inside compiled programs of JAX. Only this folder imports JAX (exports of schedules aside).",
    "study": "`fastlr study`: experiments on small networks. It uses public names alone.",
    "commands": "The command line, one module a command.",
    "": "Modules outside the folders: the build, the curves of schedules, checkpoints and interfaces (for C: "
        "`include/fastlr/fastlr.h`).",
}


def modules() -> dict[str, dict[str, str]]:
    """Folder -> module -> its line; ValueError for a folder or a module that says nothing of itself."""
    found: dict[str, dict[str, str]] = {folder: {} for folder in FOLDERS}
    files = [path for kind in KINDS for path in (ROOT / "fastlr").rglob(f"*{kind}")]
    for path in sorted(files, key=lambda path: (path.with_suffix(""), KINDS.index(path.suffix))):
        name = path.relative_to(ROOT / "fastlr")
        if name.as_posix() in GENERATED or path.stem.startswith("__"):
            continue
        folder = name.parent.as_posix().removeprefix(".")
        if folder not in found:
            raise ValueError(f"fastlr/{folder}: say in FOLDERS of {Path(__file__).name} what belongs there")
        line = first_line(path.read_text(encoding="utf-8"))
        if line and not found[folder].get(path.stem):
            found[folder][path.stem] = line
        else:
            found[folder].setdefault(path.stem, "")
    for folder, named in found.items():
        for name, line in named.items():
            if not line:
                raise ValueError(f"fastlr/{folder}/{name}: no file of this module has a docstring")
    return {folder: named for folder, named in found.items() if named}


def first_line(text: str) -> str:
    """The first paragraph of a docstring, or of the comment with which a template begins; "" if there is neither."""
    match = re.match(r'(?:#[^\n]*\n|\s)*r?"""(.+?)(?:\n\n|""")', text, re.S)
    if match is not None:
        return " ".join(match[1].split())
    comment = re.match(r"((?:# [^\n]*\n)+)", text) if not text.startswith("# cython:") else None
    if comment is None:
        return ""
    return " ".join(comment[1].replace("# ", "").split()).split(". ")[0].rstrip(".") + "."


def written() -> str:
    """The part of CONTRIBUTING.md that this makes."""
    lines = []
    for folder, named in modules().items():
        lines += [f"**`fastlr/{folder}{'/' * bool(folder)}`** {FOLDERS[folder]}"]
        lines += [f"- `{name}`: {line}" for name, line in sorted(named.items())]
        lines.append("")
    return "\n".join(lines)


def replaced(page: str) -> str:
    """A page with the map made anew."""
    before, _, rest = page.partition(BEGIN)
    return before + BEGIN + "\n" + written() + END + rest.partition(END)[2]


if __name__ == "__main__":
    PAGE.write_text(replaced(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
