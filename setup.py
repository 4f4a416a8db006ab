"""What pyproject.toml cannot say: which source is compiled how often, and with which flags.

Kernels (`fastlr/_kernels`, the rules of `fastlr/_matrix`, the loops round those of `fastlr/rules`) are translated once
and compiled once per instruction set into one file; everything else is compiled once, for the plainest CPU, so that
nothing runs an instruction before the CPU was asked.

    FASTLR_VARIANTS=v4          only this instruction set beside the plainest (a development build); "" for none
    FASTLR_NO_ABI3=1            a version-specific build
    FASTLR_SANITIZE=address     ... with that sanitizer (implies FASTLR_NO_ABI3)
    FASTLR_COVERAGE=1           ... with line tracing (implies FASTLR_NO_ABI3)
    FASTLR_STRICT=1             compiler warnings that guard a promise are errors
"""
import gzip
import multiprocessing
import os
import sys
import sysconfig
import tarfile
import tomllib
from pathlib import Path
from types import ModuleType

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.sdist import sdist

# The package itself cannot be imported before it is built: an empty one of its name gives its modules that build.
package = sys.modules["fastlr"] = ModuleType("fastlr")
package.__path__ = ["fastlr"]
from fastlr import build, build_schedules  # noqa: E402

SANITIZE = os.environ.get("FASTLR_SANITIZE", "")
COVERAGE = os.environ.get("FASTLR_COVERAGE", "") == "1"
STRICT = os.environ.get("FASTLR_STRICT", "") == "1"
ABI3 = not (
    SANITIZE
    or COVERAGE
    or os.environ.get("FASTLR_NO_ABI3", "") == "1"
    or sysconfig.get_config_var("Py_GIL_DISABLED")
    or sys.implementation.name != "cpython"
)
# (threads take tasks by C11's atomics, which Microsoft's compiler has where it is told so)
FLAGS = build.compile_flags() + ["/std:c11", "/experimental:c11atomics"] * build.MSVC
# (the symbols that profilers read are a twentieth of a wheel: a development build keeps them)
PROFILED = SANITIZE or COVERAGE or "FASTLR_VARIANTS" in os.environ
LINK = ["-s", "-Wl,--build-id=none"] if sysconfig.get_platform().startswith("linux") and not PROFILED else []
MACROS: list[tuple[str, str | None]] = [("Py_LIMITED_API", "0x030B0000")] if ABI3 else []
if SANITIZE:
    FLAGS = [flag for flag in FLAGS if flag not in ("-O3", "-g0")]
    FLAGS += ["-O1", "-g", "-fno-omit-frame-pointer", "-fno-wrapv", f"-fsanitize={SANITIZE}"]
    LINK += [f"-fsanitize={SANITIZE}"]
if COVERAGE:
    MACROS += [("CYTHON_TRACE_NOGIL", "1"), ("CYTHON_USE_SYS_MONITORING", "0")]

# A float kernel that silently computes in double is three times slower: gcc and clang can tell.
KERNEL_FLAGS = ["-Wdouble-promotion", "-Werror=double-promotion"] if STRICT and not build.MSVC else []

# Modules that were built at different times may disagree on what lies where: each knows what it was built from.
STRUCTS = [*sorted(Path("fastlr").glob("_*/*.pxd")), Path("fastlr/rules/scalars.pxd")]
BUILD_ID = build.declarations_id(path.read_text(encoding="utf-8") for path in STRUCTS)
BUILD_ID_FILE = Path("build/generated/build_id")               # what knows the number is built again when it changes
build.write_if_changed(BUILD_ID_FILE, BUILD_ID)
MACROS += [("FASTLR_LAYOUT", f'"{BUILD_ID}"')]
C_API = "fastlr._engine.c_api"         # says the version in C
VERSION = tomllib.loads(Path("pyproject.toml").read_text())["project"]["version"]
XLA_HANDLER = "fastlr.jax.handler"
HEADER = "fastlr/include/fastlr/fastlr.h"

NOT_RULES = {"__init__", "element", "scalars"}
FAMILIES = {f"fastlr.rules._{path.stem}": path for path in sorted(Path("fastlr/rules").glob("*.pxd"))
            if path.stem not in NOT_RULES}
MATRIX_DRIVER = Path("fastlr/_matrix/matrix_step.pyx")         # is compiled once, the rules beside it are kernels
KERNELS = {f"fastlr.{folder}.{path.stem}": path for folder in ("_kernels", "_matrix")
           for path in sorted(Path("fastlr", folder).glob("*.pyx")) if path != MATRIX_DRIVER}


# Tiles and codecs are long functions that are called from many places: where the compiler decides what to inline, a
# build takes a third of the time and half of the space, and no step is slower.
OWN_INLINING = [("CYTHON_INLINE", "")]
UNUSED = [] if build.MSVC else ["-Wno-unused-function"]

