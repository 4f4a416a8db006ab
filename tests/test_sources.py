"""What compiles and still is wrong: one name of a constant for two things."""
import re
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "fastlr"
DECLARED = re.compile(r"\s*([A-Z][A-Z0-9_]*)(?: \"[^\"]*\")?(?: = .*)?$")


def constants(text):
    """Names of the constants that a source declares in its enums."""
    depth = None
    for line in text.splitlines():
        line = line.split("#")[0].rstrip()
        indent = len(line) - len(line.lstrip())
        if re.match(r"\s*(?:cdef |cpdef |ctypedef )?enum\b.*:$", line):
            depth = indent
        elif depth is not None and line:
            if indent <= depth:
                depth = None
            elif match := DECLARED.match(line):
                yield match[1]


def repeated(texts):
    places = defaultdict(list)
    for name, text in texts.items():
        for constant in constants(text):
            places[constant].append(name)
    return {constant: names for constant, names in places.items() if len(names) > 1}


def test_a_constant_of_the_kernels_is_declared_once():
    """A door is one unit of everything that it includes: of two values, the last one counts in both places."""
    sources = [*sorted((ROOT / "_kernels").glob("*.p*x*")), ROOT / "element.pxd"]
    if not sources[0].exists():
        pytest.skip("no sources beside the tests")
    texts = {path.name: path.read_text() for path in sources}
    assert sum(len(list(constants(text))) for text in texts.values()) > 30
    assert repeated(texts) == {}


def test_what_is_declared_twice_is_found():
    first = "cdef enum:\n    FEW = 8        # lanes\n    TILE = 256\n\ncdef int x = FEW\n"
    second = 'cdef extern from *:\n    enum: WIDE "FASTLR_WIDE"\n    enum Kind "kind":\n        FEW = 32768\n'
    assert repeated({"a": first, "b": second}) == {"FEW": ["a", "b"]}
