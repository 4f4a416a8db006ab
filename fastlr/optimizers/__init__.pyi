# Made by `python -m fastlr.optimizers.stubs` from the declarations; do not edit.

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypedDict, Unpack

from . import adaptive as _adaptive
from . import curvature as _curvature
from . import factored as _factored
from . import gradient_descent as _gradient_descent
from . import learning_rate_free as _learning_rate_free
from . import moments as _moments
from . import projected as _projected
from . import reducing as _reducing
from . import schedule_free as _schedule_free
from . import sign as _sign
from . import spectral as _spectral
from .accumulation import GradientAccumulation as GradientAccumulation
from .averages import EMA as EMA
from .averages import SWA as SWA
from .averages import WeightAverage as WeightAverage
from .base import Optimizer as Optimizer
from .declaration import Hyper as Hyper
from .declaration import within as within
from .groups import Group as Group
from .linesearch import LineSearch as LineSearch
from .linesearch import line_search as line_search
from .loss_scale import LossScale as LossScale
from .partition import Partition as Partition
from .quasi_newton import LBFGS as LBFGS
from .registry import create_optimizer as create_optimizer
from .registry import list_optimizers as list_optimizers
from .sharpness import SAM as SAM
from .wrappers import GradientCentralization as GradientCentralization
from .wrappers import Lookahead as Lookahead

__all__ = [
    "Group",
    "Hyper",
    "LossScale",
    "Optimizer",
    "create_optimizer",
    "list_optimizers",
    "within",
    "AdaGrad",
    "AdaDelta",
    "RMSprop",
    "RMSpropCentered",
    "RMSpropMomentum",
    "RMSpropCenteredMomentum",
    "FTRL",
    "MADGRAD",
    "Sophia",
    "Adafactor",
    "CAME",
    "SM3",
    "AdamMini",
    "RowwiseAdaGrad",
    "SGD",
    "Momentum",
    "Nesterov",
    "SGDW",
    "QHM",
    "AggMo",
    "ASGD",
    "Rprop",
    "PolyakSGD",
    "MoMo",
    "MoMoAdam",
    "DoG",
    "DoWG",
    "DAdaptSGD",
    "DAdaptAdaGrad",
    "DAdaptAdam",
    "DAdaptLion",
    "Prodigy",
    "Adam",
    "AMSGrad",
    "AdamW",
    "NAdam",
    "Adan",
    "NAdamW",
    "AdaMax",
    "LaProp",
    "QHAdam",
    "RAdam",
    "RAdamW",
    "AdaBelief",
    "Yogi",
    "Grams",
    "AdaBound",
    "DiffGrad",
    "ADOPT",
    "AdEMAMix",
    "AdamS",
    "SGDP",
    "AdamP",
    "Fromage",
    "LARS",
    "LARC",
    "NovoGrad",
    "CautiousLion",
    "CautiousAdamW",
    "MARS",
    "StableAdamW",
    "LAMB",
    "ScheduleFreeSGD",
    "ScheduleFreeAdamW",
    "ScheduleFreeRAdam",
    "SignSGD",
    "Signum",
    "Tiger",
    "Lion",
    "Muon",
    "Shampoo",
    "SOAP",
]
LATER: dict[str, str]

class _Common(TypedDict, total=False):
    grads: Any
    state_dtype: Any
    dtype: Literal["bfloat16"] | None
    decay: Any
    decay_mask: Any
    lr_scale: Any
    shadow: Any
    master: Literal["split"] | None
    constraint: Any
    convention: str | None
    lr_max: float | None
    catch_up_rows: Any
    clip_value: float | None
    clip_adaptive: float | None
    clip_adaptive_eps: float
    clip_adaptive_axis: Literal[0, -1]
    clip_zscore: float | None
    clip_zscore_alpha: float
    clip_zscore_warmup: int
    clip_norm: float | None
    clip_tensor_norm: float | None
    nonfinite: Literal["propagate", "skip", "raise"]
    ema_decay: float | None
    rounding: Literal["nearest", "stochastic"]
    seed: int
    maximize: bool

class AdaGrad(_adaptive.AdaGrad):
    def __init__(
        self, params: Any, lr: Hyper = 0.01, *, lr_decay: Hyper = 0.0, eps: Hyper = 1e-10, weight_decay: Hyper = 0.0,
        initial_accumulator_value: float = 0.0, **common: Unpack[_Common]
    ) -> None: ...

