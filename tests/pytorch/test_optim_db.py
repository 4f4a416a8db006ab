"""What torch's own registry of optimizer tests says must work, and must fail with which message."""
import pytest
import torch
from torch.testing._internal.common_optimizers import OptimizerErrorEnum, optim_db

import fastlr.torch
from fastlr.torch.arguments import PEERS

INFOS = [info for info in optim_db if info.optim_cls.__name__ in PEERS]


def ours(info):
    return getattr(fastlr.torch, info.optim_cls.__name__)


def fresh(info, dtype=torch.float64):
    torch.manual_seed(3)
    return [torch.nn.Parameter(torch.randn(shape, dtype=dtype)) for shape in ((3, 2), (2, 4))]


def give_gradients(info, params, seed):
    generator = torch.Generator().manual_seed(seed)
    for param in params:
        grad = torch.randn(param.shape, generator=generator, dtype=torch.float64).to(param.dtype)
        param.grad = grad.to_sparse(1) if info.only_supports_sparse_grads else grad


def inputs():
    for info in INFOS:
        for k, given in enumerate(info.optim_inputs_func(device="cpu")):
            yield pytest.param(info, given, id=f"{info.optim_cls.__name__}-{k}-{given.desc}")


@pytest.mark.parametrize("flag", [None, "foreach", "fused"])
@pytest.mark.parametrize("info, given", [*inputs()])
def test_all_inputs_move_as_torchs(info, given, flag):
    keywords = dict(given.kwargs)
    if flag in info.supported_impls and not (flag == "foreach" and isinstance(keywords.get("lr"), torch.Tensor)):
        keywords[flag] = True
    results = []
    for cls in (ours(info), info.optim_cls):
        params = fresh(info)
        opt = cls(params, **(keywords if cls is not info.optim_cls else given.kwargs))
        for seed in range(5):
            give_gradients(info, params, seed)
            opt.step()
        results.append([param.detach().clone() for param in params])
    # (Muon multiplies in bfloat16, ours in another order than torch's: each of its products is rounded to 2**-9, 0.2 %;
    # NAdam and ASGD keep products and rates as tensors of float32, 6e-8 each, and SparseAdam multiplies one by a tensor as
    # rate; all else differs by roundings of float64)
    name = info.optim_cls.__name__
    single = name in ("NAdam", "ASGD") or (name == "SparseAdam" and isinstance(given.kwargs.get("lr"), torch.Tensor))
    rtol, atol = (1e-2, 1e-3) if name == "Muon" else (1e-6, 1e-9) if single else (1e-11, 1e-13)
    for one, other in zip(*results, strict=True):
        assert torch.allclose(one, other, rtol=rtol, atol=atol)


def errors():
    for info in INFOS:
        for k, error in enumerate(info.optim_error_inputs_func(device="cpu", dtype=torch.float32)):
            yield pytest.param(info, error, id=f"{info.optim_cls.__name__}-{k}-{error.optimizer_error_input.desc}")


@pytest.mark.parametrize("info, error", [*errors()])
@pytest.mark.filterwarnings("ignore:optimizer contains a parameter group with duplicate")
def test_all_errors_are_torchs(info, error):
    given = error.optimizer_error_input
    params = fresh(info, torch.float32) if given.params is None else given.params
    if error.error_type is UserWarning:
        with pytest.warns(UserWarning, match=error.error_regex):
            ours(info)(params, **given.kwargs)
        return
    if error.error_on is OptimizerErrorEnum.STEP_ERROR:
        opt = ours(info)(params, **given.kwargs)
        with pytest.raises(error.error_type, match=error.error_regex):
            opt.step()
        return
    with pytest.raises(error.error_type, match=error.error_regex):
        ours(info)(params, **given.kwargs)
