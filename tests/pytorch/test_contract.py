"""What callers of `torch.optim.Optimizer` rely on, line by line."""
import copy
import ctypes
import gc
import inspect
import io
import pickle
import weakref
from collections import defaultdict

import pytest
import torch
from peers import CASES, DENSE, data, label, network, train, trained
from torch.optim import lr_scheduler
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

import fastlr
import fastlr.torch
from fastlr.optimizers.rule_class import REGISTRY


def vector(*values, dtype=torch.float32, grad=None):
    param = torch.nn.Parameter(torch.tensor(values, dtype=dtype))
    if grad is not None:
        param.grad = torch.tensor(grad, dtype=dtype)
    return param


def pair(name="AdamW", seed=0, shape=(3, 4), dtype=torch.float64, count=2, **keywords):
    """The same parameters in ours and in torch's."""
    made = []
    for module in (fastlr.torch, torch.optim):
        torch.manual_seed(seed)
        params = [torch.nn.Parameter(torch.randn(shape, dtype=dtype)) for _ in range(count)]
        made.append((params, getattr(module, name)(params, **keywords)))
    return made


def give(params, seed):
    generator = torch.Generator().manual_seed(seed)
    for param in params:
        param.grad = torch.randn(param.shape, generator=generator, dtype=param.dtype)


def same(ours, theirs, rtol=1e-12):
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one.detach(), other.detach(), rtol=rtol, atol=rtol)


# Construction

@pytest.mark.parametrize("case", CASES, ids=label)
def test_the_signature_is_torchs_and_fastlrs_keywords(case):
    ours, theirs = (getattr(module, case[0]) for module in (fastlr.torch, torch.optim))
    own, their = (list(inspect.signature(cls).parameters.values()) for cls in (ours, theirs))
    assert own[:len(their)] == their
    assert "state_dtype" in inspect.signature(ours).parameters
    assert issubclass(ours, theirs) and issubclass(ours, fastlr.torch.Optimizer)
    repr(ours([torch.nn.Parameter(torch.zeros(2, 2))], **case[1]))


def test_every_optimizer_of_the_registry_is_a_torch_optimizer():
    for cls in REGISTRY.values():
        made = getattr(fastlr.torch, cls.__name__)
        assert issubclass(made, torch.optim.Optimizer)
        opt = made([torch.nn.Parameter(torch.ones(4, 4))])
        assert opt.param_groups[0]["lr"] == inspect.signature(made).parameters["lr"].default
        assert cls.__name__ in dir(fastlr.torch)
        assert "lr" in inspect.signature(made).parameters


@pytest.mark.parametrize("spelling, torchs", [("AdaGrad", "Adagrad"), ("AdaDelta", "Adadelta"), ("AdaMax", "Adamax")])
def test_what_torch_spells_otherwise_has_torchs_spelling(spelling, torchs):
    assert getattr(fastlr.torch, spelling) is getattr(fastlr.torch, torchs)
    assert getattr(fastlr.torch, torchs).__name__ == torchs


def test_an_unknown_name_says_which_is_near():
    with pytest.raises(AttributeError, match="'fastlr.torch' has no attribute 'Lyon'; did you mean 'Lion'"):
        _ = fastlr.torch.Lyon
    with pytest.raises(TypeError, match="Lion: unknown keyword 'beta_1'; did you mean 'beta1'"):
        fastlr.torch.Lion([vector(1.0)], beta_1=0.5)
    with pytest.raises(ValueError, match=r"Lion: beta1 must be in \[0, 1\), got 1.5"):
        fastlr.torch.Lion([vector(1.0)], beta1=1.5)


@pytest.mark.parametrize("name, word", [("Adam", "capturable"), ("Lion", "capturable"), ("Lion", "differentiable")])
def test_what_cannot_be_had_is_refused(name, word):
    with pytest.raises(ValueError, match=f"{name}: {word}=True is not supported"):
        getattr(fastlr.torch, name)([vector(1.0)], **{word: True})


@pytest.mark.parametrize("name", ["SGD", "AdamW"])
def test_an_unknown_keyword_and_a_schedule_are_refused_in_words(name):
    with pytest.raises(TypeError, match=f"{name}: unknown keyword 'clip_nrom'; did you mean 'clip_norm'"):
        getattr(fastlr.torch, name)([vector(1.0)], clip_nrom=1.0)
    with pytest.raises(TypeError, match=rf"{name}: lr must be a number.* got the schedule cosine; .*\.to_torch\(optimizer\)"):
        getattr(fastlr.torch, name)([vector(1.0)], fastlr.schedules.cosine(0.1, steps=10))


@pytest.mark.parametrize("name", ["SGD", "AdamW"])
@pytest.mark.parametrize("bound", [False, True])
def test_a_schedule_that_is_set_in_a_group_is_refused_at_the_step(name, bound):
    p = vector(1.0)
    opt = getattr(fastlr.torch, name)([p], lr=0.1)
    p.grad = torch.ones_like(p)
    if bound:
        opt.step()
    before = p.detach().clone()
    for value, what in ((fastlr.schedules.cosine(0.1, steps=10), "the schedule cosine"), (lambda t: 0.1, "<function")):
        opt.param_groups[0]["lr"] = value
        for _ in range(2):
            with pytest.raises(TypeError, match=rf"{name}: lr must be a number, as in torch, got {what}.*\.to_torch\(opt"):
                opt.step()
        assert torch.equal(p, before)
    opt.param_groups[0]["lr"] = 0.5
    opt.step()
    assert not torch.equal(p, before)


def test_a_schedule_in_a_group_of_a_class_of_fastlr_goes_on_after_it_was_loaded():
    def made(p):
        opt = fastlr.torch.Lion([p], lr=0.1)
        opt.param_groups[0]["lr"] = fastlr.schedules.linear(0.1, steps=8)
        return opt

    p = vector(1.0)
    opt = made(p)
    for _ in range(3):
        p.grad = torch.ones_like(p)
        opt.step()
    q = torch.nn.Parameter(p.detach().clone())
    other = made(q)
    other.load_state_dict(opt.state_dict())
    for param, each in ((p, opt), (q, other)):
        param.grad = torch.ones_like(param)
        each.step()
    assert torch.equal(p, q)


def test_what_is_no_leaf_or_no_tensor_is_refused_as_by_torch():
    with pytest.raises(ValueError, match="can't optimize a non-leaf Tensor"):
        fastlr.torch.AdamW([vector(1.0) * 2])
    with pytest.raises(TypeError, match="optimizer can only optimize Tensors"):
        fastlr.torch.AdamW([3.0])
    with pytest.raises(ValueError, match="optimizer got an empty parameter list"):
        fastlr.torch.AdamW([])


def test_meta_parameters_are_refused_at_the_step_that_would_move_them():
    param = torch.nn.Parameter(torch.empty(3, device="meta"))
    opt = fastlr.torch.AdamW([param])
    opt.step()
    param.grad = torch.empty(3, device="meta")
    with pytest.raises(RuntimeError, match="parameter 0 is on the meta device"):
        opt.step()


def test_a_parameter_of_integers_is_left_alone_until_it_has_a_gradient():
    frozen = torch.nn.Parameter(torch.arange(3), requires_grad=False)
    moved = vector(1.0, grad=[1.0])
    fastlr.torch.SGD([frozen, moved], lr=0.5).step()
    assert moved.item() == 0.5 and frozen.tolist() == [0, 1, 2]


