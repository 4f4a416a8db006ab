"""What one pass does around the rule: the keywords that every optimizer has alike, checked once."""
from math import inf
from typing import Any, Literal, NamedTuple

POSITIVE = ("clip_value", "clip_norm", "clip_tensor_norm", "clip_adaptive", "clip_adaptive_eps", "clip_zscore")
CHOICES = {
    "clip_adaptive_axis": (0, -1),
    "nonfinite": ("propagate", "skip", "raise"),
    "rounding": ("nearest", "stochastic"),
}
#: Those that can be set between steps: numbers, of which the order of elements and their random bits do not depend.
SETTABLE = ("clip_value", "clip_norm", "clip_tensor_norm", "clip_zscore", "clip_zscore_alpha", "ema_decay")


class Stages(NamedTuple):
    """See `Optimizer`, which says what each of them does."""

    clip_value: float | None = None
    clip_adaptive: float | None = None
    clip_adaptive_eps: float = 1e-3
    clip_adaptive_axis: Literal[0, -1] = 0
    clip_zscore: float | None = None
    clip_zscore_alpha: float = 0.97
    clip_zscore_warmup: int = 25
    clip_norm: float | None = None
    clip_tensor_norm: float | None = None
    nonfinite: Literal["propagate", "skip", "raise"] = "propagate"
    ema_decay: float | None = None
    rounding: Literal["nearest", "stochastic"] = "nearest"
    seed: int = 0
    maximize: bool = False

    def check(self, owner: str) -> None:
        """ValueError or TypeError unless every option is one."""
        for name in POSITIVE:
            value = number(getattr(self, name), owner, name)
            if value is not None and not 0 < value < inf:
                raise ValueError(f"{owner}: {name} must be positive and finite, got {value}")
        for name, low in (("ema_decay", 0), ("clip_zscore_alpha", 0)):
            value = number(getattr(self, name), owner, name)
            if value is not None and not low <= value < 1:
                raise ValueError(f"{owner}: {name} must be in [0, 1), got {value}")
        for name, choices in CHOICES.items():
            value = getattr(self, name)
            if isinstance(value, bool) or value not in choices:
                listed = ", ".join(map(repr, choices[:-1])) + f" or {choices[-1]!r}"
                raise ValueError(f"{owner}: {name} must be {listed}, got {value!r}")
        for name, least, behind, interval in (("seed", 0, 2**64, "[0, 2**64)"),
                                              ("clip_zscore_warmup", 1, 2**31, "[1, 2**31)")):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not least <= value < behind:
                raise ValueError(f"{owner}: {name} must be an integer in {interval}, got {value!r}")
        if self.maximize not in (False, True):
            raise ValueError(f"{owner}: maximize must be True or False, got {self.maximize!r}")

    @property
    def permuted(self) -> bool:
        """Whether elements may be read in the order of their memory: random bits and units go by the axes."""
        return self.rounding == "nearest" and self.clip_adaptive is None

    @property
    def norms_needed(self) -> str:
        """The first option that needs the norm of a whole gradient, or nothing."""
        options = ("clip_adaptive", "clip_zscore", "clip_norm", "clip_tensor_norm")
        return next((name for name in options if getattr(self, name) is not None), "")


STAGES = Stages._fields
AS_USUAL = Stages()


class StageSetting:
    """A stage as an attribute of the optimizer: read, and if it is one of SETTABLE, set between steps."""

    __slots__ = ("name",)

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, optimizer: Any, owner: type) -> Any:
        return getattr(AS_USUAL if optimizer is None else optimizer._stages, self.name)

    def __set__(self, optimizer: Any, value: Any) -> None:
        optimizer._set_stage(self.name, value)


def number(value: Any, owner: str, name: str) -> float | None:
    """An option that is a number or None."""
    if value is None:
        return None
    if isinstance(value, bool | str):
        raise TypeError(f"{owner}: {name} must be a number, got {value!r}")
    try:
        return float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{owner}: {name} must be a number, got {value!r}") from None
