"""`fastlr inspect`: the contents of a checkpoint, without loading it."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fastlr

from . import Refusal, print_json, printable

LINE = "Show the contents of a checkpoint, without loading it."


def declare(options: argparse.ArgumentParser) -> None:
    options.add_argument("checkpoint", type=Path, metavar="CHECKPOINT")


def run(arguments: argparse.Namespace) -> int:
    """Print the header of a checkpoint: optimizer, updates done, hyper-parameters, tensors."""
    from .. import checkpoint

    path = arguments.checkpoint
    try:
        header = checkpoint.read_header(path)
    except OSError as error:
        raise Refusal(f"fastlr inspect: {path}: {error.strerror or error}", 2) from error
    except fastlr.CheckpointError as error:
        raise Refusal(f"fastlr inspect: {error}", 2) from error
    if arguments.json:
        print_json(header)
        return 0
    tensors = header["tensors"]
    if header["optimizer"] is None and "run" in header["metadata"]:
        print("A run")
        header["metadata"] = {key: summary(node) for key, node in entries(header["metadata"]["run"])}
    else:
        print(f"{printable(header['optimizer'])}, {header['t']} updates done")
    for name, value in header["metadata"].items():
        print(f"  {printable(name)} = {printable(value)}")
    print(f"{len(tensors)} tensors, {sum(tensor['bytes'] for tensor in tensors.values()):,} bytes")
    rows = [
        (printable(name), tensor["dtype"], str(tuple(tensor["shape"])), f"{tensor['bytes']:,}")
        for name, tensor in tensors.items()
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for name, dtype, shape, size in rows:
        print(f"  {name:{widths[0]}}  {dtype:{widths[1]}}  {shape:{widths[2]}}  {size:>{widths[3]}} bytes")
    return 0


def entries(node: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """The objects of a run, each with the way to it."""
    inside = node.get("entries") if isinstance(node, dict) else None
    if not isinstance(inside, dict | list):
        yield name, node
        return
    for key, entry in inside.items() if isinstance(inside, dict) else enumerate(inside):
        yield from entries(entry, f"{name}/{key}" if name else str(key))


def summary(node: Any) -> object:
    """An object of a run in a few words."""
    if not isinstance(node, dict):
        return node
    if "value" in node:
        return node["value"]
    state = node.get("state")
    if node.get("kind") == "optimizer" and isinstance(state, dict):
        return f"{state.get('optimizer')}, {state.get('t')} updates done"
    return node.get("kind")
