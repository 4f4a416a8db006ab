# cython: language_level=3
"""Every rule as a struct and inline functions, for loops of one's own: cimport them from their family's file.

    from fastlr.rules.moments cimport AdamScalars, AdamW, adam, adam_scalars
    from fastlr.rules.scalars cimport StepScalars, step_scalars
"""
