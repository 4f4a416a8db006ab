"""Every test gives back the threads as it found them; some build what a stranger would."""
import gc
import os
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest

import fastlr
from fastlr._engine.cpu import supports
from fastlr.rules.signatures import VARIANTS

sys.path.insert(0, str(Path(__file__).parent))
# (a child started in the project's folder imports what is installed, not the sources there)
os.environ["PYTHONSAFEPATH"] = "1"


def pytest_collection_finish():
    """The thousands of tests stay until the end: the collector of garbage need not visit them again and again."""
    gc.collect()
    gc.freeze()


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


DIGESTS = ("test_bits", "test_storage", "test_matrix")


@pytest.fixture(scope="session")
def digests(environment):
    """What `digest()` of these modules gives on each instruction set: {module: hashes}, one if none differ.

    A process for each instruction set that was built and that this CPU has, as it is chosen at import; all at once.
    """
    code = """
import importlib, sys
sys.path.insert(0, sys.argv[1])
import fastlr
print(fastlr.show_config(mode="dicts")["isa"], *(importlib.import_module(name).digest() for name in sys.argv[2:]))
"""
    found = {name: set() for name in DIGESTS}
    running = {level: subprocess.Popen([sys.executable, "-c", code, str(Path(__file__).parent), *DIGESTS],
                                       env=environment | {"FASTLR_ISA": level}, stdout=subprocess.PIPE, text=True)
               for level in ("baseline", *VARIANTS) if supports(level)}
    for level, process in running.items():
        isa, *hashes = process.communicate()[0].split()
        assert (process.returncode, isa) == (0, level)
        for name, digest in zip(DIGESTS, hashes, strict=True):
            found[name].add(digest)
    return found


@pytest.fixture(scope="session")
def compiler():
    """A C compiler, without which fastlr cannot be built either."""
    command = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")
    if shutil.which(command[0]) is None:
        command = ["cc"]
    assert shutil.which(command[0]), "these tests build against fastlr: install a C compiler, or set CC"
    return command


#: What others would build against fastlr: folders of these tests, by the fixture that gives what was built.
PROJECTS = ("stranger", "stranger_rules")


@pytest.fixture(scope="session", autouse=True)
def builds(request, tmp_path_factory, compiler, environment):
    """Projects compiled elsewhere against the fastlr that is imported: the folder of each, and the compiling process.

    They are begun with the first test, where any needs them: most of it is done when that one comes.
    """
    wanted = {name for item in request.session.items for name in item.fixturenames}
    running = {}
    try:
        for project in PROJECTS:
            if project in wanted:
                folder = tmp_path_factory.mktemp(project) / "project"
                shutil.copytree(Path(__file__).with_name(project), folder)
                with (folder.parent / "log").open("w") as log:
                    running[project] = folder, subprocess.Popen(
                        [sys.executable, "setup.py", "build_ext", "-i", "-j", "2"], cwd=folder, env=environment,
                        stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
        yield running
    finally:
        for _, process in running.values():
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def built(builds, project):
    """The folder of a project when it is compiled."""
    folder, process = builds[project]
    assert process.wait() == 0, (folder.parent / "log").read_text()
    return folder


@pytest.fixture(scope="session")
def stranger(builds):
    """The modules of tests/stranger."""
    folder = built(builds, "stranger")
    sys.path.insert(0, str(folder))
    try:
        return SimpleNamespace(loop=import_module("own_loop"), extension=import_module("own_extension"),
                               plans=import_module("own_plans"))
    finally:
        sys.path.remove(str(folder))


@pytest.fixture(scope="session")
def stranger_rules(builds):
    """The folder of tests/stranger_rules, whose package `mypkg` is compiled."""
    return built(builds, "stranger_rules")


@pytest.fixture(scope="session")
def browser():
    """A real Chromium without a window. CI has one; elsewhere it may be missing."""
    programs = [shutil.which(name) for name in ("chromium", "chromedriver")]
    if None in programs and not os.environ.get("FASTLR_STRICT"):
        pytest.skip("needs chromium and chromedriver (Debian: chromium chromium-driver)")
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = programs[0]
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(programs[1]))
    yield driver
    driver.quit()