# What runs when an optimizer or a plan is made, and in no step, is compiled for size: a fifth less, in less time. So
# are the functions for each rule of `fastlr.kernels`, which are many (a third less; a call has 5 % more instructions),
# and what calls the products of matrices.
SET_UP = {"fastlr._c_api.c_plan", "fastlr._c_api.plan_functions", "fastlr._c_api.plan_setup",
          "fastlr._c_api.plan_state", "fastlr._engine.c_api", "fastlr._engine.cpu", "fastlr._engine.curvature",
          "fastlr._engine.layout", "fastlr._engine.pointer_rule", "fastlr._engine.torch_native",
          "fastlr._engine.torch_tensors", "fastlr._matrix.matrix_step", "fastlr.kernels"}
FOR_SIZE = [] if SANITIZE else ["/O1"] if build.MSVC else ["-Os"]
# What calls kernels and has few loops gains nothing by -O3, which makes it larger.
HAS_LOOPS = {*FAMILIES, *KERNELS, "fastlr._engine.compiled_schedule", "fastlr._engine.foreach",
             "fastlr._engine.row_index"}
CALLS = [] if SANITIZE or build.MSVC else ["-O2"]


def extension(name: str, source: str, flags: list[str]) -> Extension:
    """The extension of one source; what it cimports is found by Cython."""
    # (whether it includes fastlr's header)
    own = name in (C_API, XLA_HANDLER, "fastlr.kernels") or name.startswith("fastlr._c_api.")
    return Extension(
        name,
        [source],
        depends=[HEADER, "pyproject.toml"] * own + ([] if name in FAMILIES else [str(BUILD_ID_FILE)]),
        include_dirs=["fastlr/include"] if own else [],
        extra_compile_args=FLAGS + flags + (FOR_SIZE if name in SET_UP else [] if name in HAS_LOOPS else CALLS),
        extra_link_args=LINK,
        define_macros=MACROS + OWN_INLINING * (name in KERNELS) + [("FASTLR_VERSION", f'"{VERSION}"')] * own,
        py_limited_api=ABI3,
    )


JOBS = os.cpu_count() or 1

# The table of the schedules' curves follows from their file.
build_schedules.write_table(Path("fastlr/curves.pxd"), Path("build/generated/curve_table.pxi"))
build.write_signatures("fastlr/rules/signatures.py", FAMILIES, BUILD_ID)
extensions = [extension(name, build.write_rules(name, path), KERNEL_FLAGS) for name, path in FAMILIES.items()]
extensions += [extension(name, str(path), [*KERNEL_FLAGS, *UNUSED]) for name, path in KERNELS.items()]
extensions += [
    extension(str(path.with_suffix("")).replace(os.sep, "."), str(path), [])
    for path in sorted(Path("fastlr").rglob("*.pyx"))
    if path not in KERNELS.values()
]
assert {each.name for each in extensions} >= SET_UP


class TranslateAndBuild(build_ext):
    """Translates to C what is to be compiled. Commands that compile nothing (sdist, egg_info) translate nothing."""

    def run(self) -> None:
        translated = build.translated(
            self.extensions,
            build_dir="build/cython",
            include_path=[".", "build/generated"],
            # (side by side; where processes do not fork, they would run this file again)
            nthreads=JOBS if sys.platform != "win32" and multiprocessing.get_start_method() == "fork" else 0,
            compiler_directives={
                "language_level": 3,
                "boundscheck": False,
                "wraparound": False,
                "initializedcheck": False,
                "cdivision": True,
                # (modules are called by fastlr alone, which pickles none of their objects and asks for no signature)
                "binding": False,
                "auto_pickle": False,
                "linetrace": COVERAGE,
            },
        )
        for own, made in zip(self.extensions, translated, strict=True):
            own.sources, own.depends = made.sources, made.depends
            if own.name in FAMILIES | KERNELS:
                build.with_variants(own)
        super().run()


# The same bytes whenever and wherever an sdist or a wheel is made of the same files: one date, as a wheel has it.
os.environ.setdefault("SOURCE_DATE_EPOCH", "315532800")


class SameSdist(sdist):
    def make_archive(self, base_name, format, root_dir=None, base_dir=None, owner=None, group=None):
        date = int(os.environ["SOURCE_DATE_EPOCH"])

        def same(info: tarfile.TarInfo) -> tarfile.TarInfo:
            info.mtime, info.uid, info.gid, info.uname, info.gname = date, 0, 0, "", ""
            info.mode = 0o755 if info.mode & 0o100 else 0o644
            return info

        with open(f"{base_name}.tar.gz", "wb") as file, gzip.GzipFile("", "wb", fileobj=file, mtime=date) as zipped, \
                tarfile.open(fileobj=zipped, mode="w") as archive:
            for path in [Path(base_dir), *sorted(Path(base_dir).rglob("*"))]:
                archive.add(path, recursive=False, filter=same)
        return f"{base_name}.tar.gz"


setup(
    ext_modules=extensions,
    cmdclass={"build_ext": TranslateAndBuild, "sdist": SameSdist},
    options={"build_ext": {"parallel": JOBS}} | ({"bdist_wheel": {"py_limited_api": "cp311"}} if ABI3 else {}),
)
