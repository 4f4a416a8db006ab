"""Build rules of your own: name the compiler flags, compile the loops round the rules of a `.pxd` file.

`build_rules.py` reads the rules and says what they may have, `build_loops.py` writes the loops. fastlr's own families
are built by the same functions as a stranger's package:

    # setup.py
    from setuptools import setup
    from fastlr.build import rules_extension
    setup(name="mypkg", packages=["mypkg"], ext_modules=[rules_extension("mypkg._rules", "mypkg/rules.pxd")])

This module imports neither NumPy nor fastlr's compiled modules; `rules_extension` needs Cython and setuptools.
"""
from __future__ import annotations

import gc
import os
import re
import subprocess
import sys
import zlib
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from .build_loops import generate
from .build_rules import RuleError, read_rules, signature

__all__ = ["RuleError", "compile_flags", "rules_extension"]

DECLARATION = re.compile(r"^cdef (?:struct|enum|class)\b[^\n]*\n(?:[ \t]+[^\n]*\n|\n(?=[ \t]))*", re.M)

#: Instruction sets of x86-64 beside the plainest, in which a kernel source is compiled once more each.
VARIANTS = ("v3", "v4")

#: Whether Microsoft's compiler builds. By its documentation /fp:precise contracts nothing from Visual Studio 2022 on.
MSVC = os.name == "nt" and "GCC" not in sys.version


