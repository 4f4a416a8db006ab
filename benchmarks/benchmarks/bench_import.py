"""`import fastlr` in a fresh process; NumPy beside it, as most of it is NumPy's."""


def timeraw_numpy():
    return "import numpy"


def timeraw_fastlr():
    return "import fastlr"


def timeraw_fastlr_after_numpy():
    return "import fastlr", "import numpy"


for function in (timeraw_numpy, timeraw_fastlr, timeraw_fastlr_after_numpy):
    function.number, function.version = 1, "1"
del function