class AdaDelta(_adaptive.AdaDelta):
    def __init__(
        self, params: Any, lr: Hyper = 1.0, *, rho: Hyper = 0.9, eps: Hyper = 1e-06, weight_decay: Hyper = 0.0,
        **common: Unpack[_Common]
    ) -> None: ...

class RMSprop(_adaptive.RMSprop):
    def __init__(
        self, params: Any, lr: Hyper = 0.01, *, alpha: Hyper = 0.99, eps: Hyper = 1e-08, weight_decay: Hyper = 0.0,
        initial_scale: float = 0.0, **common: Unpack[_Common]
    ) -> None: ...

class RMSpropCentered(_adaptive.RMSpropCentered, RMSprop):
    def __init__(
        self, params: Any, lr: Hyper = 0.01, *, alpha: Hyper = 0.99, eps: Hyper = 1e-08, weight_decay: Hyper = 0.0,
        initial_scale: float = 0.0, **common: Unpack[_Common]
    ) -> None: ...

class RMSpropMomentum(_adaptive.RMSpropMomentum, RMSprop):
    def __init__(
        self, params: Any, lr: Hyper = 0.01, *, alpha: Hyper = 0.99, eps: Hyper = 1e-08, momentum: Hyper = 0.9,
        weight_decay: Hyper = 0.0, initial_scale: float = 0.0, **common: Unpack[_Common]
    ) -> None: ...

class RMSpropCenteredMomentum(_adaptive.RMSpropCenteredMomentum, RMSpropMomentum):
    def __init__(
        self, params: Any, lr: Hyper = 0.01, *, alpha: Hyper = 0.99, eps: Hyper = 1e-08, momentum: Hyper = 0.9,
        weight_decay: Hyper = 0.0, initial_scale: float = 0.0, **common: Unpack[_Common]
    ) -> None: ...

class FTRL(_adaptive.FTRL):
    def __init__(
        self, params: Any, lr: Hyper = 0.001, *, beta: Hyper = 0.0, l1: Hyper = 0.0, l2: Hyper = 0.0,
        weight_decay: Hyper = 0.0, initial_accumulator_value: float = 0.0, **common: Unpack[_Common]
    ) -> None: ...

class MADGRAD(_adaptive.MADGRAD):
    def __init__(
        self, params: Any, lr: Hyper = 0.01, *, momentum: Hyper = 0.9, eps: Hyper = 1e-06, weight_decay: Hyper = 0.0,
        **common: Unpack[_Common]
    ) -> None: ...

class Sophia(_curvature.Sophia):
    def __init__(
        self, params: Any, lr: Hyper = 0.0001, *, beta1: Hyper = 0.965, beta2: Hyper = 0.99, rho: Hyper = 0.01,
        eps: Hyper = 1e-12, weight_decay: Hyper = 0.1, **common: Unpack[_Common]
    ) -> None: ...

class Adafactor(_factored.Adafactor):
    def __init__(
        self, params: Any, lr: Hyper = 0.01, *, beta2_decay: Hyper = 0.8, eps1: Hyper = 1e-30, eps2: Hyper = 0.001,
        clip: Hyper = 1.0, weight_decay: Hyper = 0.0, scale_parameter: bool = True, **common: Unpack[_Common]
    ) -> None: ...

class CAME(_factored.CAME):
    def __init__(
        self, params: Any, lr: Hyper = 0.0002, *, beta1: Hyper = 0.9, beta2: Hyper = 0.999, beta3: Hyper = 0.9999,
        eps1: Hyper = 1e-30, eps2: Hyper = 1e-16, clip: Hyper = 1.0, weight_decay: Hyper = 0.0,
        **common: Unpack[_Common]
    ) -> None: ...

class SM3(_factored.SM3):
    def __init__(
        self, params: Any, lr: Hyper = 0.1, *, momentum: Hyper = 0.9, eps: Hyper = 1e-30, weight_decay: Hyper = 0.0,
        **common: Unpack[_Common]
    ) -> None: ...

class AdamMini(_factored.AdamMini):
    def __init__(
        self, params: Any, lr: Hyper = 0.001, *, beta1: Hyper = 0.9, beta2: Hyper = 0.999, eps: Hyper = 1e-08,
        weight_decay: Hyper = 0.1, blocks: Any = None, **common: Unpack[_Common]
    ) -> None: ...

