"""Build against an installed fastlr as anybody would: `python setup.py build_ext -i`."""
import gc

from Cython.Build import cythonize
from setuptools import Extension, setup

import fastlr

gc.disable()                           # (Cython takes half of the time)
FLAGS = ["-O0", "-ffp-contract=off"]        # (a loop of one's own gives fastlr's bits without contraction)

setup(
    name="stranger",
    ext_modules=[
        *cythonize([Extension("own_loop", ["own_loop.pyx"], extra_compile_args=FLAGS)]),
        Extension("own_extension", ["own_extension.c"], include_dirs=[fastlr.get_include()],
                  extra_compile_args=[*FLAGS, "-std=c99", "-Wall", "-Werror"]),
        Extension("own_plans", ["own_plans.c"], include_dirs=[fastlr.get_include()],
                  extra_compile_args=[*FLAGS, "-std=c11", "-Wall", "-Werror"]),
    ],
)
