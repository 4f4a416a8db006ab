"""Random trials of what a caller can do to an optimizer, to find what reaches beyond memory.

    python tests/memory_trials.py FIRST COUNT      # one trial a seed; a crash leaves its seed as the last line

Parameters and gradients are beside pages that nobody may touch, at odd addresses, in any layout and storage. Actions
follow one another: steps, steps over rows, gradients that cannot be, states that cannot be, schedules that disturb the
step that asks them, other threads, forks. What is refused is refused by one of REFUSED; anything else ends the trials.
A thousand take some minutes; with the sanitizers of gcc, what no page guards is seen, too:

    FASTLR_SANITIZE=address,undefined python setup.py build_ext -i        # (in a copy of the tree: some minutes)
    LD_PRELOAD="$(gcc -print-file-name=libasan.so) $(gcc -print-file-name=libubsan.so)" PYTHONMALLOC=malloc \
        ASAN_OPTIONS=detect_leaks=0:handle_segv=0 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 \
        PYTHONPATH=. FASTLR_ISA=v3 python tests/memory_trials.py 0 1000   # or: python -m pytest -q tests
    PYTHONMALLOC=malloc FASTLR_ISA=v3 valgrind python tests/memory_trials.py 0 20       # what is read before it is set
"""
import copy
import ctypes
import faulthandler
import gc
import mmap
import os
import random
import sys
import tempfile
import threading
import warnings
from collections import Counter

import numpy as np

import fastlr
from fastlr import kernels, schedules
from fastlr._engine.arrays import BFloat16
from fastlr._engine.tensors import bfloat16_bits
from fastlr.optimizers.base import REGISTRY

REFUSED = (ValueError, TypeError, AttributeError, RuntimeError, FloatingPointError, OverflowError, BufferError,
           MemoryError, np.linalg.LinAlgError, fastlr.CheckpointError)
SHAPES = [(), (0,), (1,), (2,), (3,), (7,), (13,), (64,), (255,), (257,), (1023,), (4096,), (5003,), (0, 3), (3, 0),
          (1, 1), (1, 17), (17, 1), (4, 4), (5, 64), (13, 31), (64, 64), (65, 63), (128, 3), (3, 128), (97, 101), (2, 3, 5),
          (3, 1, 4), (7, 5, 3, 2), (2, 0, 3), (1, 1, 1, 1), (16, 4, 3, 3), (2, 3, 2, 3, 2), (31, 257), (1, 901), (901, 1)]
LARGE = [(40000,), (32768,), (200, 300), (33, 33, 33), (70000, 1), (1, 17001), (16385, 3), (260, 260)]
STORAGES = ("float32", "float64", "float16", "bfloat16")
LAYOUTS = ("plain", "plain", "end", "end", "start", "odd", "turned", "every other", "backwards", "inside", "apart")
MATRIX = [cls for cls in REGISTRY.values() if cls.kind == "matrix"]
PROTECT = getattr(ctypes.CDLL(None), "mprotect", None) if os.name == "posix" else None
if PROTECT is not None:
    PROTECT.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


