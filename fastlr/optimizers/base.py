"""What every optimizer is: parameters that are bound, steps that move them, and a state that can be saved."""
from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

from .._engine.accumulation import accumulate
from .._engine.instruction_set import isa
from .._engine.rows import step_rows
from .._engine.threads import get_num_threads
from . import state
from .adjusting import Adjustable
from .binding import BoundParameters
from .declaration import SignatureOfClass, nearest
from .loss_scale import LossScale
from .rule_class import PACKAGE, REGISTRY, RuleClass
from .slots import labelled
from .stages import Stages, StageSetting

__all__ = ["REGISTRY", "Optimizer"]


class Optimizer(Adjustable, family=True):
    """What all optimizers are.

    Parameters
    ----------
    params
        An array, a sequence of arrays, a mapping name -> array, any nesting of mappings, sequences, named tuples and
        dataclasses (names are joined by "/", as in "layers/0/w"), or a sequence of groups
        ``{"params": ..., "lr": ..., ...}``. An array is any writable CPU buffer (PEP 3118) or DLPack tensor of
        float16, bfloat16, float32 or float64, of any strides that do not overlap. It is updated in place; where an
        entry of a mapping or a field of a dataclass was replaced by another array, a step raises RuntimeError.
    lr, weight_decay and what the class names
        A float, or a schedule: any callable ``t -> float``, t = 0 being the first update. All may be set between
        steps, ``opt.lr = 0.1``.
    grads
        Gradient buffers of the same structure, bound once: ``opt.step()`` then needs no argument.
    clip_value
        Bounds each (unscaled) gradient element to [-clip_value, clip_value].
    clip_adaptive, clip_adaptive_eps, clip_adaptive_axis
        Adaptive clipping (AGC, https://arxiv.org/abs/2102.06171), after clip_value: the gradient of each unit is
        scaled down where its norm reaches clip_adaptive * max(norm of the unit's parameters, clip_adaptive_eps), to
        that. Units lie along axis 0 (rows of a weight laid out as in torch; timm's ``adaptive_clip_grad``) or -1
        (columns, as in JAX; ``optax.adaptive_grad_clip``, which of three axes takes the last two together); an array
        of fewer than two axes is one. Costs one more read of parameters and gradients; the norms of `clip_norm` and of
        `opt.grad_norm` are then those it leaves.
    clip_norm
        Scales all gradients down together where their Euclidean norm is larger, by clip_norm / (norm + 1e-6), as
        torch's ``clip_grad_norm_``. Measured in one more read of the gradients; `opt.grad_norm` then has the norm.
    clip_zscore, clip_zscore_alpha, clip_zscore_warmup
        Scales all gradients down together where their norm stands out among those of past steps (ZClip,
        https://arxiv.org/abs/2504.02507). The first ``clip_zscore_warmup`` norms give a mean and a variance; then a
        norm with z = (norm - mean) / (std + 1e-6) above `clip_zscore` is brought to mean + clip_zscore**2 / z * std,
        and mean and variance follow with the factor `clip_zscore_alpha` the norm that was left. Where `clip_norm`
        is smaller, it bounds the step. A norm that is not finite is not remembered. `opt.norms` has what is.
    clip_tensor_norm
        The same as clip_norm for each tensor by its own norm (Keras' ``clipnorm``), after it.
    nonfinite
        What a step does when a gradient holds NaN or infinity: "propagate" takes it, "skip" leaves parameters, state
        and t as they are and counts it in `opt.skipped`, "raise" raises FloatingPointError with nothing changed.
    ema_decay
        Keep a running mean of the parameters, ``ema <- ema_decay * ema + (1 - ema_decay) * p`` after each step, which
        begins at the parameters' values; `opt.ema` has it, by name.
    state_dtype
        How the state is stored: "float32" (the default, for parameters of up to 32 bits), "float64", "bfloat16",
        "float16" or "int8" (companded, a scale for every 64 elements; tensors of fewer than 4,096 elements keep
        float32). One for all, or by name, or as lr_scale is given. Rules compute in float32, or in float64 where
        parameter or state is float64.
    rounding, seed
        "nearest", or "stochastic": 16-bit parameters and states are rounded up or down with the probability that keeps
        their mean, by random bits of (seed, t, name, element), the same for any thread count.
    shadow
        "bfloat16" or "float16": keep a copy of the parameters rounded to nearest, in the same pass; `opt.shadow` has
        it, by name. Or the arrays that are to hold it, given as lr_scale is (uint16 for bfloat16). It is no state:
        where you change a parameter yourself, `opt.cast()` brings the copy up to date.
    master
        "split": what moves is a float32 whose upper half, the nearest bfloat16, is the parameter, and whose lower
        half is kept as ``opt.state[name]["remainder"]`` (2 bytes an element). Training is bit for bit that of a float32
        parameter; `opt.master` has it. A parameter that you change between steps keeps its remainder: the float32 is
        within half a bfloat16 step of what you wrote (0 is 0); set the remainder to 0 for just that.
    dtype
        "bfloat16" says that uint16 arrays hold bfloat16 bits.
    decay
        How ``weight_decay`` works: "coupled" adds ``weight_decay * p`` to the gradient (L2, as in torch's SGD and
        Adam), "decoupled" shrinks p by ``lr * weight_decay`` (as in AdamW), "independent" shrinks p by
        ``weight_decay`` itself, "corrected" by ``lr**2 / lr_max * weight_decay`` (AdamC,
        https://arxiv.org/abs/2506.02285: for weights that a normalisation follows, whose gradients grow towards the
        end of a schedule otherwise). One for all, or as lr_scale is given; None is what the rule's name means.
    lr_max
        The largest learning rate, for "corrected" decay, of all groups or (as ``"lr_max"``) of one. If not given, it
        is the highest of a schedule's first 2**20 updates, and of numbers the largest that `lr` has been set to; so
        with a constant rate, corrected decay is decoupled. A function of one's own needs it.
    decay_mask
        Which parameters decay: a mapping name -> bool, a sequence, or a callable ``(name, array) -> bool``.
    constraint
        Where steps leave parameters, as `fastlr.constraints` has them: bounds, norms by row, a simplex. One for all,
        or by name, or as lr_scale is given. Running mean and 16-bit copy follow it. A parameter whose gradient is None
        stays where it is; `opt.constrain()` brings all within their constraints at once.
    catch_up_rows
        Let rows that `step_rows` did not touch have those updates later, bit for bit as whole steps with zeros for
        their gradients: moments decay, weight decay and momentum move on. A row has them before it is touched again or
        the parameter is given a whole gradient. `opt.catch_up(name, rows)` lets rows have them before a batch reads
        those, `opt.catch_up()` all rows before you evaluate or save.
        Each update is done again, with the rates of its time, for each row that missed it; rows whose state is zero,
        and moves that are lost in the last digit (of rules that say how they fade), are left out. True, or the most
        updates that a row may be behind (4,096, of 500 bytes each; then all rows catch up); one for all, or by name,
        or as lr_scale is given. Not for rules that see more than an element's gradient, nor beside constraint, shadow
        and master.
    lr_scale
        A learning-rate factor per tensor: a number or an array of the tensor's shape (a learning rate per element),
        given as a mapping by name, a sequence, a callable ``(name, array)``, or one number for all.
    maximize
        Ascend instead of descend.

        Of these, `clip_value`, `clip_norm`, `clip_tensor_norm`, `clip_zscore`, `clip_zscore_alpha` and `ema_decay` can
        be set between steps, ``opt.clip_norm = 1.0``; the others can be read.
    convention
        "torch", "optax", "keras", "paper" or another source, where they differ: the rule as they have it, with their
        defaults of hyper-parameters and their mode of weight decay, unless you give others. The class says in what
        they differ and which is the default; a state knows its own, and loads into no other.

    Raises
    ------
    TypeError, ValueError
        They say who, what must hold, what came, and the cure; nothing has changed when one is raised.
    """

    __signature__ = SignatureOfClass(BoundParameters.__init__, Stages)

    clip_value = StageSetting()
    clip_adaptive = StageSetting()
    clip_adaptive_eps = StageSetting()
    clip_adaptive_axis = StageSetting()
    clip_zscore = StageSetting()
    clip_zscore_alpha = StageSetting()
    clip_zscore_warmup = StageSetting()
    clip_norm = StageSetting()
    clip_tensor_norm = StageSetting()
    nonfinite = StageSetting()
    ema_decay = StageSetting()
    rounding = StageSetting()
    seed = StageSetting()
    maximize = StageSetting()

    def __setattr__(self, name: str, value: Any) -> None:
        """Set what an optimizer has; AttributeError for what would do nothing."""
        if name[:1] != "_":
            cls = type(self)
            if name in RuleClass.__annotations__ and name not in cls.hypers:
                raise AttributeError(f"{cls.__name__}: {name} is of the class, it cannot be set")
            if isinstance(getattr(cls, name, None), property) and getattr(cls, name).fset is None:
                raise AttributeError(f"{cls.__name__}: {name} can be read alone, it cannot be set")
            if not hasattr(cls, name) and name not in vars(self):
                if name in cls.__signature__.parameters:
                    raise AttributeError(f"{cls.__name__}: {name} is for the constructor, it cannot be set later")
                if cls.__module__.partition(".")[0] == PACKAGE or cls._is_option(name):
                    raise AttributeError(f"{cls.__name__}: has no {name!r} to set{cls._nearest_keyword(name)}")
        object.__setattr__(self, name, value)

    @classmethod
    def _is_option(cls, name: str) -> bool:
        """Whether a name is that of an option of some optimizer, or close to one of this; a subclass may keep others.
        """
        return bool(cls._nearest_keyword(name)) or any(name in other.hypers or name in other.options
                                                       for other in REGISTRY.values())

    # Stepping

    @property
    def t(self) -> int:
        """Updates done."""
        return self._plan.t

    @property
    def skipped(self) -> int:
        """Steps that ``nonfinite="skip"`` did not take."""
        return self._plan.skipped

    @property
    def grad_norm(self) -> float | None:
        """The norm of the latest step's gradients, unscaled and clipped by value; None where nothing measured it."""
        return self._plan.grad_norm

    @property
    def params(self) -> dict[str, Any]:
        """The parameters by name, as the arrays that steps write."""
        return labelled("params", {tensor.name: tensor.array for tensor in self._plan.tensors})

    @property
    def current(self) -> dict[str, float]:
        """The numbers that the next step will use: every hyper-parameter, a schedule's value at `t`.

        ValueError where they differ between groups: ``opt.groups[i].current`` has those of one.

        >>> import numpy as np, fastlr
        >>> fastlr.SGD(np.ones(1), lr=fastlr.schedules.linear(1.0, steps=10).warmup(4)).current
        {'lr': 0.0, 'weight_decay': 0.0}
        """
        first, *rest = (group.current for group in self.groups)
        for other in rest:
            for name, value in first.items():
                if other[name] != value:
                    raise ValueError(f"{type(self).__name__}: {name} differs between groups; read "
                                     f"opt.groups[i].current")
        return first

    @property
    def shadow(self) -> dict[str, Any]:
        """The 16-bit copy of each parameter that has one, by name."""
        return labelled("shadow", {tensor.name: tensor.shadow for tensor in self._plan.tensors
                                   if tensor.shadow is not None})

    @property
    def master(self) -> dict[str, Any]:
        """The numbers that move, by name, as new float32 (or float64) arrays: of a split parameter both halves."""
        return {tensor.name: tensor.master().copy() for tensor in self._plan.tensors}

    @property
    def norms(self) -> dict[str, float]:
        """What clip_zscore knows of past norms: their mean and variance, and how many of its warm-up it has seen."""
        if self._stages.clip_zscore is None:
            raise AttributeError(f"{type(self).__name__}: no norms are remembered; give clip_zscore")
        return dict(zip(("count", "mean", "variance"), self._plan.norms, strict=True))

    @property
    def ema(self) -> dict[str, Any]:
        """The running mean of each parameter, by name: what `ema_decay` keeps."""
        if "ema" not in self._kept:
            raise AttributeError(f"{type(self).__name__}: no running mean is kept; give ema_decay")
        return labelled("ema", {name: slots["ema"] for name, slots in self.state.items()})

    def step(self, grads: Any = None, grad_scale: float | LossScale = 1.0, zero_grads: bool = False) -> None:
        """Update every parameter in place.

        Parameters
        ----------
        grads
            Gradients in the structure of the parameters, of their shapes, in any layout; float64 for float64, any float
            of up to 32 bits for any other. `None` for a tensor skips it, and its own count of updates stays. Only read,
            unless `zero_grads`. Not given: those bound.
        grad_scale
            Divides the gradients (the factor by which a loss was scaled). A `fastlr.LossScale` moves with the step,
            and needs ``nonfinite="skip"``.
        zero_grads
            Set the gradients to zero in the same pass.

        Raises
        ------
        TypeError, ValueError
            Before anything is written.
        RuntimeError
            If this optimizer is stepping in another thread.
        """
        # (the shortest way for bound gradients and for lists: a step of one small tensor takes 0.3 us in all)
        if grads is not None and (type(grads) is not list or self._nested or len(grads) != self._plan.count):
            grads = self._structure.arranged(grads, type(self).__name__)
        if type(grad_scale) is float or not isinstance(grad_scale, LossScale):
            self._plan.step(grads, grad_scale, zero_grads)
        else:
            self._step_with(grads, grad_scale, zero_grads)

    def _step_with(self, grads: Any, grad_scale: float | LossScale, zero_grads: bool, *more: Any) -> None:
        """A step of gradients in the order of the tensors, with what more this rule is given."""
        if not isinstance(grad_scale, LossScale):
            self._plan.step(grads, grad_scale, zero_grads, *more)
            return
        if self._stages.nonfinite != "skip":
            raise ValueError(f"{type(self).__name__}: a LossScale needs nonfinite='skip', "
                             f"got {self._stages.nonfinite!r}; give it to the constructor")
        skipped = self._plan.skipped
        self._plan.step(grads, grad_scale.value, zero_grads, *more)
        grad_scale.update(self._plan.skipped > skipped)

    def step_rows(self, name: str, rows: Any, grads: Any, grad_scale: float = 1.0, *,
                  ends_step: bool | None = None) -> None:
        """Update some rows of one parameter, as of an embedding table, and nothing else of it.

        Row ``rows[k]`` of the parameter (its first axis) moves by ``grads[k]``; of a row that comes several times, the
        gradients are first added in the order in which they come. A row moves exactly as `step` would move it, and the
        others stay, with their state: moments decay, weight decay shrinks and the running mean follows only where a
        row is touched ("lazily"). With `catch_up_rows` a row first does what it missed: see `catch_up`.

        This is the tensor's own update in the step under way: bias corrections count it at once, for all rows alike, as
        torch's SparseAdam, and schedules are at `t`. The step ends, and `t` moves, with the `step` that moves the rest
        (and takes None for this tensor):

        >>> import numpy as np, fastlr
        >>> params = {"table": np.zeros((1000, 2)), "w": np.zeros(3)}
        >>> opt = fastlr.SGD(params, lr=1.0)
        >>> opt.step_rows("table", np.array([7, 2, 7]), np.array([[1.0, 2.0], [3.0, 4.0], [10.0, 20.0]]))
        >>> opt.step({"table": None, "w": np.ones(3)})
        >>> params["table"][[2, 7]], opt.t
        (array([[ -3.,  -4.],
               [-11., -22.]]), 1)

        Parameters
        ----------
        name
            Whose rows: the parameter's name.
        rows
            integers of any type in [0, len(parameter)), one dimension. None at all: an update that moves nothing.
        grads
            A row for each of `rows`, ``(len(rows), *parameter.shape[1:])``, in any layout; types as in `step`.
        grad_scale
            Divides the gradients: a number (of a `LossScale`, its value; it moves with `step`).
        ends_step
            Whether the step ends here. By default where the optimizer holds this one tensor; say so with the last of
            several tables when no `step` follows.

        Raises
        ------
        TypeError, ValueError
            Before anything is written: for rows out of bounds, gradients of another shape, clip_norm and clip_zscore
            (which are over all gradients of a step: use clip_tensor_norm), or a state of 8 bits in rows of other than a
            multiple of 64 elements.
        """
        plan = self._plan
        plan.refuse_replaced()
        if name in self._frozen:
            raise ValueError(f"{type(self).__name__}: step_rows: the parameter {name!r} is frozen; call "
                             f"unfreeze({name!r}) first")
        if self.depends_on_param:
            raise TypeError(f"{type(self).__name__}: step_rows: a step of this rule depends on more than an element's "
                            f"gradient; use step")
        for i, tensor in enumerate(plan.tensors):
            if tensor.name == name:
                step_rows(plan, i, rows, grads, grad_scale, plan.count == 1 if ends_step is None else ends_step)
                return
        names = [tensor.name for tensor in plan.tensors]
        raise ValueError(f"{type(self).__name__}: step_rows: no parameter {name!r}{nearest(str(name), names)}")

    def catch_up(self, name: str | None = None, rows: Any = None) -> None:
        """Let rows have the updates that `step_rows` did without them, where `catch_up_rows` is given.

        Call ``opt.catch_up(name, rows)`` before a batch reads those rows, so that its gradient is taken where whole
        steps would have left them, and ``opt.catch_up()``, for all rows of all parameters, before you evaluate or save.
        Rows then have the bits of whole steps, with a gradient of zero where they were not touched. Where no row is
        behind it does nothing. `rows` are integers in [0, len(parameter)) in any shape.

        >>> import numpy as np, fastlr
        >>> params = {"table": np.zeros((3, 1))}
        >>> opt = fastlr.Momentum(params, lr=1.0, momentum=0.5, catch_up_rows=True)
        >>> for row in (0, 1, 0):
        ...     opt.catch_up("table", [row])       # (here the gradient would be taken)
        ...     opt.step_rows("table", [row], np.ones((1, 1)))
        >>> params["table"].ravel()                # row 1 has not had the third update
        array([-2.75, -1.  ,  0.  ])
        >>> opt.catch_up()
        >>> params["table"].ravel()
        array([-2.75, -1.5 ,  0.  ])

        Raises
        ------
        TypeError, ValueError
            For a name that there is not, and rows that are not within the parameter.
        """
        if (name is None) != (rows is None):
            raise TypeError(f"{type(self).__name__}: catch_up: give both a parameter's name and rows of it, or neither")
        if self._catch_up_rows is not None or name is not None:
            from .catching_up import catch_up, catch_up_rows  # (imported where it is needed, as few programs do)

            if name is None:
                catch_up(self)
            else:
                catch_up_rows(self, name, rows)

    def swapped(self) -> AbstractContextManager[None]:
        """In this with block the parameters hold their running means; after it their earlier values, bit for bit.

        As `EMA.swapped`, for `ema_decay`. In the block a step, a save, a load, and a change of groups or of what is
        frozen raise RuntimeError.

        >>> import numpy as np, fastlr
        >>> p = np.zeros(1)
        >>> opt = fastlr.SGD(p, lr=1.0, ema_decay=0.5)
        >>> opt.step(np.ones(1))
        >>> with opt.swapped():
        ...     print(p)
        [-0.5]
        >>> p
        array([-1.])
        """
        from .changing import swapped

        return swapped(self, self.ema)

    def accumulate(self, grads: Any = None, grad_scale: float = 1.0, zero_grads: bool = False) -> None:
        r"""Add the gradient of a micro-batch to the state; parameters and t stay, and no buffer is needed.

        Of n micro-batches, give n - 1 to `accumulate` and the last to `step`, all with ``grad_scale=n`` for a mean:

        .. math:: m \leftarrow \beta_1 m + (1 - \beta_1) \sum_i g_i, \quad
                  v \leftarrow \beta_2 v + (1 - \beta_2) \sum_i g_i^2

        (the share of each is added before the decay, divided by it). So m is that of the accumulated gradient, but v
        sums the squares of its parts, not the square of their sum: with n alike parts it is n times smaller, with
        unrelated ones the same. AdamA, Zhang et al. 2023, https://arxiv.org/abs/2305.19982. Momentum's m is exactly
        that of the sum. Coupled weight decay comes with the last gradient. What is accumulated is in the state, and
        saved with it; a tensor with a gradient here needs one in the step, which else raises ValueError.

        Raises
        ------
        TypeError
            If the rule needs the gradient for more than its moments: accumulate gradients, not moments.
        ValueError
            If gradients are to be clipped by a norm, which is not known before the last, or a decay is 0.

        >>> import numpy as np, fastlr
        >>> p, q = np.zeros(2), np.zeros(2)
        >>> opt = fastlr.Momentum(p, lr=0.1)
        >>> opt.accumulate(np.array([1.0, 2.0]), grad_scale=2)
        >>> opt.step(np.array([3.0, 2.0]), grad_scale=2)
        >>> fastlr.Momentum(q, lr=0.1).step(np.array([2.0, 2.0]))
        >>> np.allclose(p, q, rtol=1e-15), opt.t
        (True, 1)
        """
        self._accumulate(None if grads is None else self._arranged(grads), grad_scale, zero_grads)

    def _accumulate(self, grads: list[Any] | None, grad_scale: float, zero_grads: bool) -> None:
        """The same of gradients in the order of the tensors."""
        owner = type(self).__name__
        accumulation = type(self).accumulation
        if accumulation is None or not self._peer.accumulates:
            known = ", ".join(cls.__name__ for cls in REGISTRY.values() if cls.accumulation is not None)
            raise TypeError(f"{owner}: accumulate needs a rule that sees gradients through its moments alone "
                            f"({known}); accumulate the gradients themselves")
        if self._stages.norms_needed:
            raise ValueError(f"{owner}: accumulate cannot do {self._stages.norms_needed}, as the norm is known only "
                             f"with the last of a gradient's parts; use clip_value, or accumulate the gradients "
                             f"themselves")

        def shares(values: dict[str, float], first_update: bool) -> list[tuple[int, float]]:
            try:
                made = accumulation(values, first_update)
            except ZeroDivisionError:
                raise ValueError(f"{owner}: accumulate needs decays above 0: a moment that is forgotten at the next "
                                 f"step holds nothing") from None
            return [made.get(slot, (0, 0.0)) for slot in self.slots]

        self._plan.refuse_replaced()
        accumulate(self._plan, grads, grad_scale, zero_grads, shares)

    # State

    def place_state(self, arrays: Mapping[str, Mapping[str, Any]], *, take: bool = False) -> None:
        """Keep slots of the state in these arrays from now on, whose memory is shared, or mapped from a file.

        `arrays` has, by parameter and slot as `state` has them, writable arrays of the shape, type and strides of the
        present ones; what is not named stays where it is. Their elements become what the state holds; with
        ``take=True`` the state becomes what they hold, as another process left it. `t` is not in them: `state_dict` has
        it.

        >>> import numpy as np, fastlr
        >>> opt, shared = fastlr.Momentum({"w": np.zeros(3)}), np.empty(3)
        >>> opt.place_state({"w": {"m": shared}})
        >>> opt.step({"w": np.ones(3)})
        >>> shared
        array([1., 1., 1.])

        Raises
        ------
        TypeError, ValueError
            With nothing changed: for names that there are not, arrays that do not fit, or that share memory with what
            a step writes.
        """
        from .placement import place_state  # (imported at the first use, as most programs never call this)

        place_state(self, arrays, take)

    def state_dict(self) -> dict[str, Any]:
        """All that the coming steps depend on, by name, as copies: plain values, schedules as dicts, and arrays."""
        return self._described() | {"state": state.copies(self._state)}

    def _described(self) -> dict[str, Any]:
        """`state_dict` without its arrays."""
        return state.described(self)

    def load_state_dict(self, d: Mapping[str, Any], *, strict: bool = True,
                        rename: Mapping[str, str] | Callable[[str], str] | None = None) -> list[str] | None:
        """Become what `state_dict` described. Everything is checked first; the arrays are copied.

        A hyper-parameter whose schedule is a plain function was not saved: it keeps the function it has here. One
        that is a callable with a `state_dict`, as `fastlr.Plateau`, takes on the state that was saved.

        Parameters
        ----------
        strict
            Options that the coming steps depend on (clipping, `maximize`, `lr_scale`, `decay`, `seed` ...), names,
            shapes, dtypes and groups must be here what they were there. False: what fits is loaded. A state of
            another dtype is converted, rounded to nearest; of a table with more rows than were saved the first rows
            are loaded; a group takes on the hyper-parameters of the saved group that had all of its parameters; a
            parameter of which nothing was saved that fits keeps its state and its own count of updates; one that was
            not saved stays frozen if it is. Class and convention must be the same.
        rename
            New names of parameters by the saved ones, or a function old -> new.

        Returns
        -------
        list of str, or None
            Where not `strict`: a text for each thing that did not fit.

        >>> import numpy as np, fastlr
        >>> old = fastlr.Adam({"encoder.w": np.ones(2), "head.w": np.ones(2)})
        >>> old.step({"encoder.w": np.ones(2), "head.w": np.ones(2)})
        >>> new = fastlr.Adam({"body.w": np.ones(2), "head.w": np.ones(3)})
        >>> for text in new.load_state_dict(old.state_dict(), strict=False, rename={"encoder.w": "body.w"}):
        ...     print(text)
        state['head.w']['m']: 2 of 3 rows were saved, the others keep their values
        state['head.w']['v']: 2 of 3 rows were saved, the others keep their values
        >>> bool(new.state["body.w"]["m"].all()), new.t
        (True, 1)
        """
        if rename is not None:
            from .fitting import renamed

            d = renamed(d, rename, f"{type(self).__name__}.load_state_dict")
        ready = state.prepared(self, d, strict)
        state.write_all([ready])
        return None if strict else ready.differences

    def __reduce__(self) -> Any:
        raise TypeError(f"{type(self).__name__} cannot be pickled, as it points into its parameters' memory; "
                        f"save state_dict(), or use fastlr.save")

    def __repr__(self) -> str:
        plan = self._plan
        changed = [f"{name}={group._values[name]!r}" + (f" in groups[{group._index}]" if len(self.groups) > 1 else "")
                   for group in self.groups for name, default in self._usual_values.items()
                   if group._values[name] != default]
        if self.convention != next(iter(self.conventions), None):
            changed.append(f"convention={self.convention!r}")
        stored = sum(array.nbytes for slots in self.state.values() for array in slots.values())
        facts = [f"{plan.count} tensor{'s' * (plan.count != 1)}", f"{plan.elements:,} elements",
                 f"{stored:,} bytes of state", f"t={self.t}",
                 f"{get_num_threads()} thread{'s' * (get_num_threads() != 1)}", isa]
        return f"{type(self).__name__}({', '.join(changed)}{'; ' if changed else ''}{', '.join(facts)})"
