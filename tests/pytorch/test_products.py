"""Products of matrices by torch: Muon's as torch's own, those of Shampoo and SOAP as with NumPy."""
import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import fastlr
import fastlr.torch
from fastlr.torch.products import BY_HALVES, add_gram


class Calls(TorchDispatchMode):
    """The names of the functions of torch that are called."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.add(function.overloadpacket.__name__)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("dtype", BY_HALVES, ids=str)
@pytest.mark.parametrize("rows", [1, 2, 255, 256, 257, 511, 515, 1031])
def test_symmetric_products_by_halves(rows, dtype):
    generator = torch.Generator().manual_seed(rows)
    x = torch.randn(rows, 3, generator=generator).to(dtype)
    sums = torch.randn(rows, rows, generator=generator).to(dtype)
    sums = sums + sums.T
    want = 0.5 * sums.double() + 0.25 * x.double() @ x.double().T
    found = add_gram(sums.clone(), x, 0.5, 0.25)
    half = rows // 2 if rows >= BY_HALVES[dtype] else rows
    assert torch.equal(found[:half, half:], found[half:, :half].T)
    loose = {torch.float32: 1e-6, torch.float64: 1e-14, torch.bfloat16: 8e-3}[dtype]
    torch.testing.assert_close(found.double(), want, rtol=loose, atol=loose * float(want.abs().max()))


@pytest.mark.parametrize("name, functions", [("Shampoo", {"mm", "addmm_"}), ("SOAP", {"mm", "addmm_", "linalg_qr"}),
                                             ("Muon", {"addmm", "addmm_"})])
def test_products_are_torchs(name, functions):
    p = torch.nn.Parameter(torch.randn(70, 80, generator=torch.Generator().manual_seed(0)))
    opt = getattr(fastlr.torch, name)([p], lr=1e-3, **({"every": 1} if name != "Muon" else {}))
    with Calls() as calls:
        for _ in range(2):
            p.grad = torch.randn(70, 80, generator=torch.Generator().manual_seed(1))
            opt.step()
    assert functions <= calls.names


# (Of products whose rank is short, roots and bases are made of rounding: epsilon outweighs it, or there are none.)
@pytest.mark.parametrize("name, shapes, more", [("Shampoo", [(20, 30), (300, 40), (7,)], {"matrix_eps": 0.1}),
                                                ("SOAP", [(20, 20), (270, 270), (7,)], {})])
@pytest.mark.parametrize("keywords", [{}, {"clip_norm": 1.0, "decay": "coupled", "weight_decay": 0.01}], ids=repr)
def test_they_move_as_with_numpy(name, shapes, more, keywords):
    keywords = keywords | more
    rng = np.random.default_rng(3)
    start = [rng.standard_normal(shape) for shape in shapes]
    params = [torch.nn.Parameter(torch.from_numpy(array.copy())) for array in start]
    opt = getattr(fastlr.torch, name)(params, lr=0.01, every=2, **keywords)
    other = getattr(fastlr, name)(start, lr=0.01, every=2, **keywords)
    for _ in range(5):
        grads = [rng.standard_normal(shape) for shape in shapes]
        for param, grad in zip(params, grads, strict=True):
            param.grad = torch.from_numpy(grad.copy())
        opt.step()
        other.step(grads)
        assert all(np.array_equal(param.grad.numpy(), grad) for param, grad in zip(params, grads, strict=True))
    for param, array in zip(params, start, strict=True):
        np.testing.assert_allclose(param.detach().numpy(), array, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("shape", [(520, 530), (1040, 60), (60, 1040)], ids=str)
def test_large_matrices_of_muon_move_as_torchs(shape):
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(shape, generator=generator)
    ours, theirs = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.clone())
    opt, other = fastlr.torch.Muon([ours], lr=0.1), torch.optim.Muon([theirs], lr=0.1)
    for _ in range(3):
        ours.grad = torch.randn(shape, generator=generator)
        theirs.grad = ours.grad.clone()
        opt.step()
        other.step()
    moved = theirs.detach() - start
    assert float((ours.detach() - theirs.detach()).norm()) < 0.02 * float(moved.norm())