class RowwiseAdaGrad(_factored.RowwiseAdaGrad):
    def __init__(
        self, params: Any, lr: Hyper = 0.01, *, lr_decay: Hyper = 0.0, eps: Hyper = 1e-10, weight_decay: Hyper = 0.0,
        initial_accumulator_value: float = 0.0, **common: Unpack[_Common]
    ) -> None: ...

class SGD(_gradient_descent.SGD):
    def __init__(
        self, params: Any, lr: Hyper = 0.001, *, weight_decay: Hyper = 0.0, **common: Unpack[_Common]
    ) -> None: ...

class Momentum(_gradient_descent.Momentum):
    def __init__(
        self, params: Any, lr: Hyper = 0.001, *, momentum: Hyper = 0.9, dampening: Hyper = 0.0,
        weight_decay: Hyper = 0.0, **common: Unpack[_Common]
    ) -> None: ...

class Nesterov(_gradient_descent.Nesterov):
    def __init__(
        self, params: Any, lr: Hyper = 0.001, *, momentum: Hyper = 0.9, weight_decay: Hyper = 0.0,
        **common: Unpack[_Common]
    ) -> None: ...

class SGDW(_gradient_descent.SGDW, Momentum):
    def __init__(
        self, params: Any, lr: Hyper = 0.001, *, momentum: Hyper = 0.9, dampening: Hyper = 0.0,
        weight_decay: Hyper = 0.0, **common: Unpack[_Common]
    ) -> None: ...

class QHM(_gradient_descent.QHM):
    def __init__(
        self, params: Any, lr: Hyper = 0.001, *, momentum: Hyper = 0.999, nu: Hyper = 0.7, weight_decay: Hyper = 0.0,
        **common: Unpack[_Common]
    ) -> None: ...

class AggMo(_gradient_descent.AggMo):
    def __init__(
        self, params: Any, lr: Hyper = 0.001, *, beta1: Hyper = 0.0, beta2: Hyper = 0.9, beta3: Hyper = 0.99,
        weight_decay: Hyper = 0.0, **common: Unpack[_Common]
    ) -> None: ...

class ASGD(_gradient_descent.ASGD):
    def __init__(
        self, params: Any, lr: Hyper = 0.01, *, lambd: Hyper = 0.0001, alpha: Hyper = 0.75, t0: Hyper = 1000000.0,
        weight_decay: Hyper = 0.0, **common: Unpack[_Common]
    ) -> None: ...

class Rprop(_gradient_descent.Rprop):
    def __init__(
        self, params: Any, lr: Hyper = 0.01, *, eta_minus: Hyper = 0.5, eta_plus: Hyper = 1.2, step_min: Hyper = 1e-06,
        step_max: Hyper = 50.0, weight_decay: Hyper = 0.0, **common: Unpack[_Common]
    ) -> None: ...

class PolyakSGD(_learning_rate_free.PolyakSGD):
    def __init__(
        self, params: Any, lr: Hyper = 1.0, *, f_min: Hyper = 0.0, eps: Hyper = 0.0, weight_decay: Hyper = 0.0,
        **common: Unpack[_Common]
    ) -> None: ...

class MoMo(_learning_rate_free.MoMo):
    def __init__(
        self, params: Any, lr: Hyper = 1.0, *, beta: Hyper = 0.9, lower_bound: Hyper = 0.0, weight_decay: Hyper = 0.0,
        **common: Unpack[_Common]
    ) -> None: ...

class MoMoAdam(_learning_rate_free.MoMoAdam):
    def __init__(
        self, params: Any, lr: Hyper = 0.01, *, beta1: Hyper = 0.9, beta2: Hyper = 0.999, eps: Hyper = 1e-08,
        lower_bound: Hyper = 0.0, weight_decay: Hyper = 0.0, **common: Unpack[_Common]
    ) -> None: ...

class DoG(_learning_rate_free.DoG):
    def __init__(
        self, params: Any, lr: Hyper = 1.0, *, reps_rel: Hyper = 1e-06, eps: Hyper = 1e-08, weight_decay: Hyper = 0.0,
        **common: Unpack[_Common]
    ) -> None: ...

