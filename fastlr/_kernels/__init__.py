"""One kernel source, compiled once per instruction set (`fastlr._engine.instruction_set` chooses).

May enter here: what must be compiled once per instruction set, and the inline functions it is made of. Nothing here
knows Python objects, but for the capsules that each module makes when it is imported.
"""
