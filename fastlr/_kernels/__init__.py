"""One kernel source, compiled once per instruction set (`fastlr._engine.instruction_set` chooses).

Only code that must be compiled once per instruction set belongs here, with the inline functions that it consists of.
Nothing here uses Python objects, except for the capsules that each module makes when it is imported.
"""
