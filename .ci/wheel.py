"""A wheel holds what users need, the declarations others compile against, and nothing generated."""
import sys
import zipfile

for path in sys.argv[1:]:
    names = zipfile.ZipFile(path).namelist()
    for needed in ("fastlr/py.typed", "fastlr/rules.pxd", "fastlr/curves.pxd", "fastlr/powers.pxd",
                   "fastlr/__init__.pxd", "fastlr/kernels.pyi", "fastlr/_engine/plan.pyi",
                   "fastlr/_kernels/baseline.abi3.so", "fastlr/include/fastlr/fastlr.h",
                   "fastlr/study/page.html.jinja"):
        if needed not in names:
            sys.exit(f"{path}: lacks {needed}")
    for name in names:
        if name.endswith((".c", ".cpp", ".pyx", ".pxi")):
            sys.exit(f"{path}: holds {name}")
    print(f"{path}: {len(names)} files")