def test_tensor_lr_is_read_at_each_step():
    lr = torch.tensor(0.5)
    param = vector(1.0)
    opt = fastlr.torch.SGD([param], lr=lr)
    param.grad = torch.ones(1)
    opt.step()
    lr.fill_(0.25)
    opt.step()
    assert param.item() == 0.25


# param_groups are the truth

def test_values_set_between_steps_act_at_the_next():
    (ours, a), (theirs, b) = pair(weight_decay=0.1)
    for t in range(6):
        for params, opt in ((ours, a), (theirs, b)):
            group = opt.param_groups[0]
            if t == 2:
                group["lr"], group["betas"] = 0.05, (0.5, 0.9)
            if t == 3:
                group["weight_decay"], group["maximize"] = 0.5, True
            if t == 4:
                group["amsgrad"], group["eps"] = False, 1e-3
            give(params, t)
            opt.step()
        same(ours, theirs)


def test_groups_may_be_of_different_rules():
    made = []
    for module in (fastlr.torch, torch.optim):
        torch.manual_seed(0)
        params = [torch.nn.Parameter(torch.randn(5, dtype=torch.float64)) for _ in range(4)]
        opt = module.SGD([{"params": params[:1]}, {"params": params[1:2], "momentum": 0.9},
                          {"params": params[2:3], "momentum": 0.9, "nesterov": True, "maximize": True},
                          {"params": params[3:], "weight_decay": 0.1}], lr=0.1)
        for t in range(5):
            give(params, t)
            if t == 3:
                opt.param_groups[0]["momentum"] = 0.5
            opt.step()
        made.append(params)
    same(*made)


def test_groups_and_parameters_may_be_added_and_taken_away():
    (ours, a), (theirs, b) = pair(count=4)
    for params, opt in ((ours, a), (theirs, b)):
        del opt.param_groups[0]["params"][2:]
        for t in range(5):
            if t == 1:
                opt.add_param_group({"params": params[2], "lr": 0.1})
            if t == 2:
                opt.param_groups[0]["params"].append(params[3])
            if t == 3:
                opt.param_groups.extend([{**opt.param_groups[1], "params": [params[1]], "lr": 0.3}])
                del opt.param_groups[0]["params"][1]
            give(params, t)
            opt.step()
    same(ours, theirs)


def test_a_frozen_parameter_keeps_state_and_count():
    (ours, a), (theirs, b) = pair()
    for params, opt in ((ours, a), (theirs, b)):
        for t in range(6):
            give(params, t)
            if 2 <= t < 4:
                params[0].requires_grad_(False)
                params[0].grad = None
            else:
                params[0].requires_grad_(True)
            opt.step()
    same(ours, theirs)
    assert [float(a.state[param]["step"]) for param in ours] == [4, 6]
    assert [float(b.state[param]["step"]) for param in theirs] == [4, 6]


def test_swapped_data_is_what_moves():
    (ours, a), (theirs, b) = pair()
    for params, opt in ((ours, a), (theirs, b)):
        give(params, 0)
        opt.step()
        kept = params[0].data
        copy_of = kept.clone()
        params[0].data = torch.ones(3, 4, dtype=torch.float64)
        give(params, 1)
        opt.step()
        assert torch.equal(kept, copy_of)
    same(ours, theirs)
    same([a.state[ours[0]]["exp_avg"]], [b.state[theirs[0]]["exp_avg"]])


def test_a_model_loaded_with_assign_is_what_moves():
    model = torch.nn.Linear(2, 1, bias=False)
    opt = fastlr.torch.SGD(model.parameters(), lr=1.0)
    model.weight.grad = torch.ones(1, 2)
    opt.step()
    model.weight.data = torch.zeros(1, 2)
    opt.step()
    assert model.weight.tolist() == [[-1.0, -1.0]]


@pytest.mark.parametrize("shape", [(), (0,), (1,), (2, 0, 3), (1, 1, 5)], ids=str)
@pytest.mark.parametrize("name", ["SGD", "AdamW", "Rprop", "NAdam"])
def test_shapes_of_all_kinds(shape, name):
    (ours, a), (theirs, b) = pair(name, shape=shape)
    for t in range(3):
        for params, opt in ((ours, a), (theirs, b)):
            give(params, t)
            opt.step()
    same(ours, theirs, 1e-7 if name == "NAdam" else 1e-12)         # (torch's product of momenta is in float32)


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW", "Adagrad", "Adadelta", "RMSprop", "Adamax", "NAdam", "RAdam",
                                  "Rprop", "ASGD"])
def test_complex_parameters(name):
    keywords = {"momentum": 0.9} if name == "SGD" else {}
    (ours, a), (theirs, b) = pair(name, dtype=torch.complex128, **keywords)
    for t in range(4):
        for params, opt in ((ours, a), (theirs, b)):
            give(params, t)
            if t == 2:
                params[0].grad = params[0].grad.conj()
                if opt is b:           # (torch refuses what is not resolved yet)
                    params[0].grad = params[0].grad.resolve_conj()
            opt.step()
    same(ours, theirs, 1e-7 if name in ("ASGD", "NAdam") else 1e-12)
    for key, value in b.state[theirs[0]].items():
        if isinstance(value, torch.Tensor) and value.is_complex() and name != "ASGD":
            assert a.state[ours[0]][key].dtype == torch.complex128


@pytest.mark.parametrize("layout", ["transposed", "channels_last", "strided", "sliced"])
@pytest.mark.parametrize("gradient", ["like", "contiguous", "expanded", "negated"])
def test_any_layout(layout, gradient):
    made = []
    for module in (fastlr.torch, torch.optim):
        generator = torch.Generator().manual_seed(1)
        x = torch.randn(2, 4, 6, 8, generator=generator, dtype=torch.float64)
        x = {"transposed": x.transpose(1, 3), "channels_last": x.to(memory_format=torch.channels_last),
             "strided": x[:, ::2], "sliced": x[..., 1:]}[layout]
        param = torch.nn.Parameter(x)
        opt = module.AdamW([param], lr=0.1)
        for _ in range(3):
            g = torch.randn(param.shape, generator=generator, dtype=torch.float64)
            if gradient == "like":
                g = torch.empty_like(param).copy_(g)
            elif gradient == "expanded":
                g = torch.tensor(0.5, dtype=torch.float64).expand(param.shape)
            elif gradient == "negated":
                g = torch.complex(g, g).conj().imag
                assert g.is_neg()
            param.grad = g.detach()
            opt.step()
        made.append([param])
    same(*made)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_rounds_once(dtype):
    param = torch.nn.Parameter(torch.full((100,), 1.0, dtype=dtype))
    opt = fastlr.torch.SGD([param], lr=0.5)
    param.grad = torch.full((100,), 0.25, dtype=dtype)
    opt.step()
    assert torch.equal(param, torch.full((100,), 0.875, dtype=dtype))
    opt = fastlr.torch.AdamW([param])
    opt.step()
    assert opt.state[param]["exp_avg"].dtype == torch.float32


def test_a_tensor_subclass_moves():
    class Marked(torch.Tensor):
        pass

    param = torch.nn.Parameter(torch.ones(3).as_subclass(Marked))
    param.grad = torch.ones(3).as_subclass(Marked)
    fastlr.torch.SGD([param], lr=0.5).step()
    assert param.tolist() == [0.5] * 3


