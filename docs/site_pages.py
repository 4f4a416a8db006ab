"""The pages of the site that are made from declarations and docstrings, when the site is built.

A page for each optimizer and each schedule, one for each family of them, one for the other names of fastlr, and the
tables of docs/migration.md. They are written into docs/generated, which git ignores.
"""
from __future__ import annotations

import importlib
import inspect
import re
import sys
import textwrap
from pathlib import Path
from typing import Any

import peer_names
import site_pictures

import fastlr
from fastlr import kernels
from fastlr.optimizers import FAMILIES, catalogue
from fastlr.optimizers.rule_class import REGISTRY
from fastlr.schedules import gallery
from fastlr.schedules.declaration import REQUIRED
from fastlr.schedules.registry import REGISTRY as SCHEDULES

ROOT = Path(__file__).resolve().parent.parent

OPTIMIZER_FAMILIES = {family.__name__.rpartition(".")[2]: family for family in FAMILIES}
SCHEDULE_FAMILIES = {name: importlib.import_module(f"fastlr.schedules.{name}")
                     for name in ("endless", "finite", "cycles", "phases", "composition")}
TITLES = {"spectral": "Spectral: Muon, Shampoo, SOAP", "reducing": "Norms and masks of a tensor", "sign": "Signs",
          "moments": "Moments: Adam and its kin", "adaptive": "A rate per element",
          "factored": "Factored second moments",
          "projected": "Projected updates", "learning_rate_free": "Without a learning rate", "curvature": "Curvature",
          "schedule_free": "Without a schedule", "gradient_descent": "Gradient descent and momentum",
          "endless": "Without an end", "finite": "Of a given length", "cycles": "Cycles", "phases": "Phases",
          "composition": "Made of other schedules"}
#: What else fastlr has, by what it is for; a page each.
FUNCTIONS = {
    "Optimizers and groups": ("Optimizer", "Group", "create_optimizer", "list_optimizers", "Partition",
                              "LossScale", "within"),
    "Finding a rate": ("find_lr", "tune_lr", "History", "diagnose", "Plateau"),
    "Around an optimizer": ("Lookahead", "SAM", "GradientAccumulation", "GradientCentralization", "EMA", "SWA"),
    "With a closure": ("LBFGS", "line_search"),
    "Checkpoints": ("save", "load", "CheckpointError"),
    "The machine": ("set_num_threads", "get_num_threads", "show_config", "get_include", "rule_from_pointers"),
}


def write(folder: Path) -> None:
    """All pages; those that are as they were are not written again, so that Sphinx does not read them again."""
    pages = {**optimizers(), **schedules(), **functions(), **migration(), "extra/releases.html": releases()}
    for path in folder.rglob("*"):
        if path.is_file() and path.relative_to(folder).as_posix() not in pages:
            path.unlink()
    for name, text in pages.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


# Parts of pages


def heading(text: str, under: str = "=") -> str:
    return f"{text}\n{under * len(text)}\n"


def docstring(thing: Any, known: dict[str, str]) -> str:
    """A docstring as reStructuredText, with links to the pages of what it names.

    The entries of its sections ("Parameters", "Args:", "Keywords ...::") are definition lists. A line that is indented
    after a sentence is a formula in plain text, unless the sentence ends in "::".
    """
    text = inspect.getdoc(thing) or ""
    text = re.sub(r"(?m)^(\w+(?: \w+)*)\n-{3,}$", r"**\1**\n", text)
    text = re.sub(r"(?m)^Args:\n((?: {4}.*\n?)+)", lambda found: f"**Arguments**\n\n{definitions(found[1])}", text)
    text = re.sub(r"(?m)^(Keywords\b.*):\n\n((?: {4}.*\n?)+)",
                  lambda found: f"{found[1]}\n\n{definitions(found[2])}", text)
    text = re.sub(r"(?m)(?<![`*])(\*{1,2}\w+)$", r"``\1``", text)             # (a parameter's name: **named)
    text = re.sub(r"(?m)^(?!\.\. )(\S[^\n]*)\n\n((?: {4,}\S[^\n]*(?:\n|$))+)", formula, text)
    return re.sub(r"(?<![`\w:])`(\w+)`(?![`_])", lambda found: link(found[1], known), text)


def definitions(entries: str) -> str:
    """Lines of "name: text" as a definition list."""
    return re.sub(r"(?m)^(\w+): ", r"`\1`\n    ", textwrap.dedent(entries))


