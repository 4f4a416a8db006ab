"""Every elementwise and reducing update rule, a `.pxd` file for each family: the formula of one element.

Only structs of hyper-parameters and inline functions of one element and of a step's scalars belong here; nothing about
arrays, threads, storage or Python. `fastlr/build.py` reads them and writes the loops (compiled as
`fastlr.rules._<family>`) and `signatures.py`, which says of each rule what its signature says.
"""
from typing import NamedTuple


class RuleSignature(NamedTuple):
    """What the `.pxd` file says of one rule."""

    module: str                        # whose RULES has the compiled table
    hypers: tuple[str, ...]            # the fields of its struct
    slots: tuple[str, ...]             # its state of an element
    memory: tuple[str, ...]            # ... of a tensor as a whole
    shared: tuple[str, ...]            # ... of all tensors together
    sums: tuple[str, ...]              # what it sums over a tensor before it moves it
    depends_on_param: bool             # whether a step depends on the parameter's value
    nonnegative: tuple[str, ...]       # slots that are never negative
    position: tuple[str, ...]          # slots that hold a position of the parameter: never stored in 8 bits
