"""`fastlr info`: versions, instruction set, threads, and the distributions that installed fastlr."""

from __future__ import annotations

import argparse
import shlex
from importlib.metadata import packages_distributions
from pathlib import Path

import fastlr

from . import print_json

LINE = "Show versions, instruction set, threads, and the distributions that installed fastlr."


def declare(options: argparse.ArgumentParser) -> None:
    """How to compile against fastlr, instead of all else."""
    paths = options.add_mutually_exclusive_group()
    paths.add_argument("--cflags", action="store_true", help="print the compiler flags for fastlr's C header")
    paths.add_argument("--pkgconfig", action="store_true", help="print the folder of fastlr.pc, for PKG_CONFIG_PATH")
    paths.add_argument("--cmake", action="store_true", help="print the folder of fastlrConfig.cmake, for fastlr_DIR")


def run(arguments: argparse.Namespace) -> int:
    """Print `fastlr.show_config()` and the distributions that have files of the package `fastlr`, or what is asked for.
    """
    if arguments.cflags or arguments.pkgconfig or arguments.cmake:
        share = Path(fastlr.__file__).parent / "share"
        print(shlex.join([f"-I{fastlr.get_include()}"]) if arguments.cflags else
              share / ("pkgconfig" if arguments.pkgconfig else "cmake"))
        return 0
    owners = sorted(set(packages_distributions().get("fastlr", ())))
    if arguments.json:
        print_json({"config": fastlr.show_config(mode="dicts"), "distributions": owners})
        return 0
    fastlr.show_config()
    print(f"installed by {', '.join(owners) or 'nobody: imported from ' + str(Path(fastlr.__file__).parent)}")
    if len(owners) > 1:
        print(
            "warning: these distributions overwrite each other's files; uninstall all of them, "
            "then install the one you want (this engine is fastlr-core)"
        )
    return 0