def test_frozen_parameters_cost_no_state_until_they_move():
    params = [vector(1.0, 2.0) for _ in range(4)]
    for param in params[:3]:
        param.requires_grad_(False)
    opt = fastlr.torch.AdamW([{"params": params[:2]}, {"params": params[2:]}], lr=0.1, ema_decay=0.5)
    params[3].grad = torch.ones(2)
    opt.step()
    assert [len(unit.params) for unit in opt._binding.units] == [1]
    params[0].requires_grad_(True)
    params[0].grad = torch.ones(2)
    opt.step()
    assert [float(opt.state[param]["step"]) for param in (params[0], params[3])] == [1.0, 2.0]
    assert params[1] not in opt.state and params[1].tolist() == [1.0, 2.0]


def test_counts_follow_the_default_dtype():
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float64)
        (ours, a), (theirs, b) = pair()
        for params, opt in ((ours, a), (theirs, b)):
            for t in range(3):
                give(params, t)
                opt.step()
        assert a.state[ours[0]]["step"].dtype == b.state[theirs[0]]["step"].dtype == torch.float64
        same(ours, theirs)
    finally:
        torch.set_default_dtype(before)


def test_a_subclass_with_a_step_of_its_own_calls_hooks_once():
    class Noisy(fastlr.torch.SGD):
        def step(self, closure=None):
            return super().step(closure)

    param = vector(1.0, grad=[1.0])
    opt = Noisy([param], lr=0.5)
    called = []
    opt.register_step_post_hook(lambda *_: called.append(1))
    opt.step()
    assert called == [1] and param.item() == 0.5


def test_a_class_from_outside_has_a_torch_optimizer():
    class Outsider(fastlr.Adam, rule="Adam"):
        """Adam under another name."""

    try:
        param, other = vector(1.0, grad=[1.0]), vector(1.0, grad=[1.0])
        fastlr.torch.Outsider([param], lr=0.1).step()
        fastlr.torch.Adam([other], lr=0.1).step()
        assert param.item() == other.item()
    finally:
        REGISTRY.pop("outsider")


# No gradient

@pytest.mark.parametrize("case", DENSE, ids=label)
def test_without_a_gradient_nothing_changes(case):
    name, keywords = case
    params = [torch.nn.Parameter(torch.ones(2, 2)), torch.nn.Parameter(torch.ones(2, 2))]
    opt = getattr(fastlr.torch, name)(params, **keywords)
    params[0].grad = torch.ones(2, 2)
    opt.step()
    assert torch.equal(params[1], torch.ones(2, 2))
    if name != "Adagrad":
        assert params[1] not in opt.state
    opt.zero_grad()
    before = copy.deepcopy(opt.state_dict())
    opt.step()
    after = opt.state_dict()
    assert str(before) == str(after)


def test_gradients_are_not_written():
    (ours, opt), _ = pair(weight_decay=0.1, maximize=True)
    give(ours, 0)
    before = [param.grad.clone() for param in ours]
    opt.step()
    assert all(torch.equal(one, param.grad) for one, param in zip(before, ours, strict=True))


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW"])
def test_a_step_of_zeros_with_lr_0_changes_nothing(name):
    (ours, opt), _ = pair(name, lr=0.0)
    before = [param.detach().clone() for param in ours]
    for param in ours:
        param.grad = torch.zeros_like(param)
    opt.step()
    assert all(torch.equal(one, param) for one, param in zip(before, ours, strict=True))


# State

@pytest.mark.parametrize("case", [case for case in DENSE if case[0] not in ("ASGD",)], ids=label)
def test_state_has_torchs_names_and_values(case):
    name, keywords = case
    shape = (3, 4)
    (ours, a), (theirs, b) = pair(name, shape=shape, **keywords)
    for t in range(3):
        for params, opt in ((ours, a), (theirs, b)):
            give(params, t)
            opt.step()
    loose = 1e-6 if name in ("NAdam", "Muon") else 1e-10
    for one, other in zip(ours, theirs, strict=True):
        assert a.state[one].keys() == b.state[other].keys()
        for key, value in b.state[other].items():
            mine = a.state[one][key]
            assert mine.shape == value.shape
            torch.testing.assert_close(mine.double(), value.double(), rtol=loose, atol=loose)


def test_tensors_of_state_are_what_moves():
    param = vector(1.0, 1.0, grad=[1.0, 1.0])
    opt = fastlr.torch.SGD([param], lr=1.0, momentum=0.5)
    opt.step()
    opt.state[param]["momentum_buffer"].zero_()
    opt.step()
    assert opt.state[param]["momentum_buffer"].tolist() == [1.0, 1.0]
    opt.state[param]["momentum_buffer"] = torch.full((2,), 4.0)
    param.data.zero_()
    opt.step()
    assert param.tolist() == [-3.0, -3.0] and opt.state[param]["momentum_buffer"].tolist() == [3.0, 3.0]


@pytest.mark.parametrize("how", ["clear", "new", "delete", "empty"])
def test_state_that_is_taken_away_begins_again(how):
    param = vector(1.0, grad=[1.0])
    opt = fastlr.torch.Adam([param], lr=0.1)
    for _ in range(3):
        opt.step()
    if how == "clear":
        opt.state.clear()
    elif how == "new":
        opt.state = defaultdict(dict)
    elif how == "delete":
        del opt.state[param]
    else:
        opt.state[param] = {}
    opt.step()
    assert float(opt.state[param]["step"]) == 1
    assert opt.state[param]["exp_avg"].item() == pytest.approx(0.1)


def test_a_count_that_is_set_counts():
    param = vector(1.0, grad=[1.0])
    opt = fastlr.torch.Adam([param])
    opt.step()
    opt.state[param]["step"].fill_(100)
    opt.step()
    assert float(opt.state[param]["step"]) == 101


def test_state_in_shared_memory_is_what_moves():
    param = vector(1.0, 1.0, grad=[1.0, 1.0])
    opt = fastlr.torch.Adagrad([param])
    opt.share_memory()
    opt.step()
    assert opt.state[param]["sum"].is_shared() and opt.state[param]["sum"].tolist() == [1.0, 1.0]
    opt = fastlr.torch.AdamW([param])
    opt.step()
    opt.state[param]["exp_avg"].share_memory_()
    opt.step()
    assert opt.state[param]["exp_avg"].is_shared()
    assert opt.state[param]["exp_avg"].tolist() == pytest.approx([0.19, 0.19])


# Hooks

def test_hooks_are_called_in_order_with_their_arguments():
    param = vector(1.0, grad=[1.0])
    opt = fastlr.torch.SGD([param], lr=0.1)
    called = []
    handles = [
        opt.register_step_pre_hook(lambda o, args, kwargs: called.append(("pre", args, kwargs))),
        opt.register_step_post_hook(lambda o, args, kwargs: called.append(("post", args, kwargs))),
        register_optimizer_step_pre_hook(lambda o, args, kwargs: called.append(("pre of all", args, kwargs))),
        register_optimizer_step_post_hook(lambda o, args, kwargs: called.append(("post of all", args, kwargs))),
    ]
    opt.step()
    assert [what for what, *_ in called] == ["pre of all", "pre", "post", "post of all"]
    assert called[0][1:] == ((opt,), {})
    for handle in handles:
        handle.remove()
    opt.step()
    assert len(called) == 4