class DoWG(_learning_rate_free.DoWG):
    def __init__(
        self, params: Any, lr: Hyper = 1.0, *, eps: Hyper = 0.0001, weight_decay: Hyper = 0.0,
        initial_square_distance: float = 0.0001, **common: Unpack[_Common]
    ) -> None: ...

class DAdaptSGD(_learning_rate_free.DAdaptSGD):
    def __init__(
        self, params: Any, lr: Hyper = 1.0, *, momentum: Hyper = 0.0, d0: Hyper = 1e-06, weight_decay: Hyper = 0.0,
        **common: Unpack[_Common]
    ) -> None: ...

class DAdaptAdaGrad(_learning_rate_free.DAdaptAdaGrad):
    def __init__(
        self, params: Any, lr: Hyper = 1.0, *, momentum: Hyper = 0.0, eps: Hyper = 1e-06, d0: Hyper = 1e-06,
        weight_decay: Hyper = 0.0, initial_accumulator_value: float = 1e-06, **common: Unpack[_Common]
    ) -> None: ...

class DAdaptAdam(_learning_rate_free.DAdaptAdam):
    def __init__(
        self, params: Any, lr: Hyper = 1.0, *, beta1: Hyper = 0.9, beta2: Hyper = 0.999, eps: Hyper = 1e-08,
        d0: Hyper = 1e-06, weight_decay: Hyper = 0.0, **common: Unpack[_Common]
    ) -> None: ...

class DAdaptLion(_learning_rate_free.DAdaptLion):
    def __init__(
        self, params: Any, lr: Hyper = 1.0, *, beta1: Hyper = 0.9, beta2: Hyper = 0.99, d0: Hyper = 1e-06,
        weight_decay: Hyper = 0.0, **common: Unpack[_Common]
    ) -> None: ...

class Prodigy(_learning_rate_free.Prodigy):
    def __init__(
        self, params: Any, lr: Hyper = 1.0, *, beta1: Hyper = 0.9, beta2: Hyper = 0.999, eps: Hyper = 1e-08,
        d0: Hyper = 1e-06, d_coef: Hyper = 1.0, weight_decay: Hyper = 0.0, **common: Unpack[_Common]
    ) -> None: ...

class Adam(_moments.Adam):
    def __init__(
        self, params: Any, lr: Hyper = 0.001, *, beta1: Hyper = 0.9, beta2: Hyper = 0.999, eps: Hyper = 1e-08,
        weight_decay: Hyper = 0.0, **common: Unpack[_Common]
    ) -> None: ...

class AMSGrad(_moments.AMSGrad, Adam):
    def __init__(
        self, params: Any, lr: Hyper = 0.001, *, beta1: Hyper = 0.9, beta2: Hyper = 0.999, eps: Hyper = 1e-08,
        weight_decay: Hyper = 0.0, **common: Unpack[_Common]
    ) -> None: ...

class AdamW(_moments.AdamW, Adam):
    def __init__(
        self, params: Any, lr: Hyper = 0.001, *, beta1: Hyper = 0.9, beta2: Hyper = 0.999, eps: Hyper = 1e-08,
        weight_decay: Hyper = 0.01, **common: Unpack[_Common]
    ) -> None: ...

class NAdam(_moments.NAdam, Adam):
    def __init__(
        self, params: Any, lr: Hyper = 0.002, *, beta1: Hyper = 0.9, beta2: Hyper = 0.999, eps: Hyper = 1e-08,
        momentum_decay: Hyper = 0.004, weight_decay: Hyper = 0.0, **common: Unpack[_Common]
    ) -> None: ...

class Adan(_moments.Adan):
    def __init__(
        self, params: Any, lr: Hyper = 0.001, *, beta1: Hyper = 0.98, beta2: Hyper = 0.92, beta3: Hyper = 0.99,
        eps: Hyper = 1e-08, weight_decay: Hyper = 0.0, **common: Unpack[_Common]
    ) -> None: ...

class NAdamW(_moments.NAdamW, NAdam):
    def __init__(
        self, params: Any, lr: Hyper = 0.002, *, beta1: Hyper = 0.9, beta2: Hyper = 0.999, eps: Hyper = 1e-08,
        momentum_decay: Hyper = 0.004, weight_decay: Hyper = 0.01, **common: Unpack[_Common]
    ) -> None: ...

