"""`fastlr info`: versions, instruction set, threads, and the distributions that installed fastlr."""

from __future__ import annotations

import argparse
from importlib.metadata import packages_distributions
from pathlib import Path

import fastlr

from . import print_json

LINE = "Show versions, instruction set, threads, and the distributions that installed fastlr."


def declare(options: argparse.ArgumentParser) -> None:
    """It has no arguments."""


def run(arguments: argparse.Namespace) -> int:
    """Print `fastlr.show_config()` and the distributions that have files of the package `fastlr`."""
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