def test_a_pre_hook_may_change_the_arguments():
    param = vector(1.0, grad=[1.0])
    opt = fastlr.torch.SGD([param], lr=0.1)
    opt.register_step_pre_hook(lambda o, args, kwargs: ((args[0], lambda: 7.0), {}))
    assert opt.step() == 7.0
    opt.register_step_pre_hook(lambda o, args, kwargs: 3)
    with pytest.raises(RuntimeError, match="must return None or a tuple"):
        opt.step()


def test_hooks_of_state_dicts():
    param = vector(1.0, grad=[1.0])
    opt = fastlr.torch.AdamW([param])
    opt.step()
    called = []
    opt.register_state_dict_pre_hook(lambda o: called.append("pre"))
    opt.register_state_dict_post_hook(lambda o, d: called.append("post") or {**d, "more": 1})
    opt.register_state_dict_post_hook(lambda o, d: called.append("first"), prepend=True)
    opt.register_load_state_dict_pre_hook(lambda o, d: called.append("load") or dict(d))
    opt.register_load_state_dict_post_hook(lambda o: called.append("loaded"))
    d = opt.state_dict()
    assert d["more"] == 1
    opt.load_state_dict(d)
    assert called == ["pre", "first", "post", "load", "loaded"]


def test_the_profiler_sees_steps():
    param = vector(1.0, grad=[1.0])
    opt = fastlr.torch.AdamW([param])
    with torch.profiler.profile() as profile:
        opt.step()
        opt.zero_grad()
    names = {event.key for event in profile.key_averages()}
    assert {"Optimizer.step#AdamW.step", "Optimizer.zero_grad#AdamW.zero_grad"} <= names


def test_a_closure_gives_the_loss_with_gradients_on():
    param = vector(1.0)
    opt = fastlr.torch.SGD([param], lr=0.5)

    def closure():
        opt.zero_grad()
        loss = (param ** 2).sum()
        loss.backward()
        return loss

    with torch.no_grad():
        assert opt.step(closure).item() == 1.0
    assert param.item() == 0.0


# Schedulers, scalers

SCHEDULERS = {
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda t: 0.9 ** t),
    "MultiplicativeLR": lambda o: lr_scheduler.MultiplicativeLR(o, lambda t: 0.9),
    "StepLR": lambda o: lr_scheduler.StepLR(o, 2), "MultiStepLR": lambda o: lr_scheduler.MultiStepLR(o, [2, 4]),
    "ConstantLR": lambda o: lr_scheduler.ConstantLR(o), "LinearLR": lambda o: lr_scheduler.LinearLR(o),
    "ExponentialLR": lambda o: lr_scheduler.ExponentialLR(o, 0.9),
    "PolynomialLR": lambda o: lr_scheduler.PolynomialLR(o, 5),
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, 5),
    "CosineAnnealingWarmRestarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 3),
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(o, 0.01, 0.1, cycle_momentum=False),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=10),
    "ReduceLROnPlateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=1),
    "SequentialLR": lambda o: lr_scheduler.SequentialLR(o, [lr_scheduler.LinearLR(o), lr_scheduler.ExponentialLR(o, 0.9)],
                                                        [3]),
}


@pytest.mark.parametrize("name", ["SGD", "AdamW"])
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_every_scheduler_pairs(scheduler, name):
    made = []
    keywords = {"momentum": 0.9} if name == "SGD" else {}
    for params, opt in pair(name, lr=0.1, **keywords):
        plan = SCHEDULERS[scheduler](opt)
        for t in range(8):
            give(params, t)
            opt.step()
            plan.step(*([1.0] if scheduler == "ReduceLROnPlateau" else []))
        made.append(params)
    same(*made)


@pytest.mark.parametrize("overflow", [False, True])
def test_grad_scaler_on_the_cpu(overflow):
    made = []
    for params, opt in pair(dtype=torch.float32):
        scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=2)
        for t in range(6):
            opt.zero_grad()
            x = torch.full((4,), float("inf") if overflow and t == 2 else 0.5)
            loss = sum((param @ x).square().sum() for param in params)
            scaler.scale(loss).backward()
            if t % 2:
                scaler.unscale_(opt)
            scaler.step(opt)
            scaler.update()
        made.append(params)
    same(*made, 1e-6)


def test_step_has_no_grad_scaler_argument():
    for name in ("AdamW", "Lion", "PolyakSGD"):
        cls = getattr(fastlr.torch, name)
        assert cls._step_supports_amp_scaling
        assert "grad_scaler" not in inspect.signature(cls.step).parameters


# Autograd

def test_each_step_counts_as_a_write():
    param = vector(1.0, 2.0)
    other = vector(1.0)
    opt = fastlr.torch.SGD([param, other], lr=0.1)
    loss = (param * param).sum()
    param.grad = torch.ones(2)
    before = param._version, other._version
    opt.step()
    assert (param._version > before[0], other._version) == (True, before[1])
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_steps_with_autograd_on_are_no_part_of_a_graph():
    param = vector(1.0, grad=[1.0])
    fastlr.torch.AdamW([param]).step()
    assert param.is_leaf and param.grad_fn is None


# Copies

@pytest.mark.parametrize("case", DENSE, ids=label)
def test_copies_go_on_as_the_original(case):
    name, keywords = case
    (params, opt), _ = pair(name, **keywords)
    for t in range(3):
        give(params, t)
        opt.step()
    copied_params, copied = copy.deepcopy((params, opt))
    pickled_params, pickled = pickle.loads(pickle.dumps((params, opt)))
    for t in range(3, 6):
        for some, each in ((params, opt), (copied_params, copied), (pickled_params, pickled)):
            give(some, t)
            each.step()
    for other in (copied_params, pickled_params):
        assert all(torch.equal(one, two) for one, two in zip(params, other, strict=True))


@pytest.mark.parametrize("name", ["SGD", "AdamW", "Lion", "LAMB", "Muon"])
def test_what_it_holds_is_freed_with_its_last_name(name):
    gc.collect()
    gc.disable()                       # (which would free what refers to itself, some time)
    try:
        param = torch.nn.Parameter(torch.ones(4, 3))
        opt = getattr(fastlr.torch, name)([param], lr=0.5)
        scheduler = torch.optim.lr_scheduler.LambdaLR(opt, lambda epoch: 1.0)
        param.sum().backward()
        opt.step()
        scheduler.step()
        opt.load_state_dict(opt.state_dict())
        gone = [weakref.ref(x) for x in (param, opt, scheduler)]
        del param, opt, scheduler
        assert all(reference() is None for reference in gone)
    finally:
        gc.enable()


def test_two_optimizers_never_share_state():
    (params, opt), _ = pair()
    give(params, 0)
    opt.step()
    other = fastlr.torch.AdamW(params)
    other.load_state_dict(opt.state_dict())
    before = copy.deepcopy(opt.state_dict())
    give(params, 1)
    other.step()
    assert str(opt.state_dict()) == str(before)


# State dictionaries