class AdaMax(_moments.AdaMax, Adam):
    def __init__(
        self, params: Any, lr: Hyper = 0.002, *, beta1: Hyper = 0.9, beta2: Hyper = 0.999, eps: Hyper = 1e-08,
        weight_decay: Hyper = 0.0, **common: Unpack[_Common]
    ) -> None: ...

class LaProp(_moments.LaProp, Adam):
    def __init__(
        self, params: Any, lr: Hyper = 0.0004, *, beta1: Hyper = 0.9, beta2: Hyper = 0.999, eps: Hyper = 1e-15,
        weight_decay: Hyper = 0.0, **common: Unpack[_Common]
    ) -> None: ...

class QHAdam(_moments.QHAdam, Adam):
    def __init__(
        self, params: Any, lr: Hyper = 0.001, *, beta1: Hyper = 0.995, beta2: Hyper = 0.999, nu1: Hyper = 0.7,
        nu2: Hyper = 1.0, eps: Hyper = 1e-08, weight_decay: Hyper = 0.0, **common: Unpack[_Common]
    ) -> None: ...

class RAdam(_moments.RAdam, Adam):
    def __init__(
        self, params: Any, lr: Hyper = 0.001, *, beta1: Hyper = 0.9, beta2: Hyper = 0.999, eps: Hyper = 1e-08,
        weight_decay: Hyper = 0.0, **common: Unpack[_Common]
    ) -> None: ...

class RAdamW(_moments.RAdamW, RAdam):
    def __init__(
        self, params: Any, lr: Hyper = 0.001, *, beta1: Hyper = 0.9, beta2: Hyper = 0.999, eps: Hyper = 1e-08,
        weight_decay: Hyper = 0.01, **common: Unpack[_Common]
    ) -> None: ...

class AdaBelief(_moments.AdaBelief, Adam):
    def __init__(
        self, params: Any, lr: Hyper = 0.001, *, beta1: Hyper = 0.9, beta2: Hyper = 0.999, eps: Hyper = 1e-16,
        weight_decay: Hyper = 0.0, **common: Unpack[_Common]
    ) -> None: ...

class Yogi(_moments.Yogi, Adam):
    def __init__(
        self, params: Any, lr: Hyper = 0.01, *, beta1: Hyper = 0.9, beta2: Hyper = 0.999, eps: Hyper = 0.001,
        weight_decay: Hyper = 0.0, initial_momentum: float = 0.0, initial_accumulator_value: float = 1e-06,
        **common: Unpack[_Common]
    ) -> None: ...

class Grams(_moments.Grams, Adam):
    def __init__(
        self, params: Any, lr: Hyper = 0.001, *, beta1: Hyper = 0.9, beta2: Hyper = 0.999, eps: Hyper = 1e-06,
        weight_decay: Hyper = 0.0, **common: Unpack[_Common]
    ) -> None: ...

class AdaBound(_moments.AdaBound, Adam):
    def __init__(
        self, params: Any, lr: Hyper = 0.001, *, beta1: Hyper = 0.9, beta2: Hyper = 0.999, final_scale: Hyper = 100.0,
        gamma: Hyper = 0.001, eps: Hyper = 1e-08, weight_decay: Hyper = 0.0, **common: Unpack[_Common]
    ) -> None: ...

class DiffGrad(_moments.DiffGrad, Adam):
    def __init__(
        self, params: Any, lr: Hyper = 0.001, *, beta1: Hyper = 0.9, beta2: Hyper = 0.999, eps: Hyper = 1e-08,
        weight_decay: Hyper = 0.0, **common: Unpack[_Common]
    ) -> None: ...

class ADOPT(_moments.ADOPT):
    def __init__(
        self, params: Any, lr: Hyper = 0.001, *, beta1: Hyper = 0.9, beta2: Hyper = 0.9999, clip_exponent: Hyper = 0.25,
        eps: Hyper = 1e-06, weight_decay: Hyper = 0.0, **common: Unpack[_Common]
    ) -> None: ...

class AdEMAMix(_moments.AdEMAMix):
    def __init__(
        self, params: Any, lr: Hyper = 0.001, *, beta1: Hyper = 0.9, beta2: Hyper = 0.999, beta3: Hyper = 0.9999,
        alpha: Hyper = 5.0, alpha_warmup: Hyper = 0.0, beta3_warmup: Hyper = 0.0, eps: Hyper = 1e-08,
        weight_decay: Hyper = 0.0, **common: Unpack[_Common]
    ) -> None: ...