def formula(found: re.Match[str]) -> str:
    before, block = found[1], found[2]
    if before.startswith((":", "-", ">>>", "..", "*", "`")) or before.endswith("::"):
        return found[0]
    return f"{before}\n\n.. code-block:: text\n\n{textwrap.indent(textwrap.dedent(block), '    ')}\n"


def link(name: str, known: dict[str, str]) -> str:
    return f":doc:`{name} <{known[name]}>`" if name in known else f"`{name}`"


def number(x: Any) -> str:
    return f"{x:g}" if isinstance(x, float | int) and not isinstance(x, bool) else repr(x)


def shown(x: Any) -> str:
    return f"``{x!r}``" if isinstance(x, str) else number(x)


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [".. list-table::", "   :header-rows: 1", ""]
    for row in (head, *rows):
        lines += [f"   {'* -' if k == 0 else '  -'} {cell}".rstrip() for k, cell in enumerate(row)]
    return "\n".join(lines) + "\n"


def raw(html: str) -> str:
    return f".. raw:: html\n\n{textwrap.indent(html, '   ')}\n"


def contents(names: list[str], hidden: bool = False) -> str:
    return ".. toctree::\n   :maxdepth: 1\n" + "   :hidden:\n" * hidden + "\n" + "".join(f"   {n}\n" for n in names)


def first_line(thing: Any) -> str:
    return (inspect.getdoc(thing) or "").partition("\n\n")[0].replace("\n", " ")


# Optimizers


def names_of_optimizers() -> dict[str, str]:
    return {cls.__name__: f"/generated/optimizers/{name}" for name, cls in REGISTRY.items()
            if cls.__module__.startswith("fastlr.")}


def optimizers() -> dict[str, str]:
    known = {**names_of_functions(), **names_of_optimizers()}
    pages = {}
    for family, module in OPTIMIZER_FAMILIES.items():
        classes = [cls for cls in REGISTRY.values() if cls.__module__ == module.__name__]
        rows = [[link(cls.__name__, known), first_line(cls)] for cls in classes]
        pages[f"optimizers/{family}.rst"] = "\n".join([
            heading(TITLES[family]), first_line(module), "", table(["optimizer", "what moves"], rows),
            contents([cls.__name__.lower() for cls in classes], hidden=True)])
        pages.update({f"optimizers/{cls.__name__.lower()}.rst": optimizer(cls, known) for cls in classes})
    return pages


def optimizer(cls: Any, known: dict[str, str]) -> str:
    name = cls.__name__
    declared = {**cls.hypers, **cls.initial_states, **cls.options}
    arguments = ", ".join(["params", f"lr={number(cls.hypers['lr'].default)}", "*",
                           *(f"{key}={number(value.default)}" for key, value in declared.items() if key != "lr")])
    others = list(cls.conventions)[1:]
    rows = []
    for key, value in declared.items():
        bounds = f"[{value.low:g}, {value.high:g})".replace("inf", "∞") if hasattr(value, "low") else \
            ", ".join(f"`{choice!r}`" for choice in value.choices)
        rows.append([f"`{key}`", shown(value.default), bounds,
                     *(shown(cls.conventions[other].defaults.get(key, value.default)) for other in others)])
    facts = [f"- **Source**: {catalogue.source(cls)}".replace("](<", " <").replace("[", "`").replace(">)", ">`__"),
             f"- **Weight decay**: {cls.decay_mode} (``decay=`` chooses another)"]
    if getattr(cls, "kind", "elementwise") != "matrix":
        state = [f"`{slot}`" for slot in cls.slots] + [f"`{slot}` (once a tensor)" for slot in cls.memory] \
            + [f"`{slot}` (once for all)" for slot in cls.shared]
        facts.append(f"- **State**: {', '.join(state) or 'none'}; {4 * len(cls.slots)} bytes a parameter in float32")
    if kernels.is_elementwise(cls):
        facts.append(f"- **Without a class**: ``fastlr.kernels.{name.lower()}``, in Python, Cython and C")
    if cls.conventions:
        lines = [line.split(" | ") for line in catalogue.differences(cls)]
        said = [f"``{peer}``" + (f" ({line[1]} differs)" if line[1] != "nothing" else " (the same)")
                for peer, line in zip(others, lines, strict=True)]
        facts.append(f"- **Conventions**: ``{next(iter(cls.conventions))}``" + "".join(f", {each}" for each in said))
    text, _, keywords = docstring(cls, known).partition("Keywords of every optimizer")
    return "\n".join([
        f".. index:: {name}\n", heading(name),
        f".. py:class:: {name}({arguments}, **options)\n   :module: fastlr\n   :no-contents-entry:\n",
        textwrap.indent(text, "   "), "",
        *facts, "",
        heading("Arguments", "-"),
        table(["argument", "default", "range", *(f"``{other}``" for other in others)], rows), "",
        f"`options` are what every optimizer takes; {link('Optimizer', known)} describes them:", "",
        keywords.partition("\n\n")[2], "",
        heading("In a bent valley", "-"), raw(site_pictures.optimizer(cls)), "",
        "The least loss, 0, is at the ring. :doc:`/pictures` says how the rate was chosen.", ""])


