"""The state of an optimizer by name and slot: what is set there is written into the arrays that steps use."""
from __future__ import annotations

from typing import Any

import numpy as np

from .._engine.arrays import BFloat16
from .._engine.tensors import Array, bfloat16_bits
from .declaration import nearest


class Slots(dict[str, Array]):
    """Arrays by name; setting one writes into it, as steps use that array alone."""

    label = "state"                    # what errors call it

    def __setitem__(self, name: str, value: Any) -> None:
        if name not in self:
            raise KeyError(f"{self.label}: there is no {name!r}{nearest(str(name), self)}")
        array, new = self[name], np.asarray(value)
        if isinstance(array, BFloat16) and new.dtype.kind == "f":
            new = bfloat16_bits(new)
        fits = array.dtype.kind == "f" and new.dtype.kind in "fiu"
        if not (fits or new.dtype == array.dtype) or new.shape not in ((), array.shape):
            raise ValueError(f"{self.label}: {name!r}: expected {array.dtype} {array.shape}, "
                             f"got {new.dtype} {new.shape}")
        array[...] = new

    def decoded(self) -> dict[str, Array]:
        """The numbers of each slot, as new arrays of float32 (or float64): of bfloat16 bits, and of 8-bit codes with
        their scales.

        >>> import numpy as np, fastlr
        >>> opt = fastlr.Momentum({"w": np.zeros(5000, np.float32)}, state_dtype="int8")
        >>> opt.step({"w": np.full(5000, 0.5, np.float32)})
        >>> opt.state["w"]["m"].dtype, opt.state["w"].decoded()["m"][:2]
        (dtype('int8'), array([0.5, 0.5], dtype=float32))
        """
        from .._engine.stored_numbers import decoded  # (imported at the first use, as most programs never call this)

        scales = {f"{slot}_scale" for slot in self if f"{slot}_scale" in self}
        return {slot: decoded(array, self.get(f"{slot}_scale")) for slot, array in self.items() if slot not in scales}

    def _refuse(self, *_: Any, **__: Any) -> Any:
        raise TypeError(f"{self.label}: what there is cannot be changed; write into the arrays, [name][...] = x")

    __delitem__ = __ior__ = clear = pop = popitem = setdefault = update = _refuse

    def __reduce__(self) -> Any:
        return dict, (dict(self),)


def labelled(label: str, arrays: dict[str, Array]) -> Slots:
    """Arrays that are not of a state."""
    slots = Slots(arrays)
    slots.label = label
    return slots


class State(dict[str, Slots]):
    """The slots of each parameter, by name."""

    def __setitem__(self, name: str, value: Any) -> None:
        self._refuse()

    def _refuse(self, *_: Any, **__: Any) -> Any:
        raise TypeError("state: what there is cannot be changed; write into the arrays, state[name][slot][...] = x")

    __delitem__ = __ior__ = clear = pop = popitem = setdefault = update = _refuse

    def __reduce__(self) -> Any:
        return dict, (dict(self),)