class AdamS(_moments.AdamS):
    def __init__(
        self, params: Any, lr: Hyper = 0.001, *, beta1: Hyper = 0.9, beta2: Hyper = 0.95, eps: Hyper = 1e-08,
        weight_decay: Hyper = 0.0, **common: Unpack[_Common]
    ) -> None: ...

class SGDP(_projected.SGDP):
    def __init__(
        self, params: Any, lr: Hyper = 0.001, *, momentum: Hyper = 0.9, dampening: Hyper = 0.0, eps: Hyper = 1e-08,
        delta: Hyper = 0.1, wd_ratio: Hyper = 0.1, weight_decay: Hyper = 0.0, nesterov: bool = False,
        **common: Unpack[_Common]
    ) -> None: ...

class AdamP(_projected.AdamP):
    def __init__(
        self, params: Any, lr: Hyper = 0.001, *, beta1: Hyper = 0.9, beta2: Hyper = 0.999, eps: Hyper = 1e-08,
        delta: Hyper = 0.1, wd_ratio: Hyper = 0.1, weight_decay: Hyper = 0.0, nesterov: bool = False,
        **common: Unpack[_Common]
    ) -> None: ...

class Fromage(_reducing.Fromage):
    def __init__(
        self, params: Any, lr: Hyper = 0.01, *, weight_decay: Hyper = 0.0, **common: Unpack[_Common]
    ) -> None: ...

class LARS(_reducing.LARS):
    def __init__(
        self, params: Any, lr: Hyper = 0.001, *, momentum: Hyper = 0.9, trust_coefficient: Hyper = 0.001,
        eps: Hyper = 0.0, weight_decay: Hyper = 0.0, **common: Unpack[_Common]
    ) -> None: ...

class LARC(_reducing.LARC):
    def __init__(
        self, params: Any, lr: Hyper = 0.001, *, momentum: Hyper = 0.9, trust_coefficient: Hyper = 0.02,
        eps: Hyper = 1e-08, weight_decay: Hyper = 0.0, **common: Unpack[_Common]
    ) -> None: ...

class NovoGrad(_reducing.NovoGrad):
    def __init__(
        self, params: Any, lr: Hyper = 0.001, *, beta1: Hyper = 0.95, beta2: Hyper = 0.98, eps: Hyper = 1e-08,
        weight_decay: Hyper = 0.0, **common: Unpack[_Common]
    ) -> None: ...

class CautiousLion(_reducing.CautiousLion):
    def __init__(
        self, params: Any, lr: Hyper = 0.0001, *, beta1: Hyper = 0.9, beta2: Hyper = 0.99, weight_decay: Hyper = 0.0,
        **common: Unpack[_Common]
    ) -> None: ...

class CautiousAdamW(_reducing.CautiousAdamW, AdamW):
    def __init__(
        self, params: Any, lr: Hyper = 0.001, *, beta1: Hyper = 0.9, beta2: Hyper = 0.999, eps: Hyper = 1e-08,
        weight_decay: Hyper = 0.01, **common: Unpack[_Common]
    ) -> None: ...

class MARS(_reducing.MARS, AdamW):
    def __init__(
        self, params: Any, lr: Hyper = 0.003, *, beta1: Hyper = 0.95, beta2: Hyper = 0.99, gamma: Hyper = 0.025,
        eps: Hyper = 1e-08, weight_decay: Hyper = 0.0, **common: Unpack[_Common]
    ) -> None: ...

class StableAdamW(_reducing.StableAdamW, Adam):
    def __init__(
        self, params: Any, lr: Hyper = 0.001, *, beta1: Hyper = 0.9, beta2: Hyper = 0.99, eps: Hyper = 1e-08,
        weight_decay: Hyper = 0.01, **common: Unpack[_Common]
    ) -> None: ...

class LAMB(_reducing.LAMB, Adam):
    def __init__(
        self, params: Any, lr: Hyper = 0.001, *, beta1: Hyper = 0.9, beta2: Hyper = 0.999, eps: Hyper = 1e-08,
        weight_decay: Hyper = 0.0, **common: Unpack[_Common]
    ) -> None: ...

