# cython: language_level=3
"""The cimport door: every rule as a struct and an inline function, for loops of one's own.

    from fastlr cimport AdamW, Now, at, update
"""
from fastlr.element cimport StepScalars, real
from fastlr.rules cimport (
    LAMB, LAMBOutside, LAMBUncorrected, LARC, LARS, MARS, SGD,
    AdaDelta, AdaGrad, Adam, AdamW, Adan, AMSGrad, CautiousAdamW, CautiousAdamWMean,
    CautiousLion, CautiousLionMean, Fromage, MARSFromZero, Momentum, NAdam, Nesterov, NovoGrad, RMSprop,
    RMSpropCentered, RMSpropCenteredMomentum, RMSpropMomentum, StableAdamW,
    AdaBelief, AdaBound, AdEMAMix, ADOPT, DiffGrad, FTRL, Grams, Lion, MADGRAD, ScheduleFreeAdamW, ScheduleFreeRAdam,
    ScheduleFreeSGD, Sophia, SophiaAdded, SophiaDebiased, Yogi,
    AdaMax, AggMo, ASGD, LaProp, QHAdam, QHM, RAdam, Rprop, SignSGD, Signum,
    DAdaptAdaGrad, DAdaptAdam, DAdaptAdamDebiased, DAdaptLion, DAdaptSGD, DoG, DoWG, MoMo, MoMoAdam, PolyakSGD, Prodigy,
    ProdigyDebiased,
    AdaGradInside, AdamHat, AdamWHat, AdaMaxOutside, AdanComplement, ADOPTWider, AMSGradCorrected, AMSGradHat,
    AMSGradPlain, MomentumInside, NAdamConstant, NesterovInside, RAdamCorrected, RMSpropCenteredInside,
    RMSpropCenteredMomentumInside, RMSpropInside, RMSpropMomentumInside, RpropLate,
    Rule, at, finish_all, reduce_terms, tensor_scalars, begin_step, finish_tensor, shared_scalars, slots, sums, update,
)
