# cython: language_level=3
"""The cimport door: every rule as a struct and an inline function, for loops of one's own.

    from fastlr cimport AdamW, Now, at, update
"""
from fastlr.element cimport Now, real
from fastlr.rules cimport (
    SGD, AdaDelta, AdaGrad, Adam, AdamW, Adan, AMSGrad, LAMB, Momentum, NAdam, Nesterov, RMSprop, RMSpropCentered,
    RMSpropCenteredMomentum, RMSpropMomentum,
    Rule, at, conclude, gauge, memories, recall, settle, shared_memories, slots, sums, update,
)
