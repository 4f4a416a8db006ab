"""What torch asks of its optimizers, with every input of torch's registry, `foreach`, `fused` and `differentiable` too."""
import copy
import functools
import io
import math
import warnings

import pytest
import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.testing._internal.common_optimizers import _get_optim_inputs_including_global_cliquey_kwargs, optim_db

import fastlr.torch
from fastlr.torch.arguments import PEERS

INFOS = [info for info in optim_db if info.optim_cls.__name__ in PEERS]
close = torch.testing.assert_close


def each(infos):
    return pytest.mark.parametrize("info", infos, ids=[info.optim_cls.__name__ for info in infos])


def inputs(info, *without, dtype=torch.float32):
    """Arguments that must work, each anew: tests change them."""
    for given in _get_optim_inputs_including_global_cliquey_kwargs("cpu", dtype, info, skip=without):
        yield given.kwargs


def ours(info):
    return getattr(fastlr.torch, info.optim_cls.__name__)


def is_muon(info):
    return info.optim_cls.__name__ == "Muon"               # (it takes matrices alone)


def layer(info, contiguous=True):
    torch.manual_seed(0)
    shapes = [(10, 5), (10, 1) if is_muon(info) else (10,)]
    return [torch.nn.Parameter(torch.randn(shape) if contiguous else torch.randn(*shape, 2)[..., 0])
            for shape in shapes]


def backward(info, opt, params, x):
    opt.zero_grad()
    loss = (params[0].mv(x) + params[1].reshape(-1)).square().sum()
    loss.backward()
    if info.only_supports_sparse_grads:
        for param in params:
            param.grad = param.grad.to_sparse()
    return loss


def closure_of(info, opt, params):
    return functools.partial(backward, info, opt, params, torch.linspace(-1, 1, 5))


def advance(opt, closure):
    loss = closure()
    opt.step()
    return loss


def drive(schedulers, loss):
    for scheduler in schedulers:
        scheduler.step(*[loss.detach()] * isinstance(scheduler, ReduceLROnPlateau))


def improves(keywords, before, after):
    return after > before if keywords.get("maximize") else after < before


def same(one, other):
    assert type(one) is type(other)
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        return all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(same(*pair) for pair in zip(one, other, strict=True))
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


def without_names(state):
    state = copy.deepcopy(state)
    for group in state["param_groups"]:
        group.pop("param_names", None)
    return state


def named(params, yes=True):
    return [(f"name{k}", param) for k, param in enumerate(params)] if yes else params


# Which way the loss goes

@each(INFOS)
@pytest.mark.parametrize("contiguous", [True, False])
@pytest.mark.parametrize("scheduled", [True, False])
def test_the_loss_improves(info, contiguous, scheduled):
    for makers in info.scheduler_inputs if scheduled else [[]]:
        for keywords in [given.kwargs for given in info.optim_inputs_func(device="cpu")]:
            params = layer(info, contiguous)
            opt = ours(info)(params, **keywords)
            schedulers = [make(opt) for make in makers]
            closure = closure_of(info, opt, params)
            before = closure().item()
            for _ in range(20):
                drive(schedulers, advance(opt, closure))
            assert improves(keywords, before, closure().item()), keywords


@each(INFOS)
def test_groups_have_rates_and_decays_of_their_own(info):
    outer = {"lr": 1e-28, **({"step_sizes": (0, 50)} if info.optim_cls.__name__ == "Rprop" else {})}
    for keywords in inputs(info, "differentiable"):
        params, still = layer(info), torch.nn.Parameter(torch.randn(2, 2))
        was = still.detach().clone()
        keywords["lr"] = keywords.get("lr") or 1e-3
        opt = ours(info)([{"params": params[:1], **keywords},
                          {"params": params[1:], **copy.deepcopy(keywords), "weight_decay": 0.0}, {"params": [still]}], **outer)
        closure = closure_of(info, opt, params)
        before = closure().item()
        for _ in range(20):
            closure()
            still.grad = torch.rand_like(still)
            if info.only_supports_sparse_grads:
                still.grad = still.grad.to_sparse()
            opt.step()
        assert improves(keywords, before, closure().item()), keywords
        close(still.detach(), was)


