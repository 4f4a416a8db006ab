# cython: language_level=3
"""The cimport door: every rule as a struct and an inline function, for loops of one's own.

    from fastlr cimport AdamW, Now, at, update
"""
from fastlr.rules cimport (
    SGD, AdaDelta, AdaGrad, Adam, AdamW, AMSGrad, Momentum, Nesterov, RMSprop, RMSpropCentered,
    RMSpropCenteredMomentum, RMSpropMomentum, Now, Rule, at, real, slots, update,
)