def compile_flags() -> list[str]:
    """The flags that keep speed and bits: for loops of your own, and for what `rules_extension` builds.

    -fno-math-errno lets square roots vectorise (7.6 times as fast), -ffp-contract=off keeps the same bits on every
    instruction set. Never -ffast-math (it changes the host's floating-point mode) nor -march=native (it changes bits).

    For gcc and clang. What is returned for MSVC has not been compiled: see docs/rules.md.

    >>> from fastlr.build import compile_flags
    >>> "-ffp-contract=off" in compile_flags() or "/fp:precise" in compile_flags()
    True
    """
    if MSVC:
        return ["/O2", "/fp:precise"]
    flags = ["-O3", "-g0", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off"]
    return flags + (["-Wno-maybe-uninitialized"] if "clang" not in os.environ.get("CC", "gcc") else [])


def built_variants() -> tuple[str, ...]:
    """Which instruction sets a kernel is compiled for beside the plainest, on the platform that is built for."""
    asked = os.environ.get("FASTLR_VARIANTS")
    wanted = VARIANTS if asked is None else tuple(variant for variant in VARIANTS if variant in asked.split(","))
    return compilable(wanted)


PROBE = """#if !defined(__x86_64__)
#error fastlr: another processor
#endif
"""


@cache
def compilable(variants: tuple[str, ...]) -> tuple[str, ...]:
    """Those of the instruction sets for which the compiler compiles; one line names what it lacks.

    The compiler is asked, as it alone knows what it builds for: a cross compiler, ARCHFLAGS or two processors at once.
    """
    import setuptools  # noqa: F401, I001  (provides distutils, which Python 3.12 lacks)
    from distutils.ccompiler import new_compiler
    from distutils.sysconfig import customize_compiler

    if MSVC:                                     # (it compiles a file for one instruction set alone)
        return ()
    compiler: Any = new_compiler()
    customize_compiler(compiler)
    with TemporaryDirectory() as folder:
        source, made = Path(folder, "probe.c"), Path(folder, "probe.o")

        def compiles(text: str) -> bool:
            source.write_text(text, encoding="utf-8")
            command = [*compiler.compiler_so, "-Werror", "-c", str(source), "-o", str(made)]
            return subprocess.run(command, capture_output=True).returncode == 0

        if not compiles(PROBE + "int probe;\n"):
            return ()
        found = tuple(variant for variant in variants if compiles(
            PROBE + TARGET.format(variant=variant) + "int probe(void) { return 0; }\n" + TARGET_END))
    for variant in variants:
        if variant not in found:
            print(f"fastlr: {compiler.compiler_so[0]} does not compile for x86-64-{variant}; that variant is left out",
                  file=sys.stderr)
    return found


def declarations_id(texts: Iterable[str]) -> str:
    """A checksum of the structs, enums and classes that these sources declare: it changes with the layout of memory."""
    found = [block[0] for text in texts for block in DECLARATION.finditer(text)]
    plain = "\n".join(" ".join(line.split("#")[0].split()) for block in found for line in block.splitlines())
    return f"{zlib.crc32(plain.encode()):08x}"


def write_if_changed(path: Path, text: str) -> None:
    """Leave a file that is as it should be untouched, so that what depends on it is not built again."""
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


TARGET = """#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("arch=x86-64-{variant}"))), apply_to = function)
#elif defined(__GNUC__)
#pragma GCC target("arch=x86-64-{variant}")
#endif
"""
TARGET_END = """#if defined(__clang__)
#pragma clang attribute pop
#endif
"""
VARIANT = """/* {name}, compiled for x86-64-{variant}: the same source, another module name. */
""" + TARGET + """#define FASTLR_VARIANT "{variant}"
#define PyInit_{last} PyInit_{last}_{variant}
#define __pyx_module_is_main_{mangled} __pyx_module_is_main_{mangled}_{variant}
#include "{last}.c"
""" + TARGET_END


def variant_sources(name: str, c_source: str) -> list[str]:
    """Write the sources that compile the translated module `name` once more for each instruction set."""
    source, made = Path(c_source), []
    for variant in built_variants():
        path = source.with_name(f"{source.stem}_{variant}.c")
        write_if_changed(path, VARIANT.format(name=name, variant=variant, last=source.stem,
                                              mangled=name.replace(".", "__")))
        made.append(str(path))
    return made


def write_rules(name: str, pxd: str | os.PathLike[str]) -> str:
    """Write the Cython source of the module `name`, the loops round the rules of a `.pxd` file; its path."""
    path = Path(pxd)
    if path.suffix != ".pxd" or path.is_absolute() or ".." in path.parts:
        raise RuleError(f"rules_extension({name!r}): expected the path of a .pxd file from the folder of setup.py, as "
                        f"'mypkg/rules.pxd', got {str(pxd)!r}")
    if not path.is_file():
        raise RuleError(f"rules_extension({name!r}): there is no file {pxd} in {Path.cwd()}")
    generated = Path("build", "generated", *name.split(".")).with_suffix(".pyx")
    source = ".".join(path.with_suffix("").parts)
    try:
        text = generate(path.read_text(encoding="utf-8"), source)
    except RuleError as error:
        raise RuleError(f"{pxd}: {error}") from None
    write_if_changed(generated, text)
    return str(generated)


def with_variants(extension: Any) -> Any:
    """Add the sources that compile a translated extension once more for each instruction set."""
    extension.sources += variant_sources(extension.name, extension.sources[0])
    return extension


def translated(extensions: list[Any], **options: Any) -> list[Any]:
    """Translate extensions to C: `cythonize` without the collector of garbage, which looks through its trees again.

    That takes half of the time. Who translates half of fastlr's modules in one process takes 0.55 GB, and 0.3 with it.
    """
    from Cython.Build import cythonize

    collects = gc.isenabled()
    gc.disable()
    try:
        made: list[Any] = cythonize(extensions, **options)
    finally:
        if collects:
            gc.enable()
    return made


def rules_extension(name: str, pxd: str | os.PathLike[str], **keywords: Any) -> Any:
    """A setuptools Extension of the loops round the rules of a `.pxd` file, for every instruction set.

    Parameters
    ----------
    name
        The module to be built, ``"mypkg._rules"``: what a class names as its ``rule``.
    pxd
        The path of the file from the folder of setup.py, ``"mypkg/rules.pxd"``.
    keywords
        Passed on to Extension.

    Raises
    ------
    RuleError
        If the file holds a rule that cannot be read; the message says which and why.
    """
    from setuptools import Extension

    include = [str(Path(__file__).parents[1]), ".", *keywords.pop("include_path", [])]
    extension = Extension(name, [write_rules(name, pxd)], depends=[str(pxd)],
                          extra_compile_args=compile_flags() + keywords.pop("extra_compile_args", []), **keywords)
    return with_variants(*translated([extension], include_path=include, language_level=3, quiet=True))


def write_signatures(path: str | os.PathLike[str], pxds: dict[str, Path], build_id: str) -> None:
    """Write the module that says of every rule what its signature says; `pxds`: the file of each compiled module."""
    lines = ['"""Generated by setup.py from fastlr/rules/*.pxd: what the signature of each rule says."""',
             "from . import RuleSignature", "",
             f"BUILD_ID = {build_id!r}",
             f"VARIANTS: tuple[str, ...] = {built_variants()!r}",
             "SIGNATURES = {"]
    for module, pxd in pxds.items():
        for rule in read_rules(pxd.read_text(encoding="utf-8")):
            values = ", ".join(repr(value) for value in signature(rule).values())
            lines.append(f"    {rule.name!r}: RuleSignature({module!r}, {values}),")
    write_if_changed(Path(path), "\n".join([*lines, "}", ""]))