@each(INFOS)
def test_a_tensor_as_lr_is_the_number(info):
    for keywords in inputs(info, "differentiable"):
        keywords["lr"] = 1e-3
        results = []
        for lr in (keywords["lr"], torch.tensor(keywords["lr"])):
            params = layer(info)
            try:
                opt = ours(info)(params, **{**keywords, "lr": lr})
            except ValueError as error:
                assert "lr as a Tensor is not supported" in str(error)
                continue
            for _ in range(5):
                advance(opt, closure_of(info, opt, params))
            results.append(params)
        close(results[0], results[-1])


@each([info for info in INFOS if info.supports_sparse or info.only_supports_sparse_grads])
@pytest.mark.parametrize("scheduled", [True, False])
def test_repeated_sparse_elements_are_the_dense_gradient(info, scheduled):
    changes, makers = info.metadata_for_sparse
    for keywords in inputs(info, "differentiable", "fused", dtype=torch.float64):
        keywords.update({name: value for name, value in changes.items() if name in keywords})
        params = [torch.nn.Parameter(torch.tensor([1.5, 1.5], dtype=dtype))
                  for dtype in [torch.float32, torch.float64][:1 + bool(keywords.get("foreach"))]]
        twins = copy.deepcopy(params)
        opts = [ours(info)(each_of, **keywords) for each_of in (params, twins)]
        schedulers = [[make(opt) for make in (makers if scheduled else [])] for opt in opts]
        for turn in range(60):
            for param, twin in zip(params, twins, strict=True):
                x, y = (twin if not info.only_supports_sparse_grads else param).detach()
                dense = torch.stack([-400 * x * (y - x**2) - 2 * (1 - x), 200 * (y - x**2)])
                dense[turn % 2] = 0
                k = 1 - turn % 2
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")        # (torch says once that it does not check the indices)
                    param.grad = torch.sparse_coo_tensor(torch.tensor([[k, k]]), torch.stack(
                        [dense[k] / 4, dense[k] - dense[k] / 4]), (2,))
                twin.grad = dense
            for opt, driven in zip(opts[:1 if info.only_supports_sparse_grads else 2], schedulers, strict=False):
                opt.step()
                drive(driven, torch.tensor(1.0 / (1 + turn)))
            if not info.only_supports_sparse_grads:        # (x / 4 + (x - x / 4) is rounded once more than x)
                close(params, twins, atol=5e-6, rtol=5e-6)
        assert all(param.isfinite().all() and not torch.equal(param, torch.full_like(param, 1.5)) for param in params)


@each([info for info in INFOS if info.supports_complex])
def test_complex_numbers_are_pairs(info):
    for keywords in inputs(info, "differentiable", "fused", dtype=torch.complex64):
        torch.manual_seed(0)
        complexes = [torch.randn(10, 5, dtype=torch.complex64, requires_grad=True),
                     torch.randn(4, 2, requires_grad=True)]
        pairs = [torch.view_as_real(complexes[0]).detach().clone().requires_grad_(),
                 complexes[1].detach().clone().requires_grad_()]
        opts = [ours(info)(params, **keywords) for params in (complexes, pairs)]
        for _ in range(3):
            pairs[0].grad, pairs[1].grad = torch.randn_like(pairs[0]), torch.randn_like(pairs[1])
            complexes[0].grad, complexes[1].grad = torch.view_as_complex(pairs[0].grad), pairs[1].grad.clone()
            for opt in opts:
                opt.step(lambda: torch.tensor(1.0))
            close([torch.view_as_real(complexes[0]), complexes[1]], pairs)


# What must change nothing

