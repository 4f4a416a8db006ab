"""Cross-compile every extension for another platform with ziglang: python .ci/cross.py TARGET [FOLDER]

TARGET is a target of zig: aarch64-linux-gnu.2.28, x86_64-linux-musl, aarch64-macos, x86_64-windows-gnu, ...; the
modules go to FOLDER/lib (default: build/cross/TARGET). It needs the packages ziglang, cython and setuptools. Linux and
macOS need no files of the target: Python's stable ABI is declared by this Python's headers, and its symbols are found
when a module is imported. Windows needs Python's own pyconfig.h and an import library of python3.dll, which is made of
its list of symbols: name the folder of Python's sources (Debian: apt-get source python3.11) as FASTLR_PYTHON_SOURCE.

The exit status is 1 unless every extension was linked.
"""
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

PLATFORMS = {"linux": "linux-{0}", "macos": "macosx-11.0-{0}", "windows": "mingw_{0}"}
ARCHITECTURES = {("macos", "aarch64"): "arm64"}


def windows(zig, machine, folder):
    """(folder of headers, folder of the import library): Python's, for Windows."""
    source = os.environ.get("FASTLR_PYTHON_SOURCE")
    if not source:
        sys.exit("cross.py: Windows needs PC/pyconfig.h and python3.lib, which no Python on Linux has: set "
                 "FASTLR_PYTHON_SOURCE to a folder of Python's sources")
    include = folder / "include"
    shutil.copytree(Path(source, "Include"), include, dirs_exist_ok=True)
    shutil.copy(Path(source, "PC", "pyconfig.h"), include)
    names = re.findall(r"^EXPORT_(FUNC|DATA)\((\w+)\)", Path(source, "PC", "python3dll.c").read_text(), re.M)
    definition = folder / "python3.def"
    definition.write_text("LIBRARY python3.dll\nEXPORTS\n" + "".join(
        f"{name}{' DATA' if kind == 'DATA' else ''}\n" for kind, name in names))
    subprocess.run([*zig, "dlltool", "-m", machine, "-d", definition, "-l", folder / "libpython3.a",
                    "-D", "python3.dll"], check=True)
    return include, folder


def main(target, folder):
    architecture, system = target.split("-")[:2]
    zig = [sys.executable, "-m", "ziglang"]
    compiler = shlex.join([*zig, "cc", "-target", target])
    link = f"{compiler} -shared" if system != "macos" else f"{compiler} -bundle -Wl,-undefined,dynamic_lookup"
    flags = ""
    if system == "windows":
        include, library = windows(zig, {"x86_64": "i386:x86-64"}.get(architecture, "arm64"), folder)
        flags, link = f"-I{include} -D__USE_MINGW_ANSI_STDIO=1", f"{link} -L{library} -lpython3"
    source = folder / "source"                      # (what is generated must not replace what the checkout has)
    for name in ("fastlr", "setup.py", "pyproject.toml", "README.md", "LICENSE"):
        path = Path(name)
        if path.is_dir():
            shutil.copytree(path, source / name, dirs_exist_ok=True,
                            ignore=shutil.ignore_patterns("*.so", "__pycache__", "signatures.py"))
        else:
            shutil.copy(path, source / name)
    platform = PLATFORMS[system].format(ARCHITECTURES.get((system, architecture), architecture))
    environment = os.environ | {"CC": compiler, "LDSHARED": link, "CFLAGS": flags, "ARCHFLAGS": "",
                                "_PYTHON_HOST_PLATFORM": platform}
    done = subprocess.run([sys.executable, "setup.py", "-q", "build_ext", f"--build-lib={folder / 'lib'}",
                           f"--build-temp={folder / 'temp'}"], env=environment, cwd=source)
    built = list((folder / "lib").rglob("*.abi3.so"))         # (for Windows there are .pdb and .lib beside them)
    sources = len(list(Path("fastlr").rglob("*.pyx"))) + len(list(Path("fastlr/rules").glob("*.pxd"))) - 3
    print(f"{target}: {len(built)} of {sources} extensions linked")
    return 0 if done.returncode == 0 and len(built) == sources else 1


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    given = sys.argv[1]
    sys.exit(main(given, Path(sys.argv[2] if len(sys.argv) > 2 else f"build/cross/{given}").absolute()))