@pytest.mark.parametrize("case", DENSE, ids=label)
@pytest.mark.parametrize("direction", ["from torch", "into torch"])
def test_state_dicts_load_both_ways(case, direction):
    name, keywords = case
    (ours, a), (theirs, b) = pair(name, **keywords)
    for t in range(4):
        for params, opt in ((ours, a), (theirs, b)):
            give(params, t)
            opt.step()
    source, into = (b, fastlr.torch) if direction == "from torch" else (a, torch.optim)
    params = [torch.nn.Parameter(param.detach().clone()) for param in theirs]
    loaded = getattr(into, name)(params, lr=123.0)
    buffer = io.BytesIO()
    torch.save(source.state_dict(), buffer)
    buffer.seek(0)
    loaded.load_state_dict(torch.load(buffer, weights_only=True))
    assert loaded.param_groups[0]["lr"] == b.param_groups[0]["lr"]
    for t in range(4, 8):
        for some, opt in ((theirs, b), (params, loaded)):
            give(some, t)
            opt.step()
    same(params, theirs, 1e-2 if name == "Muon" else 1e-6 if name in ("ASGD", "NAdam") else 1e-10)


@pytest.mark.parametrize("keywords", [
    {"state_dtype": "bfloat16"}, {"state_dtype": "float16"}, {"state_dtype": "int8"}, {"state_dtype": "float64"},
    {"state_dtype": "bfloat16", "rounding": "stochastic", "seed": 3}, {"ema_decay": 0.9},
], ids=str)
@pytest.mark.parametrize("name", ["AdamW", "SGD", "Lion", "NAdam"])
def test_loading_keeps_every_bit(name, keywords):
    more = {"momentum": 0.9} if name == "SGD" else {}

    def fresh():
        torch.manual_seed(1)
        params = [torch.nn.Parameter(torch.randn(70, 70)), torch.nn.Parameter(torch.randn(5))]
        return params, getattr(fastlr.torch, name)(params, lr=0.01, **more, **keywords)

    params, opt = fresh()
    again, other = fresh()
    for t in range(6):
        give(params, t)
        opt.step()
        if t == 2:
            for one, two in zip(again, params, strict=True):
                one.data.copy_(two)
            other.load_state_dict(copy.deepcopy(opt.state_dict()))
        if t > 2:
            give(again, t)
            other.step()
    assert all(torch.equal(one, two) for one, two in zip(params, again, strict=True))


def test_a_split_master_survives_loading():
    def fresh():
        torch.manual_seed(1)
        param = torch.nn.Parameter(torch.randn(300).bfloat16())
        return param, fastlr.torch.AdamW([param], lr=1e-3, master="split")

    param, opt = fresh()
    whole = torch.nn.Parameter(param.detach().float())
    reference = fastlr.torch.AdamW([whole], lr=1e-3)
    again, other = fresh()
    for t in range(20):
        generator = torch.Generator().manual_seed(t)
        g = torch.randn(300, generator=generator)
        param.grad, whole.grad, again.grad = g.bfloat16(), g.bfloat16().float(), g.bfloat16()
        opt.step()
        reference.step()
        if t == 9:
            again.data.copy_(param)
            other.load_state_dict(opt.state_dict())
        elif t > 9:
            other.step()
    assert torch.equal(param, whole.bfloat16()) and torch.equal(again, param)
    assert opt.state[param]["remainder"].dtype == torch.int16


def test_older_dictionaries_load():
    (ours, a), (theirs, b) = pair("Adam")
    for t in range(3):
        for params, opt in ((ours, a), (theirs, b)):
            give(params, t)
            opt.step()
    d = copy.deepcopy(b.state_dict())
    for group in d["param_groups"]:
        for name in ("foreach", "maximize", "capturable", "differentiable", "fused", "decoupled_weight_decay"):
            group.pop(name, None)
    for entry in d["state"].values():
        entry["step"] = int(entry["step"])
    a.load_state_dict(d)
    for t in range(3, 6):
        for params, opt in ((ours, a), (theirs, b)):
            give(params, t)
            opt.step()
    same(ours, theirs)


def test_a_dictionary_that_does_not_fit_changes_nothing():
    (params, opt), _ = pair()
    give(params, 0)
    opt.step()
    before = str(opt.state_dict())
    with pytest.raises(ValueError, match="different number of parameter groups"):
        opt.load_state_dict({"state": {}, "param_groups": []})
    with pytest.raises(ValueError, match="doesn't match the size of optimizer's group"):
        opt.load_state_dict({"state": {}, "param_groups": [{"params": [0]}]})
    wrong = copy.deepcopy(opt.state_dict())
    wrong["state"][0]["exp_avg"] = torch.zeros(7)
    with pytest.raises(ValueError, match="exp_avg: expected float64 .3, 4., got float32 .7,."):
        opt.load_state_dict(wrong)
    assert str(opt.state_dict()) == before


def test_names_of_parameters_are_kept():
    net = network()
    opt = fastlr.torch.AdamW(net.named_parameters())
    train(net, opt, 1)
    d = opt.state_dict()
    assert d["param_groups"][0]["param_names"][0] == "gain"
    opt.load_state_dict(d)
    assert opt.state_dict()["param_groups"][0]["param_names"] == d["param_groups"][0]["param_names"]


# Bad gradients

def test_a_gradient_of_another_dtype_is_refused_before_anything_moves():
    params = [vector(1.0, 2.0, grad=[1.0, 1.0]), vector(1.0, 2.0)]
    params[1].grad_dtype = None
    params[1].grad = torch.ones(2, dtype=torch.float64)
    opt = fastlr.torch.SGD(params, lr=0.5)
    with pytest.raises(ValueError, match="the gradient of parameter 1: expected float32 .2,. like the parameter, got float64"):
        opt.step()
    assert params[0].tolist() == [1.0, 2.0]


def test_a_gradient_in_a_parameters_memory_is_refused():
    param = vector(1.0, 2.0, 3.0, 4.0)
    opt = fastlr.torch.SGD([param], lr=0.5)
    param.grad = param.data
    with pytest.raises(ValueError, match="the gradient of parameter 0 shares memory with parameter 0"):
        opt.step()
    assert param.tolist() == [1.0, 2.0, 3.0, 4.0]


def test_a_parameter_whose_elements_share_memory_is_refused():
    param = torch.nn.Parameter(torch.ones(1).expand(3))
    param.grad = torch.ones(3)
    with pytest.raises(ValueError, match="elements of parameter 0 share memory"):
        fastlr.torch.SGD([param]).step()


def test_a_resized_storage_is_noticed():
    param = vector(1.0, 2.0, grad=[1.0, 1.0])
    opt = fastlr.torch.SGD([param], lr=0.5)
    opt.step()
    param.data.untyped_storage().resize_(0)
    param.data.untyped_storage().resize_(8)
    param.data.copy_(torch.tensor([5.0, 6.0]))
    opt.step()
    assert param.tolist() == [4.5, 5.5]


# fastlr's own keywords

def test_clip_norm_is_of_all_groups_together():
    made = []
    for own in (True, False):
        params = [vector(1.0, 1.0), vector(1.0)]
        module = fastlr.torch if own else torch.optim
        opt = module.SGD([{"params": params[:1]}, {"params": params[1:], "momentum": 0.9}], lr=0.1,
                         **({"clip_norm": 1.0} if own else {}))
        for t in range(3):
            params[0].grad, params[1].grad = torch.tensor([3.0, 0.0]) * t, torch.tensor([4.0])
            if not own:
                torch.nn.utils.clip_grad_norm_(params, 1.0)
            opt.step()
        made.append(params)
    same(*made, 1e-6)


