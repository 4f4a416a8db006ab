"""Every elementwise and reducing update rule, a `.pxd` file for each family: the formula of one element.

Only structs of hyper-parameters and inline functions of one element and of a step's scalars belong here; nothing about
arrays, threads, storage or Python. `fastlr/build_rules.py` reads them, `build_loops.py` writes the loops (compiled as
`fastlr.rules._<family>`) and `build.py` writes `signatures.py`, which says of each rule what its signature says.
"""
from __future__ import annotations


class RuleSignature:
    """What the `.pxd` file says of one rule. (No named tuple: making that class takes 0.2 ms of every import.)"""

    __slots__ = ("depends_on_param", "hypers", "memory", "module", "nonnegative", "position", "shared", "slots", "sums")

    def __init__(self, module: str, hypers: tuple[str, ...], slots: tuple[str, ...], memory: tuple[str, ...],
                 shared: tuple[str, ...], sums: tuple[str, ...], depends_on_param: bool,
                 nonnegative: tuple[str, ...], position: tuple[str, ...]) -> None:
        self.module = module           # whose RULES has the compiled table
        self.hypers = hypers           # the fields of its struct
        self.slots = slots             # its state of an element
        self.memory = memory           # ... of a tensor as a whole
        self.shared = shared           # ... of all tensors together
        self.sums = sums               # what it sums over a tensor before it moves it
        self.depends_on_param = depends_on_param       # whether a step depends on the parameter's value
        self.nonnegative = nonnegative                 # slots that are never negative
        self.position = position       # slots that hold a position of the parameter: never stored in 8 bits

    def with_hypers(self, hypers: tuple[str, ...]) -> RuleSignature:
        """The same of a rule with other hyper-parameters."""
        return RuleSignature(self.module, hypers, self.slots, self.memory, self.shared, self.sums,
                             self.depends_on_param, self.nonnegative, self.position)