# Schedules


def names_of_schedules() -> dict[str, str]:
    return {name: f"/generated/schedules/{name}" for name in SCHEDULES}


def schedules() -> dict[str, str]:
    known = {**names_of_functions(), **names_of_optimizers(), **names_of_schedules()}
    pages = {}
    for family, module in SCHEDULE_FAMILIES.items():
        classes = {name: cls for name, cls in SCHEDULES.items() if cls.__module__ == module.__name__}
        rows = [[link(name, known), first_line(cls)] for name, cls in classes.items()]
        pages[f"schedules/{family}.rst"] = "\n".join([
            heading(TITLES[family]), first_line(module), "", table(["schedule", "what it does"], rows),
            contents(list(classes), hidden=True)])
        for name, cls in classes.items():
            given = ", ".join(key if field.default is REQUIRED else f"{key}={number(field.default)}"
                              for key, field in cls._fields.items())
            picture = [raw(site_pictures.curve(gallery.EXAMPLES[name], gallery.SHOWN[name]))] \
                if name in gallery.EXAMPLES else []
            pages[f"schedules/{name}.rst"] = "\n".join([
                f".. index:: {name}\n", heading(name), *picture,
                f".. py:class:: {name}({given})\n   :module: fastlr.schedules\n   :no-contents-entry:\n",
                textwrap.indent(docstring(cls, known), "   "), ""])
    return pages


# Functions, and what is put around optimizers


def names_of_functions() -> dict[str, str]:
    return {name: f"/generated/functions/{slug(title)}" for title, names in FUNCTIONS.items() for name in names}


def slug(title: str) -> str:
    return title.lower().replace(" ", "-")


def functions() -> dict[str, str]:
    known = {**names_of_optimizers(), **names_of_schedules(), **names_of_functions()}
    pages = {"functions/index.rst": "\n".join([
        heading("Everything else"), "What is no optimizer and no schedule, with its docstring.", "",
        contents([slug(title) for title in FUNCTIONS])])}
    for title, names in FUNCTIONS.items():
        parts = [heading(title)]
        for name in names:
            parts.append(described(name, getattr(fastlr, name), known))
        pages[f"functions/{slug(title)}.rst"] = "\n".join(parts)
    return pages


def described(name: str, thing: Any, known: dict[str, str]) -> str:
    kind = "py:exception" if inspect.isclass(thing) and issubclass(thing, Exception) else \
        "py:class" if inspect.isclass(thing) else "py:function"
    parts = [heading(name, "-"), f".. {kind}:: {name}{signature(thing) if kind != 'py:exception' else ''}\n"
             f"   :module: fastlr\n   :no-contents-entry:\n",
             textwrap.indent(docstring(thing, known), "   "), ""]
    if kind == "py:class":
        for member, value in vars(thing).items():
            said = value.fget if isinstance(value, property) else value
            if member.startswith("_") or not inspect.isfunction(said) or not said.__doc__:
                continue
            role = ".. py:property:: " + member if isinstance(value, property) else \
                f".. py:method:: {member}{signature(said, True)}"
            parts += [f"   {role}\n      :no-contents-entry:\n",
                      textwrap.indent(docstring(said, known), "      "), ""]
    return "\n".join(parts)


def signature(thing: Any, method: bool = False) -> str:
    """The arguments, without their types, which the docstring says in words."""
    try:
        found = inspect.signature(thing)
    except (TypeError, ValueError):
        return "()"
    given = list(found.parameters.values())[method:]
    given = [each.replace(annotation=inspect.Parameter.empty) for each in given]
    return str(found.replace(parameters=given, return_annotation=inspect.Signature.empty))


# From other libraries


