"""Rules by function pointer: from C, Rust, numba's `@cfunc` or anything else that compiles to a C function."""
from __future__ import annotations

import ctypes
from collections.abc import Iterable
from typing import Any, NamedTuple

from .._engine.pointer_rule import LIMITS, table_from_pointers
from . import RuleSignature

#: What the pointers of all rules belong to. A table lives as long as the process, as optimizers and C programs may
#: use it until the end; so must its functions.
KEPT: list[Any] = []


class PointerRule(NamedTuple):
    """A rule that was made from function pointers: what a class names as its ``rule``."""

    name: str
    table: Any
    signature: RuleSignature


def rule_from_pointers(
    name: str, *, slots: Iterable[str] = (), hypers: Iterable[str] = (), step_float32: Any, step_float64: Any = None,
    scalars: Any = None, memory: Iterable[str] = (), shared: Iterable[str] = (), begin: Any = None,
    sums: Iterable[str] = (), terms_float32: Any = None, terms_float64: Any = None, finish: Any = None,
    finish_all: Any = None, depends_on_param: bool = False, decay_inside_update: bool = False,
    updates_state_while_reducing: bool = False, nonnegative: Iterable[str] = (), position: Iterable[str] = (),
) -> PointerRule:
    r"""Make a rule from C functions over contiguous elements; pass it to a class as its ``rule``.

    Each function is an address (int), a ctypes function, or an object with an ``address`` (numba's ``@cfunc``), of
    these types (`fastlr.h` declares them and ``fastlr_step_scalars``):

    .. code-block:: c

        void step(const double *hyper, const fastlr_step_scalars *now, T *p, const T *g, T *const *slots, ptrdiff_t n);
        void scalars(const double *hyper, fastlr_step_scalars *now);
        void begin(const double *hyper, fastlr_step_scalars *now, double *memory, const double *shared);
        void terms(const double *hyper, const fastlr_step_scalars *now, const T *p, const T *g, T *const *slots,
                   double *totals, ptrdiff_t n);
        void finish_all(const double *hyper, const fastlr_step_scalars *now, double *shared, const double *totals,
                        double size);
        void finish(const double *hyper, fastlr_step_scalars *now, double *memory, const double *shared,
                    const double *totals, double size);

    `step` moves n elements p by their gradients g, and first multiplies each by ``now->decay_factor``. T is float or
    double. ``now`` is 15 doubles: t, lr, max_lr, decay_factor, weight_decay, first_update, loss, and eight of the
    rule's own that `scalars`, `begin` and `finish` may fill. A function must depend on nothing but its arguments, and
    an element on nothing but itself; it is called from several threads, without the GIL, on tiles of at most 256
    elements or on whole chunks. Compile with ``fastlr.build.compile_flags()`` to keep the same bits everywhere.

    Parameters
    ----------
    name
        What errors call the rule.
    slots, hypers, memory, shared, sums
        Names: of the state of an element, of the hyper-parameters in the order of `hyper`, of the numbers kept of a
        tensor and of all tensors, of what `terms` adds to `totals`.
    step_float32, step_float64
        One of them may be None: parameters of that precision are refused.
    depends_on_param, decay_inside_update, updates_state_while_reducing, nonnegative, position
        What a ``# traits of`` line says about a rule in Cython (`fastlr/build_rules.py`).

    Raises
    ------
    TypeError, ValueError
        For a NULL pointer, too many names, a slot that is not one, or sums without `terms_float32`.

    >>> import ctypes, fastlr
    >>> step = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 5, ctypes.c_ssize_t)(lambda *a: None)
    >>> rule = fastlr.rule_from_pointers("nothing", step_float32=None, step_float64=step)
    >>> rule.signature.slots
    ()
    """
    who = f"rule_from_pointers({name!r})"
    given = {"scalars": scalars, "begin": begin, "step_float32": step_float32, "step_float64": step_float64,
             "terms_float32": terms_float32, "terms_float64": terms_float64, "finish_all": finish_all, "finish": finish}
    addresses = {what: address_of(function, who, what) for what, function in given.items()}
    names = {what: names_of(given, who, what) for what, given in (
        ("hypers", hypers), ("slots", slots), ("memory", memory), ("shared", shared), ("sums", sums),
        ("nonnegative", nonnegative), ("position", position))}
    listed = {what: names.pop(what) for what in ("nonnegative", "position")}
    for what, found in names.items():
        if len(found) > LIMITS.get(what, LIMITS["scalars"]):
            raise ValueError(f"{who}: has {len(found)} {what}, at most {LIMITS.get(what, LIMITS['scalars'])} are "
                             f"possible")
    for what, chosen in listed.items():
        for slot in chosen:
            if slot not in names["slots"]:
                raise ValueError(f"{who}: {what} names no slot: {slot!r}; slots are {names['slots']}")
    if not addresses["step_float32"] and not addresses["step_float64"]:
        raise ValueError(f"{who}: needs step_float32 or step_float64")
    for kind in ("float32", "float64"):
        if bool(names["sums"]) != bool(addresses[f"terms_{kind}"]) and addresses[f"step_{kind}"]:
            raise ValueError(f"{who}: needs both sums and terms_{kind}, or neither")
    if updates_state_while_reducing and not names["sums"]:
        raise ValueError(f"{who}: updates_state_while_reducing is for a rule with sums, whose terms move the slots")
    counts = {what: len(found) for what, found in names.items()}
    table = table_from_pointers(counts, addresses, decay_inside_update, updates_state_while_reducing)
    signature = RuleSignature("", **names, depends_on_param=bool(depends_on_param), **listed)
    KEPT.append(tuple(given.values()))
    return PointerRule(name, table, signature)


def names_of(given: Iterable[str], who: str, what: str) -> tuple[str, ...]:
    """Different names, as they are given."""
    if isinstance(given, str):
        raise TypeError(f"{who}: {what} must be a sequence of names, got {given!r}; write ({given!r},)")
    found = tuple(given)
    if any(not isinstance(each, str) or not each.isidentifier() for each in found) or len(set(found)) < len(found):
        raise ValueError(f"{who}: {what} must be different identifiers, got {found}")
    return found


def address_of(function: Any, who: str, what: str) -> int:
    """The address of a C function; 0 for None."""
    if function is None:
        return 0
    if isinstance(function, bool) or not isinstance(function, int):
        if isinstance(function, ctypes._CFuncPtr):         # type: ignore[attr-defined]
            function = ctypes.cast(function, ctypes.c_void_p).value or 0
        elif hasattr(function, "address"):
            function = function.address
        else:
            raise TypeError(f"{who}: {what} must be an address, a ctypes function or an object with an address, "
                            f"got {type(function).__name__}")
    if not 0 < int(function) < 2**64:
        raise ValueError(f"{who}: {what} must not be NULL, got {function}")
    return int(function)
