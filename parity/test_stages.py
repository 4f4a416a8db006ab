"""What happens around the rule, held to torch's own."""
import numpy as np
import pytest
import torch

import fastlr


@pytest.mark.parametrize("keywords", [{}, {"growth": 1.7, "backoff": 0.3, "interval": 3, "init": 1000.0}])
def test_loss_scale_is_grad_scaler(keywords):
    scale = fastlr.LossScale(**({"interval": 7} | keywords))
    p = torch.nn.Parameter(torch.zeros(4))
    twin = torch.optim.SGD([p], lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=scale.value, growth_factor=scale.growth,
                                  backoff_factor=scale.backoff, growth_interval=scale.interval)
    q = np.zeros(4, np.float32)
    opt = fastlr.SGD(q, lr=0.1, nonfinite="skip")
    rng = np.random.default_rng(0)
    for t in range(300):
        g = rng.normal(size=4).astype(np.float32)
        if rng.random() < 0.05 or 100 <= t < 110:
            g[t % 4] = rng.choice([np.inf, -np.inf, np.nan])
        assert scaler.get_scale() == scale.value
        p.grad = torch.tensor(g) * scaler.scale(torch.ones(()))
        opt.step(p.grad.numpy().copy(), grad_scale=scale)
        scaler.step(twin)
        scaler.update()
        assert scaler._get_growth_tracker() == scale.streak
    np.testing.assert_allclose(q, p.detach().numpy(), rtol=1e-5, atol=1e-6)