class ScheduleFreeSGD(_schedule_free.ScheduleFreeSGD):
    def __init__(
        self, params: Any, lr: Hyper = 1.0, *, momentum: Hyper = 0.9, warmup_steps: Hyper = 0.0, r: Hyper = 0.0,
        weight_lr_power: Hyper = 2.0, weight_decay: Hyper = 0.0, **common: Unpack[_Common]
    ) -> None: ...

class ScheduleFreeAdamW(_schedule_free.ScheduleFreeAdamW):
    def __init__(
        self, params: Any, lr: Hyper = 0.0025, *, beta1: Hyper = 0.9, beta2: Hyper = 0.999, eps: Hyper = 1e-08,
        warmup_steps: Hyper = 0.0, r: Hyper = 0.0, weight_lr_power: Hyper = 2.0, weight_decay: Hyper = 0.0,
        **common: Unpack[_Common]
    ) -> None: ...

class ScheduleFreeRAdam(_schedule_free.ScheduleFreeRAdam):
    def __init__(
        self, params: Any, lr: Hyper = 0.0025, *, beta1: Hyper = 0.9, beta2: Hyper = 0.999, eps: Hyper = 1e-08,
        r: Hyper = 0.0, weight_lr_power: Hyper = 2.0, weight_decay: Hyper = 0.0, **common: Unpack[_Common]
    ) -> None: ...

class SignSGD(_sign.SignSGD):
    def __init__(
        self, params: Any, lr: Hyper = 0.001, *, weight_decay: Hyper = 0.0, **common: Unpack[_Common]
    ) -> None: ...

class Signum(_sign.Signum):
    def __init__(
        self, params: Any, lr: Hyper = 0.001, *, momentum: Hyper = 0.9, weight_decay: Hyper = 0.0,
        **common: Unpack[_Common]
    ) -> None: ...

class Tiger(_sign.Tiger, Signum):
    def __init__(
        self, params: Any, lr: Hyper = 0.001, *, momentum: Hyper = 0.965, weight_decay: Hyper = 0.01,
        **common: Unpack[_Common]
    ) -> None: ...

class Lion(_sign.Lion):
    def __init__(
        self, params: Any, lr: Hyper = 0.0001, *, beta1: Hyper = 0.9, beta2: Hyper = 0.99, weight_decay: Hyper = 0.0,
        **common: Unpack[_Common]
    ) -> None: ...

class Muon(_spectral.Muon):
    def __init__(
        self, params: Any, lr: Hyper = 0.001, *, momentum: Hyper = 0.95, norm_eps: Hyper = 1e-07,
        fallback_scale: Hyper = 1.0, beta1: Hyper = 0.9, beta2: Hyper = 0.95, eps: Hyper = 1e-08,
        weight_decay: Hyper = 0.1,
        fallback: Literal["adamw", None] | Mapping[str, bool] | Sequence[bool] | Callable[[str, Any], bool] = "adamw",
        coefficients: Literal["original", "quintic", "polar_express", "exact"] | Sequence[float]
        | Sequence[Sequence[float]] = "original", steps: int = 5,
        adjust: Literal["match_rms_adamw", "original", "spectral", "none"] = "match_rms_adamw", nesterov: bool = True,
        **common: Unpack[_Common]
    ) -> None: ...

class Shampoo(_spectral.Shampoo):
    def __init__(
        self, params: Any, lr: Hyper = 0.001, *, matrix_eps: Hyper = 1e-06, fallback_scale: Hyper = 1.0,
        beta1: Hyper = 0.9, beta2: Hyper = 0.999, eps: Hyper = 1e-08, weight_decay: Hyper = 0.0,
        fallback: Literal["adamw", None] | Mapping[str, bool] | Sequence[bool] | Callable[[str, Any], bool] = "adamw",
        every: int = 1, largest: int = 8192, **common: Unpack[_Common]
    ) -> None: ...

class SOAP(_spectral.SOAP):
    def __init__(
        self, params: Any, lr: Hyper = 0.003, *, shampoo_beta: Hyper = 0.95, fallback_scale: Hyper = 1.0,
        beta1: Hyper = 0.95, beta2: Hyper = 0.95, eps: Hyper = 1e-08, weight_decay: Hyper = 0.01,
        fallback: Literal["adamw", None] | Mapping[str, bool] | Sequence[bool] | Callable[[str, Any], bool] = "adamw",
        every: int = 10, largest: int = 10000, **common: Unpack[_Common]
    ) -> None: ...