@each(INFOS)
def test_a_step_without_a_gradient_changes_nothing(info):
    for keywords in inputs(info):
        params = [torch.randn(2, 3) for _ in range(2)]     # (that need no gradient)
        before = copy.deepcopy(params)
        ours(info)(params, **keywords).step(lambda: torch.tensor([1.0]))
        close(params, before, rtol=0, atol=0)


@each([info for info in INFOS if info.optim_cls.__name__ != "ASGD"])       # (it decays by default)
def test_gradients_of_zeros_change_nothing(info):
    for keywords in inputs(info):
        if keywords.get("weight_decay", 0) != 0:
            continue
        if "weight_decay" in info.optim_cls.__init__.__annotations__:
            keywords["weight_decay"] = 0.0                 # (AdamW and Muon decay by default)
        leaf = torch.randn(5, 1, requires_grad=True)
        param = leaf.clone() if keywords.get("differentiable") else leaf
        opt = ours(info)([param], **keywords)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")                # (torch says once that it does not check the indices)
            param.grad = torch.zeros_like(param) if not info.only_supports_sparse_grads else \
                torch.sparse_coo_tensor(torch.empty((1, 0)), torch.empty((0, 1)), (5, 1))
        opt.step(lambda: torch.tensor([1.0]))
        close(param.detach(), leaf.detach(), rtol=0, atol=0)


@each([info for info in INFOS if "fused" in info.supported_impls])
@pytest.mark.parametrize("scale", [None, torch.ones(1)])
def test_a_step_of_an_infinite_gradient_is_left_out(info, scale):
    for keywords in [given.kwargs for given in info.optim_inputs_func(device="cpu")]:
        params = [torch.ones(1) for _ in range(3)]
        for param in params:
            param.grad = torch.ones_like(param)
        opt = ours(info)(params, fused=True, **keywords)
        opt.grad_scale, opt.found_inf = scale, torch.ones(())
        opt.step()
        assert all(torch.equal(param, torch.ones(1)) and opt.state[param].get("step", 0) == 0 for param in params)


@each([info for info in INFOS if "fused" in info.supported_impls])
def test_parameters_without_memory_are_refused_in_torchs_words(info):
    model = torch.nn.Linear(2, 3, device="meta")
    opt = ours(info)(model.parameters(), fused=True)
    for param in model.parameters():
        param.grad = torch.rand_like(param)
    with pytest.raises(RuntimeError, match="`fused=True` requires all the params to be floating point Tensors"):
        opt.step()
    opt.zero_grad()
    model.to_empty(device="cpu")
    opt.step()


# How it is computed changes nothing

@each([info for info in INFOS if {"foreach", "fused"} & set(info.supported_impls)])
@pytest.mark.parametrize("flag, dtype", [("foreach", torch.float64), *(
    ("fused", dtype) for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64))])
def test_flags_change_no_bit(info, flag, dtype):
    if flag not in info.supported_impls:
        return
    for keywords in [given.kwargs for given in info.optim_inputs_func(device="cpu", dtype=dtype)]:
        runs = []
        for value in (False, True):
            torch.manual_seed(1)
            model = torch.nn.Sequential(torch.nn.Linear(2, 3, bias=not is_muon(info)), torch.nn.Sigmoid(),
                                        torch.nn.Linear(3, 1, bias=not is_muon(info))).to(dtype)
            single = torch.ones((1, 1) if is_muon(info) else (), dtype=dtype, requires_grad=True)
            single.grad = torch.full_like(single, 0.25)
            opt = ours(info)([*model.parameters(), single], **copy.deepcopy({**keywords, flag: value}))
            for turn in range(7):
                opt.zero_grad()
                if turn in (3, 5):     # (a layer is frozen, and trained again)
                    model[2].requires_grad_(turn == 5)
                if turn != 2:
                    model(torch.linspace(0, 1, 6, dtype=dtype).reshape(3, 2)).sum().backward()
                opt.step()
            runs.append((list(model.parameters()), opt))
        (params, opt), (others, other) = runs
        for param, twin in zip(params, others, strict=True):
            assert torch.equal(param, twin) and same(dict(opt.state[param]), dict(other.state[twin]))


