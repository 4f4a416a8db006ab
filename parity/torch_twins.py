"""Which torch optimizer is which of fastlr's: the one table, for live comparison and frozen trajectories."""
from dataclasses import dataclass, field

import torch
from registry import everything_changed, full, other_value

import fastlr


@dataclass(frozen=True)
class Twin:
    """A class of torch with the keywords that make it what a class of fastlr is with those keywords."""

    theirs: type
    ours: type
    switches: dict = field(default_factory=dict)      # of theirs
    keywords: dict = field(default_factory=dict)      # of ours

    @property
    def name(self):
        theirs = ",".join([self.theirs.__name__, *self.switches])
        return f"{theirs}-{','.join([self.ours.__name__, *self.keywords.values()])}"

    @property
    def late(self):
        """Hyper-parameters that act one update later there, when they change."""
        return LATE.get(self.ours.__name__, ())

    @property
    def fused(self):
        """Whether torch has this one as a fused CPU kernel."""
        return self.theirs in (torch.optim.SGD, torch.optim.Adagrad, torch.optim.Adam, torch.optim.AdamW)

    def spoken(self, hyper):
        """Hyper-parameters of ours, in torch's words."""
        given = {name: value for name, value in hyper.items() if (self.ours.__name__, name) not in LACKS}
        if "beta1" in given:
            given["betas"] = [given.pop("beta1"), given.pop("beta2")]
        if "eta_minus" in given:
            given["etas"] = [given.pop("eta_minus"), given.pop("eta_plus")]
            given["step_sizes"] = [given.pop("step_min"), given.pop("step_max")]
        return given

    def torch(self, params, hyper, **more):
        """Theirs, with all hyper-parameters given; `hyper` in our words."""
        hyper = {name: start.default for name, start in self.ours.initial_states.items()} | full(self.ours, hyper)
        return self.theirs(params, **self.switches, **self.spoken(hyper), **more)

    def fastlr(self, params, hyper, **more):
        """Ours; `hyper` as changed from our defaults."""
        return self.ours(params, **self.keywords, **hyper, **more)


TWINS = (
    Twin(torch.optim.SGD, fastlr.SGD),
    Twin(torch.optim.SGD, fastlr.Momentum),
    Twin(torch.optim.SGD, fastlr.Nesterov, {"nesterov": True}),
    Twin(torch.optim.Adagrad, fastlr.AdaGrad),
    Twin(torch.optim.Adadelta, fastlr.AdaDelta),
    Twin(torch.optim.RMSprop, fastlr.RMSprop),
    Twin(torch.optim.RMSprop, fastlr.RMSpropCentered, {"centered": True}),
    Twin(torch.optim.RMSprop, fastlr.RMSpropMomentum),
    Twin(torch.optim.RMSprop, fastlr.RMSpropCenteredMomentum, {"centered": True}),
    Twin(torch.optim.Adam, fastlr.Adam),
    Twin(torch.optim.Adam, fastlr.Adam, {"decoupled_weight_decay": True}, {"decay": "decoupled"}),
    Twin(torch.optim.Adam, fastlr.AdamW, {}, {"decay": "coupled"}),
    Twin(torch.optim.Adam, fastlr.AMSGrad, {"amsgrad": True}),
    Twin(torch.optim.AdamW, fastlr.AdamW),
    Twin(torch.optim.AdamW, fastlr.AMSGrad, {"amsgrad": True}, {"decay": "decoupled"}),
    Twin(torch.optim.ASGD, fastlr.ASGD),
    Twin(torch.optim.Rprop, fastlr.Rprop),
    Twin(torch.optim.Adamax, fastlr.AdaMax),
    Twin(torch.optim.RAdam, fastlr.RAdam),
    Twin(torch.optim.RAdam, fastlr.RAdamW, {"decoupled_weight_decay": True}),
    Twin(torch.optim.NAdam, fastlr.NAdam),
    Twin(torch.optim.NAdam, fastlr.NAdamW, {"decoupled_weight_decay": True}),
    Twin(torch.optim.NAdam, fastlr.NAdam, {"decoupled_weight_decay": True}, {"decay": "decoupled"}),
)

# Each of ours as it is without keywords.
PLAIN = tuple(twin for twin in TWINS if not twin.keywords)

# What state is called there and here.
SLOTS = {
    "momentum_buffer": "m", "sum": "s", "square_avg": "v", "acc_delta": "u", "grad_avg": "a",
    "exp_avg": "m", "exp_avg_sq": "v", "max_exp_avg_sq": "vmax",
    "mu_product": "mu_product", "exp_inf": "u", "prev": "g_prev", "step_size": "s",
}

# What torch keeps of a tensor that here is a function of t and the hyper-parameters: ASGD's rates of the next update.
FOLLOWS = {"step", "eta", "mu"}

# What torch writes at every update, and here stays as it is while it would be the parameter itself: `averaged` has it.
LATER = {"ax": ("ax", "averaging")}

# Hyper-parameters of ours that torch's twin has not.
LACKS = {("Rprop", "weight_decay")} | {(f"RMSprop{form}", "initial_scale")
                                       for form in ("", "Centered", "Momentum", "CenteredMomentum")}

# torch's ASGD computes the rates of its next update at the end of the last one, so that what is set between the two acts
# later; its lambd acts both at once (on p) and later (on the rate), so that it cannot be set on the way and compared.
LATE = {"ASGD": ("lr", "alpha", "t0")}
NEVER_SET = {("ASGD", "lambd")}

# Defaults that are not torch's, and why.
OTHER_DEFAULTS = {
    ("RAdamW", "weight_decay"): "torch has one class for both decays, with none; AdamW's default says what W means",
    ("NAdamW", "weight_decay"): "the same",
}

# Hyper-parameters that cannot be compared at 0, and why.
NEVER_OFF = {
    ("Nesterov", "momentum"): "torch refuses it",
    ("RMSpropCentered", "alpha"): "a variance of one gradient is 0, and its rounding error in torch",
    ("RMSpropCenteredMomentum", "alpha"): "the same",
    ("Rprop", "eta_minus"): "torch refuses it",
}


def all_changed(cls):
    """No hyper-parameter at its default, of those that torch has too."""
    return {name: value for name, value in everything_changed(cls).items() if (cls.__name__, name) not in LACKS}


def variants(cls):
    """(what, hyper-parameters, maximize): as declared; each alone changed, and off; all at once; upwards."""
    yield "as declared", {}, False
    changed = all_changed(cls)
    for name, bound in (cls.hypers | cls.initial_states).items():
        if (cls.__name__, name) in LACKS:
            continue
        yield name, {name: other_value(bound)}, False
        if bound.default and bound.low == 0 and (cls.__name__, name) not in NEVER_OFF:
            # (coupled decay would feed p's rounding error into a rule that now divides by one gradient alone)
            yield f"{name}=0", {"weight_decay": 0.0, name: 0.0}, False
    yield "everything", changed, False
    yield "maximize", {}, True
    yield "everything-maximize", changed, True
