"""Every test gives back the threads as it found them; some build what a stranger would."""
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest

import fastlr

sys.path.insert(0, str(Path(__file__).parent))
# (a child started in the project's folder imports what is installed, not the sources that lie there)
os.environ["PYTHONSAFEPATH"] = "1"


@pytest.fixture(autouse=True)
def same_threads():
    before = fastlr.get_num_threads()
    yield
    fastlr.set_num_threads(before)


@pytest.fixture(scope="session")
def environment():
    """The environment of a subprocess that is to import this very fastlr."""
    path = os.pathsep.join([str(Path(fastlr.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    return os.environ | {"PYTHONPATH": path}


@pytest.fixture(scope="session")
def compiler():
    """A C compiler, without which fastlr cannot be built either."""
    command = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")
    if shutil.which(command[0]) is None:
        command = ["cc"]
    assert shutil.which(command[0]), "these tests build against fastlr: install a C compiler, or set CC"
    return command


@pytest.fixture(scope="session")
def stranger(tmp_path_factory, compiler, environment):
    """The modules of tests/stranger, compiled elsewhere against the fastlr that is imported."""
    folder = tmp_path_factory.mktemp("stranger") / "project"
    shutil.copytree(Path(__file__).with_name("stranger"), folder)
    done = subprocess.run([sys.executable, "setup.py", "build_ext", "-i"], cwd=folder, env=environment,
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    sys.path.insert(0, str(folder))
    try:
        return SimpleNamespace(loop=import_module("own_loop"), extension=import_module("own_extension"))
    finally:
        sys.path.remove(str(folder))
