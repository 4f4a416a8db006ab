"""One room, several doors: the same sweep, compiled for each instruction set.

Only what must be compiled once per instruction set may enter. Nothing here knows Python objects.
"""