def guarded(size, at_end=True):
    """Bytes right before or right behind a page that cannot be read or written."""
    if PROTECT is None or size > 1 << 21:
        return np.zeros(size, np.uint8)
    inner, page = max(-(-size // mmap.PAGESIZE), 1) * mmap.PAGESIZE, mmap.PAGESIZE
    memory = np.frombuffer(mmap.mmap(-1, inner + 2 * page), np.uint8)
    for guard in (0, page + inner):
        assert PROTECT(memory.ctypes.data + guard, page, 0) == 0
    first = page + (inner - size if at_end else 0)
    return memory[first:first + size]


class Trial:
    """One optimizer and what happens to it."""

    def __init__(self, seed):
        self.random, self.numbers = random.Random(seed), np.random.default_rng(seed)
        self.acts, self.refusals, self.bound, self.over = [], 0, None, False

    def maybe(self, share):
        return self.random.random() < share

    # Arrays

    def placed(self, values, layout=None):
        """The values somewhere in memory."""
        layout = layout or self.random.choice(LAYOUTS)
        shape, dtype, size = values.shape, values.dtype, values.nbytes
        slices = {"every other": slice(None, None, 2), "backwards": slice(None, None, -1), "inside": slice(1, -2)}
        if layout == "plain" or not values.size or not shape:
            return values.copy()
        if layout in ("end", "start"):
            out = guarded(size + -size % 8, layout == "end")[-size if layout == "end" else 0:][:size]
            out = out.view(dtype).reshape(shape)
        elif layout == "odd":
            out = guarded(size + 1)[self.random.randrange(2):][:size].view(dtype).reshape(shape)
        elif layout == "turned":
            axes = self.random.sample(range(values.ndim), values.ndim)
            out = np.empty([shape[axis] for axis in axes], dtype).transpose(np.argsort(axes))
        elif layout == "apart":            # rows at odd distances
            rows = np.dtype([("row", dtype, shape[1:]), ("gap", "u1", (self.random.choice((1, 3, 4, 8)),))])
            out = np.zeros(shape[0], rows)["row"]
        else:
            larger = {"every other": 2, "backwards": 1, "inside": 1}[layout], 3 if layout == "inside" else 0
            out = np.empty([n * larger[0] + larger[1] for n in shape], dtype)[(slices[layout],) * len(shape)]
        out[...] = values
        return out

    def array(self, shape, stored, layout=None):
        x = np.asarray(self.numbers.normal(size=shape) * 10.0 ** self.random.choice((-30, -3, 0, 0, 0, 0, 3, 30)))
        if x.size and self.maybe(0.08):
            x.reshape(-1)[self.random.randrange(x.size)] = self.random.choice((np.nan, np.inf, -np.inf, 0.0, 1e300))
        if stored == "bfloat16":
            return self.placed(bfloat16_bits(x).reshape(shape), layout).view(BFloat16)
        return self.placed(x.astype(stored), layout)

    def gradient(self, k):
        stored = self.stored[k]
        if stored != "float64" and self.maybe(0.2):
            stored = self.random.choice(("float32", "float16", "bfloat16"))
        g = self.array(self.params[k].shape, stored)
        g.flags.writeable = not self.maybe(0.1)
        return g

    def gradients(self, absent=0.1):
        return self.arranged([None if self.maybe(absent) else self.gradient(k) for k in range(len(self.params))])

    def arranged(self, flat):
        if self.style == "mapping":
            return {f"p{k}": x for k, x in enumerate(flat)}
        return [flat[:1], flat[1:]] if self.style == "groups" else flat

    def name(self, k):
        return f"p{k}" if self.style == "mapping" else str(k)

    def more(self):
        """What else a step is given."""
        given = {"zero_grads": True} if self.maybe(0.15) else {}
        if self.maybe(0.15):
            given["grad_scale"] = self.random.choice((2.0, 1024.0, 0.5))
        if self.cls.needs_loss:
            given["loss"] = self.random.choice((1.0, 0.0, 3.5))
        if self.cls.needs_curvature and self.maybe(0.8):
            given["curvature"] = self.gradients(0)
        return given

    # The optimizer

    def made(self):
        """An optimizer with some keywords; fewer until they go together. None if they never do."""
        choose = self.random.choice
        self.cls = choose(MATRIX if self.maybe(0.3) else list(REGISTRY.values()))
        if self.maybe(0.03):
            shapes = [choose([(), (1,), (3,), (2, 2), (0,)]) for _ in range(choose((300, 1500)))]
        else:
            shapes = [choose(SHAPES + LARGE if self.maybe(0.2) else SHAPES) for _ in range(choose((1, 2, 3, 5)))]
        stored = choose((*STORAGES, "float32", None))
        self.stored = [stored or choose(STORAGES) for _ in shapes]
        self.params = [self.array(shape, kind) for shape, kind in zip(shapes, self.stored, strict=True)]
        self.style = choose(("list", "mapping", "groups"))
        keywords = {name: choose((bound.low, bound.low + (min(bound.high, 2.0) - bound.low) * self.random.random()))
                    for name, bound in self.cls.hypers.items() if self.maybe(0.2)}
        if self.maybe(0.2):
            keywords["lr"] = choose((schedules.cosine(0.1, steps=5), lambda t: 0.01))
        if self.cls.conventions and self.maybe(0.4):
            keywords["convention"] = choose(list(self.cls.conventions))
        options = {
            "clip_norm": (1e-3, 1.0), "clip_value": (0.1,), "clip_tensor_norm": (0.1,), "clip_adaptive": (0.01, 1.0),
            "clip_zscore": (2.0,), "clip_zscore_warmup": (1, 2), "clip_adaptive_axis": (0, -1),
            "nonfinite": ("propagate", "skip", "raise"), "ema_decay": (0.9, 0.0), "rounding": ("stochastic",),
            "maximize": (True,), "state_dtype": (*STORAGES, "int8", "int8"), "weight_decay": (0.1,), "master": ("split",),
            "decay": ("coupled", "decoupled", "independent", "corrected"), "shadow": ("bfloat16", "float16"),
            "lr_scale": (lambda name, x: np.random.default_rng(1).random(x.shape),),
        }
        keywords |= {name: choose(values) for name, values in options.items() if self.maybe(0.15)}
        if self.maybe(0.05):
            keywords["shadow"] = [self.array(shape, choose(("float16", "bfloat16"))) for shape in shapes]
        sides = {"largest": choose((1, 64, 200))} if hasattr(self.cls, "largest") else {}
        params = self.arranged(self.params)
        if self.style == "groups":
            params = [{"params": part} for part in params if part] or [{"params": []}]
            self.style = "groups" if len(params) == 2 else "one group"
        while True:
            try:
                return self.cls(params, **keywords, **sides)
            except REFUSED:
                if not keywords:
                    return None
                for name in self.random.sample(list(keywords), (len(keywords) + 1) // 2):
                    del keywords[name]

    def run(self):
        """The trial; None if there was no optimizer."""
        opt = self.made()
        if opt is None or self.style == "one group":
            return
        acts = [name for name in dir(self) if name.startswith("act_")]
        for _ in range(self.random.randint(2, 9) if len(self.params) < 100 else 3):
            act = self.random.choice(acts + ["act_step"] * 12)
            self.acts.append(act[4:])
            try:
                getattr(self, act)(opt)
            except REFUSED:
                self.refusals += 1
            if self.over:
                return
        grads, self.params = self.gradients(0), []         # the optimizer alone holds them now
        gc.collect()
        self.tolerantly(opt.step, grads)

    def tolerantly(self, act, *arguments, **keywords):
        try:
            return act(*arguments, **keywords)
        except REFUSED:
            self.refusals += 1

    # What may happen

    def act_step(self, opt):
        opt.step(self.gradients(), **self.more())

    def act_bad_gradients(self, opt):
        k = self.random.randrange(len(self.params))
        shape, flat = self.params[k].shape, [self.gradient(i) for i in range(len(self.params))]
        flat[k] = self.random.choice([
            np.zeros((3, 3, 3)), np.zeros(5, np.int32), "x", 1.0, np.array(1.0), np.zeros(shape, np.complex128), object(),
            self.params[k], np.zeros(shape, ">f4"), np.broadcast_to(np.float32(1), shape), np.zeros(shape, object), b"abc",
            bytearray(8), memoryview(b"12345678"), np.ma.zeros(shape), np.zeros((2,) * 12), np.zeros((*shape, 1), "f4")])
        opt.step(self.arranged(flat[:-1] if self.maybe(0.2) else flat), **self.more())

    def act_rows(self, opt):
        k = self.random.randrange(len(self.params))
        p = self.params[k]
        count = p.shape[0] if p.ndim else 1
        rows = [self.random.randrange(max(count, 1)) for _ in range(self.random.choice((0, 1, 3, 50)))]
        if self.maybe(0.15):
            rows.append(self.random.choice((count, -1, 2**40, -2**63, 2**63 - 1)))
        opt.step_rows(self.name(k), np.array(rows, np.int64), self.array((len(rows), *p.shape[1:]), self.stored[k]))

    def act_accumulate(self, opt):
        opt.accumulate(self.gradients(0))

    def act_bind(self, opt):
        self.bound = self.gradients(0)
        opt.bind(self.bound)

    def act_bound_step(self, opt):
        opt.step(**self.more())

    def act_resume(self, opt):
        opt.load_state_dict(opt.state_dict())

    def act_bad_state(self, opt):
        saved = opt.state_dict()
        for slots in saved["state"].values():
            for slot, x in slots.items():
                if self.maybe(0.2):
                    slots[slot] = self.random.choice([x[..., None], x.astype(np.int64), x.T, np.zeros(3), None, "q",
                                                      np.full_like(x, 127 if x.dtype.kind in "iu" else np.nan)])
        if self.maybe(0.3):
            saved["t"] = self.random.choice((2**62 - 1, 2**62 - 2, -1, 1.5, 0, 10**30))
        opt.load_state_dict(saved)

    def act_checkpoint(self, opt):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "opt")
            fastlr.save(path, opt)
            if self.maybe(0.5):
                with open(path, "r+b") as file:
                    size = file.seek(0, 2)
                    for _ in range(3):
                        file.seek(self.random.randrange(size))
                        file.write(bytes([self.random.randrange(256)]))
                    file.truncate(self.random.choice((size, self.random.randrange(size))))
            fastlr.load(path, opt)

    def act_copy(self, opt):
        twin = self.random.choice((copy.copy, copy.deepcopy))(opt)
        twin.step(self.gradients(0), **self.more())

    def act_add_group(self, opt):
        self.over = True
        opt.add_group([self.array(self.random.choice(SHAPES), self.stored[0])])

    def act_threads(self, opt):
        fastlr.set_num_threads(self.random.choice((1, 2, 3, 5)))

    def act_fork(self, opt):
        grads, more = self.gradients(0), self.more()
        if not hasattr(os, "fork") or self.maybe(0.5):
            return
        child = os.fork()
        if child == 0:
            faulthandler.dump_traceback_later(60, exit=True)
            self.tolerantly(opt.step, grads, **more)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0, "a fork crashed"

    def act_race(self, opt):
        grads, more = self.gradients(0), self.more()
        other, g = fastlr.AdamW([np.zeros(50000, np.float32)]), [np.ones(50000, np.float32)]

        def disturb():
            for k in range(8):
                self.tolerantly(opt.state_dict)
                self.tolerantly(opt.load_state_dict, opt.state_dict())
                self.tolerantly(opt.bind, grads)
                fastlr.set_num_threads(1 + k % 4)
                kernels.sgd(np.zeros(40000), np.ones(40000), t=1, lr=0.1)

        def step(one, grads, more):
            for _ in range(4):
                self.tolerantly(one.step, grads, **more)

        work = [(step, opt, grads, more), (step, opt, grads, more), (step, other, g, {}), (disturb,)]
        threads = [threading.Thread(target=task[0], args=task[1:]) for task in work]
        before = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(60)
                assert not thread.is_alive(), "a thread hangs"
        finally:
            sys.setswitchinterval(before)

    def act_disturbing_schedule(self, opt):
        grads = self.gradients(0)

        def disturb(t):
            return self.random.choice([
                gc.collect, lambda: grads.clear(), lambda: [g.resize(g.size + 99) for g in grads], lambda: opt.bind(grads),
                lambda: opt.step(grads), lambda: setattr(opt, "lr", 1.0), lambda: opt.add_group([np.zeros(2)]),
                lambda: "x", lambda: float("nan"), lambda: 0.01])()

        opt.lr = disturb
        for _ in range(3):
            self.tolerantly(opt.step, grads, **self.more())
        opt.lr = 0.01

    def act_other_shape(self, opt):
        """In place, of a parameter or its state; whatever is done then."""
        k = self.random.randrange(len(self.params))
        x = self.random.choice([self.params[k], *opt.state[self.name(k)].values()])
        shape, own = x.shape, self.params[k].shape
        if not x.flags.c_contiguous or not shape or not own:
            return
        x.shape = self.random.choice([(x.size,), (1, x.size), (x.size, 1), shape[::-1], (*shape, 1)])
        try:
            self.tolerantly(self.act_rows, opt)
            rows = np.arange(own[0])[-50:]         # (as it was)
            self.tolerantly(opt.step_rows, self.name(k), rows, self.array((len(rows), *own[1:]), self.stored[k]))
            self.tolerantly(opt.step, self.gradients(0), **self.more())
            self.tolerantly(opt.load_state_dict, opt.state_dict())
        finally:
            x.shape = shape

    def act_resize(self, opt):
        """NumPy refuses it, as the optimizer holds what it would free."""
        for x in [*self.params, *[x for slots in opt.state.values() for x in slots.values()]][:50]:
            self.tolerantly(x.resize, x.size * 9 + 10000)

    def act_any_state(self, opt):
        for slots in opt.state.values():
            for x in slots.values():
                x[...] = 127 if x.dtype.kind in "iu" else self.random.choice((np.nan, -1.0, np.inf, 0.0))

    def act_wrap(self, opt):
        wrapped = self.random.choice((fastlr.Lookahead, fastlr.SAM, fastlr.GradientCentralization))(opt)
        for _ in range(2):
            if isinstance(wrapped, fastlr.SAM):
                wrapped.ascend(self.gradients())
            wrapped.step(self.gradients(), **self.more())

    def act_average(self, opt):
        mean = self.random.choice((fastlr.EMA, fastlr.SWA))(self.params)
        mean.update()
        with mean.swapped():
            mean.update()

    def act_kernel(self, opt):
        name, shape = self.random.choice(kernels.__all__), self.random.choice(SHAPES + LARGE)
        stored = self.random.choice(("float32", "float64"))
        operands = [self.array(shape, stored, self.random.choice(("plain", "end", "start", None)))
                    for _ in range(2 + len(REGISTRY[name].slots))]
        if REGISTRY[name].memory:
            operands.append(np.zeros(len(REGISTRY[name].memory)))
        if self.maybe(0.2):
            operands[self.random.randrange(len(operands))] = self.random.choice([operands[0], np.zeros(3), None])
        getattr(kernels, name)(*operands, t=self.random.choice((1, 2, 2**62 - 1)), lr=0.1)

    def act_schedule(self, opt):
        rates = schedules.cosine(0.1, steps=100).warmup(9) * 2
        rates(self.placed(self.numbers.random(self.random.choice((0, 1, 63, 64, 65, 40000))) * 200))
        opt.lr = rates


def main(first, count):
    done = Counter()
    for seed in range(first, first + count):
        print(seed, flush=True)
        fastlr.set_num_threads(1 + seed % 3)
        trial = Trial(seed)
        try:
            trial.run()
        except BaseException:
            print(trial.cls.__name__, trial.acts, file=sys.stderr, flush=True)
            raise
        done.update(trial.acts)
        done["refused"] += trial.refusals
    print(f"{count} trials:", *(f"{name} {times}" for name, times in done.items()))


if __name__ == "__main__":
    faulthandler.enable()
    warnings.simplefilter("ignore")
    np.seterr(all="ignore")
    main(*map(int, sys.argv[1:]))