def test_nonfinite_gradients_are_skipped():
    for keywords in ({}, {"momentum": 0.5}):
        params = [vector(1.0, grad=[float("nan")]), vector(1.0, grad=[1.0])]
        opt = fastlr.torch.SGD([{"params": params[:1]}, {"params": params[1:], **keywords}], lr=0.5, nonfinite="skip")
        opt.step()
        assert [param.item() for param in params] == [1.0, 1.0]
        assert opt.skipped == 1
        params[0].grad = torch.ones(1)
        opt.step()
        assert [param.item() for param in params] == [0.5, 0.5]


def test_zero_grads_zeroes_in_the_pass():
    param = vector(1.0, 2.0, grad=[1.0, 1.0])
    opt = fastlr.torch.AdamW([param], zero_grads=True, clip_norm=0.5)
    memory = param.grad.data_ptr()
    opt.step()
    assert param.grad.tolist() == [0.0, 0.0] and param.grad.data_ptr() == memory
    assert opt.grad_norm == pytest.approx(2 ** 0.5)
    opt.clip_norm = 0.1
    opt.step()
    assert opt.clip_norm == 0.1


def test_clip_grad_norm():
    for shapes in ([(3,), (4, 5), ()], [(600, 600)], [(2, 3)]):
        grads = [torch.randn(shape, generator=torch.Generator().manual_seed(k)) for k, shape in enumerate(shapes)]
        for bound in (0.1, 1e6):
            made = []
            for clip in (fastlr.torch.clip_grad_norm_, torch.nn.utils.clip_grad_norm_):
                params = [torch.nn.Parameter(torch.zeros(shape)) for shape in shapes]
                for param, grad in zip(params, grads, strict=True):
                    param.grad = grad.clone()
                norm = clip(params, bound)
                made.append((norm, [param.grad for param in params]))
            torch.testing.assert_close(*made, rtol=2e-6, atol=1e-9)
    with pytest.raises(RuntimeError, match="non-finite"):
        fastlr.torch.clip_grad_norm_([vector(1.0, grad=[float("inf")])], 1.0, error_if_nonfinite=True)


def test_a_rule_that_needs_the_loss_takes_it_from_the_closure():
    param = vector(4.0, 2.0)
    opt = fastlr.torch.PolyakSGD([param])

    def closure():
        opt.zero_grad()
        loss = 0.5 * (param @ param)
        loss.backward()
        return loss

    opt.step(closure)
    assert param.tolist() == [2.0, 1.0]
    param.grad = param.detach().clone()
    opt.step(loss=2.5)
    assert param.tolist() == [1.0, 0.5]
    with pytest.raises(TypeError, match="PolyakSGD: step needs the loss"):
        opt.step()


def test_a_rule_that_needs_the_curvature_is_given_it():
    param = vector(1.0, -1.0, grad=[2.0, -3.0])
    opt = fastlr.torch.Sophia([param], lr=0.1)
    opt.step(curvature=[torch.ones(2)])
    array = torch.tensor([1.0, -1.0]).numpy()
    reference = fastlr.Sophia(array, lr=0.1)
    reference.step(torch.tensor([2.0, -3.0]).numpy(), curvature=torch.ones(2).numpy())
    assert param.tolist() == array.tolist()
    opt.step()


# Sparse gradients

def table_grad(rows, values, size):
    return torch.sparse_coo_tensor(torch.tensor([rows]), torch.tensor(values), size, check_invariants=True)


@pytest.mark.filterwarnings("ignore:Sparse invariant checks are implicitly disabled")      # (torch's own Adagrad)
@pytest.mark.parametrize("name", ["SparseAdam", "SGD", "Adagrad"])
def test_sparse_gradients_move_rows_as_torchs(name):
    made = []
    for module in (fastlr.torch, torch.optim):
        torch.manual_seed(0)
        table = torch.nn.Parameter(torch.randn(6, 3))
        opt = getattr(module, name)([table], lr=0.1)
        for t in range(4):
            table.grad = table_grad([1, t, 1], [[1.0, 2.0, 3.0], [0.5, 0.5, 0.5], [1.0, 1.0, -1.0]], (6, 3))
            opt.step()
        made.append([table])
    same(*made, 1e-6)


def test_an_embedding_and_a_dense_layer_together():
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Embedding(10, 4, sparse=True), torch.nn.Linear(4, 1))
    opt = fastlr.torch.AdamW(net.parameters(), lr=0.1)
    untouched = net[0].weight.detach().clone()
    for _ in range(3):
        opt.zero_grad()
        net(torch.tensor([1, 2])).sum().backward()
        opt.step()
    moved = (net[0].weight != untouched).any(dim=1)
    assert moved.tolist() == [k in (1, 2) for k in range(10)]
    assert [float(opt.state[param]["step"]) for param in net.parameters()] == [3.0, 3.0, 3.0]


def test_sparse_elements_of_any_axes():
    made = []
    for module in (fastlr.torch, torch.optim):
        torch.manual_seed(0)
        param = torch.nn.Parameter(torch.randn(4, 3))
        opt = module.SparseAdam([param], lr=0.1)
        for t in range(3):
            g = torch.zeros(4, 3)
            g[t, 1] = g[3, 2] = 1.0 + t
            param.grad = g.to_sparse()
            opt.step()
        made.append([param])
    same(*made, 1e-6)


def test_dense_gradients_of_sparse_adam_are_refused_as_by_torch():
    param = vector(1.0, grad=[1.0])
    with pytest.raises(RuntimeError, match="SparseAdam does not support dense gradients, please consider Adam instead"):
        fastlr.torch.SparseAdam([param]).step()


def test_rules_that_see_more_than_an_element_refuse_sparse_gradients():
    table = torch.nn.Parameter(torch.zeros(6, 3))
    table.grad = table_grad([1], [[1.0, 1.0, 1.0]], (6, 3))
    with pytest.raises(RuntimeError, match="Rprop does not support sparse gradients"):
        fastlr.torch.Rprop([table]).step()


# In the backward pass

def test_steps_in_the_backward_pass_are_those_after_it():
    made = []
    for inside in (True, False):
        net = network()
        opt = fastlr.torch.AdamW(net.parameters(), lr=1e-3, in_backward=inside)
        scheduler = lr_scheduler.ExponentialLR(opt, 0.9)
        losses = train(net, opt, 10, each=None)
        opt.zero_grad()
        scheduler.step()
        losses += train(net, opt, 10)
        made.append(losses)
        if inside:
            x, y = data()
            ((net(x) - y) ** 2).mean().backward()
            assert all(param.grad is None for param in net.parameters())
    assert made[0] == made[1]


@pytest.mark.parametrize("keywords, name, what", [
    ({"clip_norm": 1.0}, "AdamW", "clip_norm=1.0"), ({"nonfinite": "skip"}, "AdamW", "nonfinite='skip'"),
    ({}, "PolyakSGD", "the rule PolyakSGD"), ({}, "Prodigy", "the rule Prodigy")])
def test_what_needs_all_gradients_is_refused_in_the_backward_pass(keywords, name, what):
    with pytest.raises(ValueError, match=f"{name}: in_backward=True .* {what} needs all gradients first"):
        getattr(fastlr.torch, name)([vector(1.0)], in_backward=True, **keywords)


# Ways to read tensors