def gradients_through_steps(cls, keywords):
    """What a loss after a step has as gradients of where the step began and of the gradient that it took."""
    start, pull = (torch.tensor(values, dtype=torch.float64, requires_grad=True)
                   for values in ([0.5, -1.0, 2.0], [0.3, -0.2, 0.7]))
    param = start.clone()
    opt = cls([param], **copy.deepcopy({**keywords, "differentiable": True}))
    param.grad = pull
    opt.step()
    param.square().sum().backward()
    return [param.detach(), start.grad, pull.grad], opt


@each([info for info in INFOS if "differentiable" in info.supported_impls])
def test_autograd_follows_the_steps_of_differentiable(info):
    for keywords in [given.kwargs for given in info.optim_inputs_func(device="cpu")]:
        keywords = {name: value for name, value in keywords.items() if not isinstance(value, torch.Tensor)}
        got, opt = gradients_through_steps(ours(info), keywords)
        want, other = gradients_through_steps(info.optim_cls, keywords)
        assert same(got, want)
        twin = copy.deepcopy(opt.state_dict())
        assert set(twin["state"].get(0, {})) == set(other.state_dict()["state"].get(0, {}))
        again = ours(info)([torch.nn.Parameter(got[0])], **copy.deepcopy({**keywords, "differentiable": True}))
        again.load_state_dict(twin)
        assert same(again.state_dict()["state"], twin["state"])


def test_differentiable_goes_with_none_of_fastlrs_keywords():
    with pytest.raises(ValueError, match="AdamW: differentiable=True takes torch's own steps, which have no clip_norm, "
                                         "zero_grads; leave one of them out"):
        fastlr.torch.AdamW([torch.ones(2)], differentiable=True, clip_norm=1.0, zero_grads=True)


def test_a_constraint_that_comes_later_is_refused_beside_differentiable():
    param, other = torch.ones(2), torch.ones(3)
    opt = fastlr.torch.AdamW([param], differentiable=True)
    constrained = {"params": [other], "constraint": fastlr.constraints.box(0.0, 0.5)}
    refused = pytest.raises(ValueError, match="AdamW: differentiable=True takes torch's own steps, which have no constraint")
    with refused:
        opt.add_param_group(constrained)
    assert len(opt.param_groups) == 1
    with refused:
        opt.load_state_dict(fastlr.torch.AdamW([{**constrained, "params": [torch.ones(2)]}], lr=0.5).state_dict())
    assert "constraint" not in opt.param_groups[0] and opt.param_groups[0]["lr"] == 1e-3
    opt.param_groups[0]["constraint"] = constrained["constraint"]
    param.grad = torch.ones(2)
    with refused:
        opt.step()
    assert param.tolist() == [1, 1]
    opt.param_groups[0]["constraint"] = None
    opt.step()
    with pytest.raises(ValueError, match="AdamW: differentiable=True takes torch's own steps, which have no measure"):
        opt.measure()
    opt.measure(False)
    assert param[0] < 1 and not opt.measures


# State

@each(INFOS)
@pytest.mark.parametrize("names", [(False, False), (True, False), (False, True), (True, True)])
def test_a_loaded_optimizer_goes_on_alike(info, names):
    for keywords in inputs(info, "differentiable"):
        params = layer(info)
        opt = ours(info)(named(params, names[0]), **keywords)
        for _ in range(10):
            advance(opt, closure_of(info, opt, params))
        twins = [torch.nn.Parameter(param.detach().clone()) for param in params]
        other = ours(info)(named(twins, names[1]), **keywords)
        other.load_state_dict(copy.deepcopy(opt.state_dict()))
        for _ in range(10):
            advance(opt, closure_of(info, opt, params))
            advance(other, closure_of(info, other, twins))
            assert all(torch.equal(*pair) for pair in zip(params, twins, strict=True))
        assert same(without_names(opt.state_dict()), without_names(other.state_dict()))
        if any(names):
            assert other.state_dict()["param_groups"][0]["param_names"] == ["name0", "name1"]
        other.param_groups.extend(other.param_groups)      # (parameters that are there twice have one number)
        assert same(without_names(opt.state_dict())["param_groups"][-1],
                    without_names(other.state_dict())["param_groups"][-1])


