"""A package of rules of its own, built against an installed fastlr: `python setup.py build_ext -i`."""
from setuptools import setup

from fastlr.build import rules_extension

setup(name="mypkg", packages=["mypkg"], ext_modules=[rules_extension("mypkg._rules", "mypkg/rules.pxd")])
