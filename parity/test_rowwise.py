"""Row-wise AdaGrad beside torchrec's, whose reference it is, and over touched rows beside FBGEMM's formula in torch."""
import numpy as np
import pytest

torch = pytest.importorskip("torch")
theirs = pytest.importorskip("torchrec.optim.rowwise_adagrad")

from registry import arrays  # noqa: E402

import fastlr  # noqa: E402

SHAPES = [(13, 4), (2, 3), (5, 1), (1, 300)]
STEPS = 200


@pytest.mark.parametrize("maximize", [False, True], ids=["", "maximize"])
@pytest.mark.parametrize("hyper", [{}, {"lr": 0.2}, {"lr_decay": 0.1}, {"eps": 0.03}, {"initial_accumulator_value": 0.5},
                                   {"weight_decay": 0.1}], ids=lambda hyper: "-".join(hyper) or "as declared")
def test_moves_as_torchrecs(hyper, maximize):
    mine = arrays(np.float64, SHAPES)
    there = [torch.nn.Parameter(torch.from_numpy(p.copy())) for p in mine]
    ours, peer = fastlr.RowwiseAdaGrad(mine, maximize=maximize, **hyper), theirs.RowWiseAdagrad(there, maximize=maximize, **hyper)
    rng = np.random.default_rng(0)
    for t in range(STEPS):
        given = [g * 10.0 ** rng.uniform(-3, 1, size=g.shape) for g in arrays(np.float64, SHAPES, seed=t)]
        ours.step(given)
        for p, g in zip(there, given, strict=True):
            p.grad = torch.from_numpy(g)
        peer.step()
        for k, (p, q) in enumerate(zip(mine, there, strict=True)):
            assert abs(p - q.detach().numpy()).max() <= 1e-10 * abs(p).max()
            np.testing.assert_allclose(ours.state[str(k)]["s"], peer.state[q]["sum"][:, 0].numpy(), rtol=1e-12)


@pytest.mark.parametrize("decay", ["coupled", "decoupled"])
def test_touched_rows_move_by_fbgemms_formula(decay):
    """``EXACT_ROWWISE_ADAGRAD``: gradients of a row are added, then squared; L2 decay is a part of them."""
    table, = arrays(np.float64, [(40, 6)])
    p, sums = torch.from_numpy(table.copy()), torch.zeros(40, dtype=torch.float64)
    opt = fastlr.RowwiseAdaGrad({"table": table}, lr=0.1, eps=0.01, weight_decay=0.2, decay=decay)
    rng = np.random.default_rng(0)
    for _ in range(STEPS):
        rows, g = rng.integers(0, 40, 17), rng.normal(size=(17, 6))
        opt.step_rows("table", rows, g)
        touched, where = torch.unique(torch.from_numpy(rows), return_inverse=True)
        total = torch.zeros(len(touched), 6, dtype=torch.float64).index_add_(0, where, torch.from_numpy(g))
        if decay == "coupled":
            total += 0.2 * p[touched]
        else:
            p[touched] *= 1 - 0.1 * 0.2
        sums[touched] += (total**2).sum(1) / 6
        p[touched] -= 0.1 / (sums[touched].sqrt() + 0.01)[:, None] * total
        assert abs(table - p.numpy()).max() <= 1e-10 * abs(table).max()
    np.testing.assert_allclose(opt.state["table"]["s"], sums.numpy(), rtol=1e-12)