@each(INFOS)
def test_dictionaries_are_saved_without_code_and_older_ones_load(info):
    for keywords in inputs(info, "differentiable"):
        params = layer(info)
        opt = ours(info)(named(params), **keywords)
        closure = closure_of(info, opt, params)
        for _ in range(3):
            advance(opt, closure)
        state = opt.state_dict()
        file = io.BytesIO()
        torch.save(state, file)
        file.seek(0)
        assert same(torch.load(file, weights_only=True), state)
        state = copy.deepcopy(state)
        for group in state["param_groups"]:
            for flag in info.not_og_supported_flags:
                group.pop(flag, None)
        for entry in state["state"].values():
            if torch.is_tensor(entry.get("step")):
                entry["step"] = entry["step"].item()
        opt.load_state_dict(state)
        advance(opt, closure)


@each(INFOS)
def test_copies_have_all_attributes_and_moved_parameters_state(info):
    for keywords in inputs(info, "differentiable"):
        params = layer(info)
        opt = ours(info)(params, **keywords)
        for _ in range(3):
            advance(opt, closure_of(info, opt, params))
        twin = copy.deepcopy(opt)
        assert {name for name in vars(opt) if name[0] != "_"} == {name for name in vars(twin) if name[0] != "_"}
        assert all(len(entry) > 0 for entry in opt.state.values())
        assert str(opt) == str(twin)


# Hooks

@each(INFOS)
def test_hooks_of_dictionaries(info):
    def enter(opt):
        opt.state["entered"] = 1

    def take_out(opt, state):
        state["taken"] = state["state"].pop("entered", None)

    def set_rate(rate, opt, state):
        state = copy.deepcopy(state)
        state["param_groups"][0]["lr"] = rate
        return state

    for keywords in inputs(info):
        opt = ours(info)([torch.rand(2, 3, requires_grad=True)], **keywords)
        opt.register_state_dict_post_hook(take_out)
        assert opt.state_dict()["taken"] is None
        opt.register_state_dict_pre_hook(enter)
        assert opt.state_dict()["taken"] == 1
        opt = ours(info)([torch.rand(2, 3, requires_grad=True)], **keywords)
        opt.register_load_state_dict_pre_hook(functools.partial(set_rate, 0.002))
        opt.register_load_state_dict_pre_hook(functools.partial(set_rate, 0.003), prepend=True)
        opt.register_load_state_dict_post_hook(lambda opt: opt.state["rates"].setdefault("seen", opt.param_groups[0]["lr"]))
        opt.load_state_dict(opt.state_dict())
        assert opt.param_groups[0]["lr"] == opt.state["rates"]["seen"] == 0.002


@each(INFOS)
def test_hooks_of_steps(info):
    calls = []

    def hook(number):
        return lambda opt, arguments, keywords: calls.append(number)

    for keywords in inputs(info):
        params = [torch.ones(2, 2)]
        opts = [ours(info)(params, **keywords), fastlr.torch.SGD(params)]
        handles = [register_optimizer_step_pre_hook(hook(0)), register_optimizer_step_post_hook(hook(3))]
        for opt in opts:
            handles += [opt.register_step_pre_hook(hook(1)), opt.register_step_post_hook(hook(2))]
        calls.clear()
        for opt in opts * 2:
            opt.step()
        for handle in handles:
            handle.remove()
        opts[0].step()
        assert calls == [0, 1, 2, 3] * 4


def test_a_quasi_newton_step_returns_what_its_closure_returns():
    for tolerance in (math.inf, -math.inf):
        opt = fastlr.torch.LBFGS([torch.randn(10, 5)], tolerance_grad=tolerance)
        assert isinstance(opt.step(lambda: torch.tensor([10.0])), torch.Tensor)