@pytest.mark.parametrize("ways", [{"exchange": True, "native": False}, {"exchange": False, "native": False},
                                  {"exchange": False, "native": True}], ids=str)
def test_tensors_are_read_alike_in_every_way(ways):
    from fastlr.torch.interface import begin

    losses = []
    for given in ({}, ways):
        try:
            begin(**given)
            net = network()
            losses.append(train(net, fastlr.torch.AdamW(net.parameters()), 5))
        finally:
            begin()
    assert losses[0] == losses[1]


def test_this_torch_has_all_ways():
    from fastlr.torch.interface import begin

    assert begin() and torch.Tensor.__dlpack_c_exchange_api__


def test_what_differs_from_what_python_says_is_not_used():
    from fastlr._engine.torch_native import use_native
    from fastlr.torch.interface import begin, found, increment_version, samples, special

    addresses, codes = found()
    size = torch.Tensor.__basicsize__

    def used(said=None, unlike=None, addresses=addresses, size=size):
        with torch.no_grad():
            return use_native(addresses, said or samples(codes), unlike or special(), size, increment_version)

    try:
        assert used()
        assert not used(addresses={})
        assert not used(size=16)
        assert not used(samples({**codes, torch.float16: codes[torch.bfloat16], torch.bfloat16: codes[torch.float16]}))
        for name, wrong in (("impl", 8), ("keys", 1), ("first", 1), ("storage", 8), ("data", 8), ("version", 1),
                            ("grad", 8), ("shape", (9,)), ("strides", (9,))):
            said = samples(codes)
            at = next(k for k, (_, facts) in enumerate(said) if facts["grad"] is not None and len(facts["shape"]) == 1)
            said[at][1][name] = wrong if isinstance(wrong, tuple) else said[at][1][name] + wrong
            assert not used(said), name
        # (special tensors that look like plain ones: by their keys, or by what their storage says)
        plain, keys = torch.zeros(2), samples(codes)[0][1]["keys"]
        assert not used(unlike=[*special(), (plain, keys, None, b"")])
        storage = plain.untyped_storage()._cdata
        assert not used(unlike=[*special(), (plain, keys, storage, ctypes.string_at(storage, 72))])
        # (a count of writes that Python does not see)
        said = samples(codes)
        said.append((said[0][0].detach(), said[0][1]))
        assert not used(said)
    finally:
        assert begin()


def special_pair(what):
    """A parameter and a gradient that are special in one way."""
    torch.manual_seed(0)
    param, g = torch.nn.Parameter(torch.randn(6, 4)), torch.randn(6, 4)
    if what == "an offset":
        param, g = torch.nn.Parameter(torch.randn(40)[3:27].view(6, 4)), torch.randn(40)[5:29].view(6, 4)
    elif what == "negative":
        g = torch._neg_view(g)
    elif what == "lazily cloned gradients":
        g = torch._lazy_clone(g)
    elif what == "other strides":
        g = torch.randn(4, 6).t()
    elif what == "both transposed":
        param, g = torch.nn.Parameter(torch.randn(4, 6).t()), torch.randn(4, 6).t()
    elif what == "memory of NumPy's":
        param = torch.nn.Parameter(torch.from_numpy(param.detach().numpy().copy()))
        g = torch.from_numpy(g.numpy().copy())
    elif what == "six axes":
        param, g = torch.nn.Parameter(torch.randn(2, 1, 3, 2, 1, 2)), torch.randn(2, 1, 3, 2, 1, 2)
    elif what == "an inference tensor":
        with torch.inference_mode():
            g = torch.randn(6, 4)
    elif what == "shared memory":
        param, g = torch.nn.Parameter(param.detach().share_memory_()), g.share_memory_()
    return param, g


@pytest.mark.parametrize("what", ["nothing", "an offset", "negative", "lazily cloned gradients", "other strides",
                                  "both transposed", "memory of NumPy's", "six axes", "an inference tensor",
                                  "shared memory"])
def test_special_gradients_and_parameters_are_read_as_by_torch(what):
    """To some units in the last place of three updates of at most 0.1."""
    found = []
    for cls in (fastlr.torch.AdamW, torch.optim.AdamW):
        param, g = special_pair(what)
        opt = cls([param], lr=0.1)
        for _ in range(3):
            param.grad = g
            opt.step()
        found.append(param.detach().clone())
    torch.testing.assert_close(*found, rtol=0, atol=1e-6)


def test_a_negative_view_is_no_parameter():
    with pytest.raises(ValueError, match="SGD: parameter 0 is a negative view, whose memory has other values"):
        param = torch.nn.Parameter(torch._neg_view(torch.ones(3)))
        param.grad = torch.ones(3)
        fastlr.torch.SGD([param], lr=0.1).step()


def test_a_lazy_clone_keeps_its_values():
    """It shares the memory of the parameter until one of them is written, and a pointer's writes are not seen."""
    param = torch.nn.Parameter(torch.ones(8))
    opt = fastlr.torch.SGD([param], lr=0.5)
    for k in range(1, 4):
        param.grad = torch.ones(8)
        opt.step()
        clone = torch._lazy_clone(param.detach())
        param.grad = torch.ones(8)
        opt.step()
        assert clone.tolist() == [1 - k + 0.5] * 8 and param.tolist() == [1.0 - k] * 8


def test_a_step_keeps_no_gradient():
    params = [torch.nn.Parameter(torch.ones(3)) for _ in range(2)]
    opt = fastlr.torch.SGD(params, lr=0.1)
    for param in params:
        param.grad = torch.ones(3)
    before = [param.grad._use_count() for param in params]
    opt.step()
    assert [param.grad._use_count() for param in params] == before
    params[1].grad = params[1].detach()        # (it shares memory with the parameter)
    with pytest.raises(ValueError, match="memory"):
        opt.step()
    assert params[0].grad._use_count() == before[0] and params[0].tolist() == [pytest.approx(0.9)] * 3


def test_writes_are_counted_once_also_of_views_and_of_other_types():
    from fastlr._engine.torch_native import count_writes

    base = torch.zeros(4)
    with torch.inference_mode():
        inference = torch.zeros(4)
    tensors = [base[1:], torch.zeros(2, dtype=torch.complex64), torch.zeros(2).to_sparse(), torch.nn.Parameter(torch.ones(2))]
    before = [x._version for x in (base, *tensors)]
    count_writes(tensors)
    assert [x._version for x in (base, *tensors)] == [x + 1 for x in before]
    with torch.inference_mode():
        count_writes([inference])              # (which has no version, and is written in that mode alone)


def test_tensors_that_are_swapped_are_noticed():
    params = [torch.nn.Parameter(torch.ones(4)), torch.nn.Parameter(torch.zeros(4))]
    opt = fastlr.torch.SGD(params[:1], lr=0.5)
    for param in params:
        param.grad = torch.ones(4)
    opt.step()
    torch.utils.swap_tensors(*params)
    for param in params:
        param.grad = torch.ones(4)
    opt.step()
    assert params[0].tolist() == [-0.5] * 4 and params[1].tolist() == [0.5] * 4


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_a_compiled_training_step_breaks_the_graph_at_the_optimizer():
    net = torch.nn.Linear(3, 1)
    opt = fastlr.torch.SGD(net.parameters(), lr=0.1)

    def step(x):
        opt.zero_grad()
        loss = net(x).square().mean()
        loss.backward()
        opt.step()
        return loss.detach()

    compiled = torch.compile(step, backend="eager")
    x = torch.ones(4, 3)
    losses = [float(compiled(x)) for _ in range(4)]
    assert losses == sorted(losses, reverse=True) and losses[0] != losses[-1]


