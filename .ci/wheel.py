"""A wheel holds what users need, the declarations others compile against, and nothing generated."""
import sys
import zipfile

for path in sys.argv[1:]:
    names = zipfile.ZipFile(path).namelist()
    for needed in ("fastlr/py.typed", "fastlr/rules/moments.pxd", "fastlr/curves.pxd", "fastlr/powers.pxd",
                   "fastlr/__init__.pxd", "fastlr/kernels.pyi", "fastlr/_engine/plan.pyi",
                   "fastlr/_kernels/step.abi3.so", "fastlr/rules/_moments.abi3.so", "fastlr/rules/signatures.py",
                   "fastlr/_kernels/storage_loop.pxi", "fastlr/build.py", "fastlr/include/fastlr/fastlr.h",
                   "fastlr/study/page.html.jinja"):
        if needed not in names:
            sys.exit(f"{path}: lacks {needed}")
    for name in names:
        if name.endswith((".c", ".cpp", ".pyx")) or (name.endswith(".pxi") and "storage_loop" not in name):
            sys.exit(f"{path}: holds {name}")
    print(f"{path}: {len(names)} files")
