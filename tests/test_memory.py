"""Nothing that a caller may do makes a step reach beyond an array: it is done right, or refused."""
import importlib
import os
import pkgutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from registry import arrays, bits

import fastlr
from fastlr._engine import foreach, instruction_set


def run(code, environment):
    """A program of its own, which may crash."""
    return subprocess.run([sys.executable, "-X", "faulthandler", "-c", code], env=environment, capture_output=True,
                          text=True, timeout=100)


def changed(array, **how):
    """Give an array another shape or type in place, which NumPy would rather one did not."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        for name, value in how.items():
            setattr(array, name, value)


@pytest.mark.parametrize("how", [{"shape": (300, 2)}, {"shape": (2, 300)}, {"shape": (1, 600, 1)},
                                 {"dtype": np.float32}, {"dtype": np.float32, "shape": (600, 2)}])
@pytest.mark.parametrize("what", ["parameter", "m", "ema"])
def test_rows_of_what_was_given_another_shape_are_refused(what, how):
    everything = np.ones(2400)                     # (beyond the table is memory of the test's own)
    table = everything[:600]
    opt = fastlr.Momentum({"table": table}, lr=1.0, ema_decay=0.5)
    array = table if what == "parameter" else opt.state["table"][what]
    before, was = everything.tobytes(), {"dtype": array.dtype, "shape": array.shape}
    changed(array, **how)
    for rows in ([0], [1, 299]):
        with pytest.raises(ValueError, match=r"step_rows\('table'\): the parameter or its state was given another"):
            opt.step_rows("table", rows, np.ones(len(rows)))
    assert everything.tobytes() == before
    changed(array, **was)
    opt.step_rows("table", [599], np.ones(1))
    assert np.flatnonzero(everything != 1).tolist() == [599]


def test_rows_of_one_number_that_was_a_table(environment):
    done = run("""
import warnings, numpy as np, fastlr
warnings.simplefilter("ignore")
p = np.zeros(1)
opt = fastlr.SGD({"p": p})
p.shape = ()
try:
    opt.step_rows("p", [0], np.ones(1))
except ValueError:
    print("refused")
""", environment)
    assert (done.returncode, done.stdout) == (0, "refused\n"), done.stderr


def test_what_is_not_turned_by_any_side_keeps_its_own_gradient():
    """Gathered one after another in the same memory, of which the update may be a view."""
    def trained(params, grads):
        opt = fastlr.Shampoo(params, lr=0.1, largest=1, clip_value=0.5)
        for _ in range(2):
            opt.step(grads)

    shape = (90, 80)
    together, alone, grads = (arrays(np.float64, [shape] * 3, seed) for seed in (1, 1, 2))
    trained(together, grads)
    for p, g in zip(alone, grads, strict=True):
        trained([p], [g])
    assert bits(together) == bits(alone)


def test_more_parts_than_an_int_counts_are_too_many(environment):
    done = run("""
from fastlr import schedules
part = schedules.constant(0.1)
while part.size < 65535:
    part = part * part
try:
    schedules.join([part] * 65536, at=range(1, 65536))
except ValueError as error:
    print(error)
""", environment)
    assert (done.returncode, done.stdout) == (0, f"a schedule can have at most 65536 parts, got {2**32 + 65535}\n"), \
        done.stderr


def test_times_at_an_odd_address():
    """(Whether they are read as if they were aligned, a sanitizer says: see memory_trials.py.)"""
    t = np.arange(40_000.0)
    odd = np.zeros(t.nbytes + 1, np.uint8)[1:].view(np.float64)
    odd[:] = t
    rates = fastlr.schedules.cosine(0.1, steps=30_000).warmup(99)
    assert bits([rates(odd)]) == bits([rates(t)])


def test_a_thread_with_a_small_stack_steps(environment):
    """128 KiB are all that a thread has where the C library is musl."""
    done = run("""
import threading, numpy as np, fastlr
threading.stack_size(128 * 1024)
fastlr.set_num_threads(2)
def step():
    for cls in (fastlr.Muon, fastlr.Adafactor, fastlr.AdamP, fastlr.SM3, fastlr.CAME, fastlr.RowwiseAdaGrad):
        params = [np.ones((40, 40)) for _ in range(20)]
        opt = cls(params, weight_decay=0.1, decay="coupled", clip_value=0.5)
        for _ in range(2):
            opt.step([p + 1 for p in params])
    print("done")
thread = threading.Thread(target=step)
thread.start()
thread.join()
""", environment)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr


def test_parts_of_different_builds_are_refused():
    """They may disagree on the layout of a struct."""
    names = ("accumulation", "arrays", "c_api", "clipping", "curvature", "functional_step", "gradients", "layout",
             "plan", "compiled_schedule", "row_index", "rows", "step_scalars", "torch_clipping", "torch_grad",
             "torch_native", "torch_plan", "torch_tensors", "torch_watch", "unit_norms", "written_ranges")
    modules = [fastlr.kernels, *(importlib.import_module(f"fastlr._engine.{name}") for name in names)]
    modules += [instruction_set.load(f"fastlr._kernels.{name}") for name in ("step", "norms", "rows")]
    rules = [module.name for module in pkgutil.iter_modules(fastlr._matrix.__path__) if module.name != "matrix_rule"]
    assert {"matrix_step", "muon"} < set(rules)
    modules += [instruction_set.load(f"fastlr._matrix.{name}") for name in rules]
    assert {module.build_id for module in modules} == {instruction_set.BUILD_ID}
    with pytest.raises(ImportError, match=r"fastlr was built in parts .* x is of another build than "
                                          r"fastlr.rules.signatures; build all of it anew"):
        instruction_set.one_build("x", "00000000")


def test_operands_of_different_sizes_are_refused():
    a, b, short = np.zeros(9), np.zeros(9), np.zeros(8)
    for operands in (([a], [short]), ([a], [b], [short]), ([a], [b], [a.astype(np.float32)])):
        with pytest.raises(ValueError, match="foreach: operands 0 differ in size or type"):
            foreach.foreach("ascend", *operands)


@pytest.mark.parametrize("level", [level for level in ("baseline", *instruction_set.VARIANTS)
                                   if instruction_set.supports(level)])
def test_random_trials_end_well(environment, level):
    """Memory beside which nobody may read or write, and whatever a caller can think of; see memory_trials.py."""
    first, count = {"baseline": 0, "v3": 100, "v4": 200}[level], 25
    done = subprocess.run([sys.executable, "-X", "faulthandler", str(Path(__file__).with_name("memory_trials.py")),
                           str(first), str(count)], env=environment | {"FASTLR_ISA": level}, capture_output=True,
                          text=True, timeout=200)
    assert done.returncode == 0, f"{done.stdout[-500:]}\n{done.stderr[-3000:]}"
    assert f"{count} trials" in done.stdout.splitlines()[-1], os.linesep.join(done.stdout.splitlines()[-3:])