def test_trained_parameters():
    net = network(only_matrices=True)
    assert {param.ndim for param in trained(net)} == {2}


@pytest.mark.parametrize("copied", [
    lambda opt: copy.deepcopy(opt), lambda opt: pickle.loads(pickle.dumps(opt)), lambda opt: loaded(opt),
    lambda opt: loaded(loaded(opt)), lambda opt: assigned(opt)],
    ids=["deepcopy", "pickle", "state_dict", "loaded twice", "an option that was set"])
def test_a_copy_remembers_the_norms_that_clip_zscore_has_seen(copied):
    generator = torch.Generator().manual_seed(0)
    opt = fastlr.torch.SGD([torch.nn.Parameter(torch.zeros(4))], lr=0.5, clip_zscore=2.0)

    def step(opt, gradient):
        param = opt.param_groups[0]["params"][0]
        before = param.detach().clone()
        param.grad = gradient.clone()
        opt.step()
        return param.detach() - before

    for _ in range(30):
        step(opt, torch.randn(4, generator=generator))
    other, spike = copied(opt), torch.full((4,), 1e3)
    moved = step(other, spike)
    assert moved.norm() < 10           # (it knows that this is no usual norm)
    assert torch.equal(moved, step(opt, spike))


def loaded(opt):
    other = fastlr.torch.SGD([torch.nn.Parameter(opt.param_groups[0]["params"][0].detach().clone())], lr=1.0,
                             clip_zscore=2.0)
    saved = opt.state_dict()
    assert set(saved) == {"state", "param_groups", "norms"} and set(saved["norms"]) == {"count", "mean", "variance"}
    other.load_state_dict(saved)
    return other


def assigned(opt):
    other = copy.deepcopy(opt)
    other.clip_zscore = 2.0
    return other


@pytest.mark.parametrize("name", ["Adam", "AdamW", "SGD", "NAdam", "Lion"])
@pytest.mark.parametrize("decay", ["coupled", "decoupled", "independent", "corrected"])
def test_decay_by_keyword_is_that_of_the_class_of_arrays(name, decay):
    keywords = {"lr": 0.1, "weight_decay": 0.1, "decay": decay}
    param, array = vector(1.0, -2.0, dtype=torch.float64), torch.tensor([1.0, -2.0], dtype=torch.float64).numpy()
    opt = getattr(fastlr.torch, name)([param], **keywords)
    peer = getattr(fastlr, name)([array], **{"convention": "torch"} if name == "NAdam" else {}, **keywords)
    for t in range(3):
        param.grad = torch.tensor([0.5 + t, -0.25], dtype=torch.float64)
        opt.step()
        peer.step([param.grad.numpy()])
    assert param.detach().numpy().tobytes() == array.tobytes()
    assert name == "SGD" or decay == "coupled" or array.tobytes() != moved_by(name, "coupled").tobytes()


def moved_by(name, decay):
    param = vector(1.0, -2.0, dtype=torch.float64)
    opt = getattr(fastlr.torch, name)([param], lr=0.1, weight_decay=0.1, decay=decay)
    for t in range(3):
        param.grad = torch.tensor([0.5 + t, -0.25], dtype=torch.float64)
        opt.step()
    return param.detach().numpy()


def test_the_decay_of_a_group_is_before_that_of_the_keyword():
    """In a class of fastlr's own; a class of torch says it by its own switches, which the keyword replaces."""
    made = [vector(1.0, 2.0, grad=[0.1, 0.1]) for _ in range(3)]
    opt = fastlr.torch.Lion([{"params": made[:1], "decay": "coupled"}, {"params": made[1:2]}], lr=0.1, weight_decay=0.5,
                            decay="decoupled")
    opt.step()
    fastlr.torch.Lion(made[2:], lr=0.1, weight_decay=0.5, decay="coupled").step()
    assert torch.equal(made[0], made[2]) and not torch.equal(made[0], made[1])


@pytest.mark.parametrize(("name", "keywords", "message"), [
    ("AdamW", {"state_dtype": "fp8"}, "AdamW: state_dtype must be one of float32, .* or int8, got 'fp8'"),
    ("Lion", {"master": "whole"}, "Lion: master must be 'split' or None, got 'whole'"),
    ("AdamW", {"decay": "decoupeld"}, "AdamW: decay must be .*, got 'decoupeld'; did you mean 'decoupled'"),
    ("AdamW", {"convention": "keras"}, "AdamW: convention='keras' is not for a class of torch's, which has torch's formula"),
    ("Lion", {"convention": "jax"}, "Lion: convention must be .*, got 'jax'"),
])
def test_a_keyword_is_refused_when_an_optimizer_is_made_and_not_at_its_first_step(name, keywords, message):
    with pytest.raises(ValueError, match=message):
        getattr(fastlr.torch, name)([vector(1.0)], **keywords)


def test_types_of_torch_say_how_state_is_stored():
    param = vector(1.0, 2.0, grad=[0.5, 0.5])
    opt = fastlr.torch.AdamW([param], state_dtype=torch.bfloat16)
    opt.step()
    assert opt.state[param]["exp_avg"].dtype == torch.bfloat16
    with pytest.raises(ValueError, match="AdamW: state_dtype must be one of .*, got 'int16'"):
        fastlr.torch.AdamW([param], state_dtype=torch.int16)


@pytest.mark.parametrize(("word", "meant"), [("learning_rate", "lr"), ("max_grad_norm", "clip_norm"),
                                             ("zero_grad", "zero_grads"), ("wd", "weight_decay")])
@pytest.mark.parametrize("name", ["AdamW", "Lion"])
def test_words_of_other_libraries_have_a_hint(name, word, meant):
    with pytest.raises(TypeError, match=f"{name}: unknown keyword '{word}'; did you mean '{meant}'?"):
        getattr(fastlr.torch, name)([vector(1.0)], **{word: 1})


def test_a_class_and_an_optimizer_say_which_keywords_of_fastlr_they_have():
    for cls in (fastlr.torch.AdamW, fastlr.torch.Lion):
        taken = {*inspect.signature(cls).parameters}
        said = {line.split(":")[0].strip() for line in cls.__doc__.partition("Keywords beside these")[2].splitlines()}
        assert {"clip_norm", "zero_grads", "in_backward", "state_dtype"} <= said & taken
        assert "grads" not in said and "shadow" not in said
    assert "Implements AdamW" in fastlr.torch.AdamW.__doc__ and "Chen et al. 2023" in fastlr.torch.Lion.__doc__
    assert "convention" not in fastlr.torch.AdamW.__doc__
    given, plain = (fastlr.torch.AdamW([vector(1.0)], **keywords) for keywords in ({"clip_norm": 1.0, "zero_grads": True}, {}))
    assert repr(given) == repr(plain) + " with clip_norm=1.0, zero_grads=True"


def test_a_name_in_other_letters_has_a_hint():
    with pytest.raises(AttributeError, match="has no attribute 'Adamw'; did you mean 'AdamW'"):
        fastlr.torch.Adamw  # noqa: B018
