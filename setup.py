"""What pyproject.toml cannot say: which source is compiled how often, and with which flags.

The doors of `fastlr/_kernels` are one source compiled once per instruction set; everything else is
compiled once, for the plainest CPU, so that nothing runs an instruction before the CPU was asked.

    FASTLR_NO_ABI3=1            a version-specific build
    FASTLR_SANITIZE=address     ... with that sanitizer (implies FASTLR_NO_ABI3)
    FASTLR_COVERAGE=1           ... with line tracing (implies FASTLR_NO_ABI3)
    FASTLR_STRICT=1             compiler warnings that guard a promise are errors
"""
import multiprocessing
import os
import platform
import runpy
import sys
import sysconfig
import tomllib
import zlib
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

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
MSVC = sys.platform == "win32" and "GCC" not in sys.version
X86 = platform.machine().lower() in ("x86_64", "amd64") and sys.maxsize > 2**32

if MSVC:
    FLAGS = ["/O2", "/fp:precise"]
    DOORS = {"baseline": [], "v3": ["/arch:AVX2"], "v4": ["/arch:AVX512"]} if X86 else {"baseline": []}
else:
    # -fno-math-errno is what lets the square roots vectorise; -ffp-contract=off keeps the same bits on every
    # instruction set. Never -ffast-math (it would change the host's floating-point mode), never -march=native.
    FLAGS = ["-O3", "-g0", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off"]
    FLAGS += ["-Wno-maybe-uninitialized"] if "clang" not in os.environ.get("CC", "gcc") else []
    DOORS = {"baseline": [], "v3": ["-march=x86-64-v3"], "v4": ["-march=x86-64-v4"]} if X86 else {"baseline": []}

LINK: list[str] = []
MACROS: list[tuple[str, str | None]] = [("Py_LIMITED_API", "0x030B0000")] if ABI3 else []
if SANITIZE:
    FLAGS = [flag for flag in FLAGS if flag not in ("-O3", "-g0")]
    FLAGS += ["-O1", "-g", "-fno-omit-frame-pointer", "-fno-wrapv", f"-fsanitize={SANITIZE}"]
    LINK += [f"-fsanitize={SANITIZE}"]
if COVERAGE:
    MACROS += [("CYTHON_TRACE_NOGIL", "1"), ("CYTHON_USE_SYS_MONITORING", "0")]

# A float kernel that silently computes in double is three times slower: gcc and clang can tell.
KERNEL_FLAGS = ["-Wdouble-promotion", "-Werror=double-promotion"] if STRICT and not MSVC else []

PUBLIC_DECLARATIONS = [str(path) for path in sorted(Path("fastlr").rglob("*.p[xy][dxi]"))]
# Modules that were built at different times may disagree on what lies where: each knows what it was built from.
STRUCTS = [Path("fastlr/element.pxd"), *sorted(Path("fastlr").glob("_*/*.pxd"))]
MACROS += [("FASTLR_LAYOUT", f'"{zlib.crc32(b"".join(path.read_bytes() for path in STRUCTS)):08x}"')]
C_DOOR = "fastlr._core.capi"           # alone includes fastlr's own header, and says the version in C
VERSION = tomllib.loads(Path("pyproject.toml").read_text())["project"]["version"]


# The table of the schedules' curves follows from their file.
GENERATED = Path("build/generated")
runpy.run_path("fastlr/build_schedules.py")["write_table"](Path("fastlr/curves.pxd"), GENERATED / "curve_table.pxi")


def compiled(name: str, flags: list[str]) -> Extension:
    """The extension of one .pyx file."""
    return Extension(
        name,
        [name.replace(".", "/") + ".pyx"],
        depends=PUBLIC_DECLARATIONS + (["fastlr/include/fastlr/fastlr.h"] if name == C_DOOR else []),
        include_dirs=["fastlr/include"] if name == C_DOOR else [],
        extra_compile_args=FLAGS + flags,
        extra_link_args=LINK,
        define_macros=MACROS + ([("FASTLR_VERSION", f'"{VERSION}"')] if name == C_DOOR else []),
        py_limited_api=ABI3,
    )


# The three doors take most of a build: they are made side by side. (Where processes do not fork, they would run this
# file again.)
JOBS = os.cpu_count() or 1
TRANSLATORS = JOBS if sys.platform != "win32" and multiprocessing.get_start_method() == "fork" else 0

once = [
    str(path.with_suffix("")).replace(os.sep, ".")
    for path in sorted(Path("fastlr").rglob("*.pyx"))
    if path.parent.name != "_kernels"
]
extensions = [compiled(name, []) for name in once]
extensions += [compiled(f"fastlr._kernels.{door}", flags + KERNEL_FLAGS) for door, flags in DOORS.items()]

setup(
    ext_modules=cythonize(
        extensions,
        build_dir="build/cython",
        nthreads=TRANSLATORS,
        include_path=[str(GENERATED)],
        compiler_directives={
            "language_level": 3,
            "boundscheck": False,
            "wraparound": False,
            "initializedcheck": False,
            "cdivision": True,
            "linetrace": COVERAGE,
        },
    ),
    options={"build_ext": {"parallel": JOBS}} | ({"bdist_wheel": {"py_limited_api": "cp311"}} if ABI3 else {}),
)