def migration() -> dict[str, str]:
    pages = {}
    for library, peers in peer_names.OPTIMIZERS.items():
        rows = [row_of_peer(library, peer, name) for peer, name in peers.items()]
        names = ", ".join(f"`{theirs}` is `{ours}`" for ours, theirs in peer_names.NAMES[library].items())
        pages[f"included/{library}.md"] = (
            f'All of these take `convention="{library}"`. Names: {names}.\n\n'
            + markdown(["there", "here", "other names, and what differs without `convention=`"], rows))
    for library in ("torch", "optax", "Keras"):
        rows = []
        for name, cls in SCHEDULES.items():
            text = (inspect.getdoc(cls) or "").split("\n\n")[-1]
            said = [" ".join(each.split()) for each in re.split(r"(?<=[.)])\s+(?=[A-Z]|torch|optax)", text)
                    if re.search(rf"\b{library}\b", each)]
            if said and not text.startswith(">>>"):
                rows.append([f"[`{name}`](/generated/schedules/{name}.rst)", " ".join(said)])
        pages[f"included/{library.lower()}_schedules.md"] = markdown(["here", "what its docstring says"], rows)
    return pages


def row_of_peer(library: str, peer: str, name: str) -> list[str]:
    """Their call, the class here, and what differs besides the names that all of the library's calls have."""
    cls = REGISTRY[name.lower()]
    convention, declared = cls.conventions[library], {**cls.hypers, **cls.initial_states, **cls.options}
    usual = peer_names.NAMES[library]
    differs = [f"`{theirs}` is `{ours}`" for ours, theirs in peer_names.renamed(library, peer, cls).items()
               if usual.get(ours) != theirs]
    if library != next(iter(cls.conventions)):
        differs += [f"`{key}` {number(value)}, here {number(declared[key].default)}"
                    for key, value in convention.defaults.items()]
        if convention.decay and convention.decay != cls.decay_mode:
            differs.append(f"weight decay is {convention.decay}, here {cls.decay_mode}")
        if cls._default_rule != convention.rule or getattr(cls, "kind", "") == "matrix":
            differs.append("the formula")
    kept = [f"`{key}` {number(declared[key].default)}, there {number(value)}"
            for key, value in peer_names.DEFAULTS.get((library, peer), {}).items()]
    if kept:
        differs.append(f"kept with `convention=`: {', '.join(kept)}")
    return [f"`{peer}`", f"[`{name}`](/generated/optimizers/{name.lower()}.rst)", "; ".join(differs)]


def markdown(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in lines) + "\n"


# The page of releases


def releases() -> str:
    """The page of the last run of benchmarks/release.py that is committed, or a line where there is none."""
    import json

    runs = sorted(path for path in (ROOT / "benchmarks" / "history").glob("*.json")
                  if not path.name.startswith("counts-"))
    if not runs:
        return ('<!doctype html><html lang="en"><meta charset="utf-8">'
                '<meta name="viewport" content="width=device-width">'
                '<meta name="color-scheme" content="light dark"><title>fastlr: releases</title>'
                "<p>No run of all releases is committed yet. <code>python benchmarks/release.py</code> makes one, and "
                'its page. <p><a href="performance.html">Back</a></html>\n')
    sys.path.insert(0, str(ROOT / "benchmarks"))
    from release_page import page

    return page(json.loads(runs[-1].read_text(encoding="utf-8")))


# Links on pages that are kept in git


def link_names(app: Any, docname: str, source: list[str]) -> None:
    """On the committed pages of optimizers and schedules, link each name to its page, and have the families above."""
    if docname == "optimizers":
        known = names_of_optimizers()
        text = re.sub(r"(?m)^\| `(\w+)` ", lambda found: f"| [{found[1]}]({known[found[1]]}.rst) "
                      if found[1] in known else found[0], source[0])
        head, begin, rest = text.partition("| optimizer ")
        source[0] = head + toctree("optimizers", OPTIMIZER_FAMILIES) + "\n## Table\n\n" + begin + rest
    elif docname == "schedules":
        head, begin, rest = source[0].partition("![All schedules]")
        source[0] = head + toctree("schedules", SCHEDULE_FAMILIES) + "\n## All of them\n\n" + begin + rest


def toctree(folder: str, families: dict[str, Any]) -> str:
    entries = "".join(f"generated/{folder}/{family}\n" for family in families)
    return f"## By family\n\n```{{toctree}}\n:maxdepth: 1\n\n{entries}```\n"
