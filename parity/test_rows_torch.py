"""Steps over rows against torch's sparse gradients, live."""
import numpy as np
import pytest

torch = pytest.importorskip("torch")

import fastlr  # noqa: E402
from fastlr import schedules  # noqa: E402

ROWS, WIDTH, STEPS = 50, 6, 60
BETA2 = 0.99

# ours and theirs, with keywords; SparseAdam's epsilon stands beside the root that is not yet corrected for its start
TWINS = {
    "SGD": (fastlr.SGD, {}, torch.optim.SGD, {}),
    "Adagrad": (fastlr.AdaGrad, {"lr_decay": 0.1, "eps": 0.01, "initial_accumulator_value": 0.5},
                torch.optim.Adagrad, {"lr_decay": 0.1, "eps": 0.01, "initial_accumulator_value": 0.5}),
    "SparseAdam": (fastlr.Adam, {"beta1": 0.8, "beta2": BETA2, "eps": lambda t: 0.02 / (1 - BETA2**(t + 1))**0.5},
                   torch.optim.SparseAdam, {"betas": (0.8, BETA2), "eps": 0.02}),
}


@pytest.fixture(autouse=True)
def checked():
    """(torch warns until somebody says whether sparse tensors are to be checked.)"""
    with torch.sparse.check_sparse_tensor_invariants(enable=True):
        yield


@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("maximize", [False, True], ids=["", "maximize"])
@pytest.mark.parametrize("name", TWINS)
def test_rows_move_as_with_torchs_sparse_gradients(name, maximize, dtype):
    ours, keywords, theirs, more = TWINS[name]
    rng = np.random.default_rng(0)
    table = rng.normal(size=(ROWS, WIDTH)).astype(dtype)
    p = torch.nn.Parameter(torch.from_numpy(table.copy()))
    opt = ours({"table": table}, schedules.inverse_time(0.1, decay=0.01), maximize=maximize, **keywords)
    reference = theirs([p], lr=0.1, maximize=maximize, **more)
    # one step rounds a few times, each by at most 2**-24 or 2**-53; 60 steps of nearly equal numbers add up
    near = {"rtol": 2e-5, "atol": 2e-6} if dtype == np.float32 else {"rtol": 1e-12, "atol": 1e-14}
    for t in range(STEPS):
        rows = rng.integers(0, ROWS, 9)
        grads = rng.normal(size=(9, WIDTH)).astype(dtype)
        for group in reference.param_groups:
            group["lr"] = opt.lr(t)
        p.grad = torch.sparse_coo_tensor(torch.from_numpy(rows)[None], torch.from_numpy(grads), p.shape)
        reference.step()
        opt.step_rows("table", rows, grads)
        np.testing.assert_allclose(table, p.detach().numpy(), **near)
    kept = list(reference.state[p].values())
    for slot, array in opt.state["table"].items():
        assert any(np.shape(k) == array.shape and np.allclose(array, k, **near) for k in kept), slot


def test_a_table_in_torch_is_updated_in_place():
    table = torch.nn.Embedding(20, 4)
    before = table.weight.detach().clone()
    opt = fastlr.SGD({"table": table.weight.detach()}, lr=1.0)
    rows = torch.tensor([3, 5, 3])
    opt.step_rows("table", rows, torch.ones(3, 4))
    wanted = before.clone()
    wanted[3] -= 2
    wanted[5] -= 1
    torch.testing.assert_close(table.weight.detach(), wanted)


def test_torchs_sparse_momentum_is_not_lazy_and_ours_is():
    table = np.zeros((3, 1))
    p = torch.nn.Parameter(torch.zeros(3, 1, dtype=torch.float64))
    opt, reference = fastlr.Momentum({"table": table}, lr=1.0, momentum=0.5), torch.optim.SGD([p], 1.0, 0.5)
    for row in (0, 1):
        opt.step_rows("table", [row], np.ones((1, 1)))
        p.grad = torch.sparse_coo_tensor([[row]], torch.ones(1, 1, dtype=torch.float64), p.shape)
        reference.step()
    assert table[:, 0].tolist() == [-1, -1, 0]
    assert p[:, 0].tolist() == [-1.5, -1, 0]
