"""What other libraries call fastlr's optimizers and their hyper-parameters: the data of docs/migration.md.

Held to the libraries' own signatures, and to `convention=`, by parity/test_migration.py.
"""
from __future__ import annotations

from typing import Any

#: Their call -> the class here, of each library that `convention=` names.
OPTIMIZERS = {
    "torch": {
        "SGD()": "SGD", "SGD(momentum=0.9)": "Momentum", "SGD(momentum=0.9, nesterov=True)": "Nesterov",
        "Adam()": "Adam", "Adam(amsgrad=True)": "AMSGrad", "AdamW()": "AdamW", "NAdam()": "NAdam",
        "NAdam(decoupled_weight_decay=True)": "NAdamW", "RAdam()": "RAdam",
        "RAdam(decoupled_weight_decay=True)": "RAdamW",
        "Adamax()": "AdaMax", "Adagrad()": "AdaGrad", "Adadelta()": "AdaDelta", "RMSprop()": "RMSprop",
        "RMSprop(centered=True)": "RMSpropCentered", "RMSprop(momentum=0.9)": "RMSpropMomentum",
        "RMSprop(centered=True, momentum=0.9)": "RMSpropCenteredMomentum", "Rprop()": "Rprop",
        "Adafactor()": "Adafactor", "Muon()": "Muon",
    },
    "optax": {
        "sgd()": "SGD", "sgd(momentum=0.9)": "Momentum", "sgd(momentum=0.9, nesterov=True)": "Nesterov",
        "adam()": "Adam", "amsgrad()": "AMSGrad", "adamw()": "AdamW", "nadam()": "NAdam", "nadamw()": "NAdamW",
        "radam()": "RAdam",
        "chain(scale_by_radam(), ...)": "RAdamW",
        "adamax()": "AdaMax", "adagrad()": "AdaGrad", "adadelta()": "AdaDelta", "rmsprop()": "RMSprop",
        "rmsprop(centered=True)": "RMSpropCentered", "rmsprop(momentum=0.9)": "RMSpropMomentum",
        "rmsprop(centered=True, momentum=0.9)": "RMSpropCenteredMomentum", "rprop()": "Rprop", "adan()": "Adan",
        "lion()": "Lion", "lamb()": "LAMB", "novograd()": "NovoGrad", "adafactor()": "Adafactor",
        "contrib.adopt()": "ADOPT", "contrib.dadapt_adamw()": "DAdaptAdam", "contrib.muon()": "Muon",
        "contrib.prodigy()": "Prodigy", "contrib.sophia()": "Sophia",
    },
    "keras": {
        "SGD()": "SGD", "SGD(momentum=0.9)": "Momentum", "SGD(momentum=0.9, nesterov=True)": "Nesterov",
        "Adam()": "Adam", "Adam(amsgrad=True)": "AMSGrad", "AdamW()": "AdamW", "Nadam()": "NAdam", "Adamax()": "AdaMax",
        "Adagrad()": "AdaGrad", "Adadelta()": "AdaDelta", "RMSprop()": "RMSprop",
        "RMSprop(centered=True)": "RMSpropCentered", "RMSprop(momentum=0.9)": "RMSpropMomentum",
        "RMSprop(centered=True, momentum=0.9)": "RMSpropCenteredMomentum", "Lion()": "Lion", "Lamb()": "LAMB",
    },
}

#: Ours -> theirs, where they differ and the class has such a hyper-parameter.
NAMES: dict[str, dict[str, str]] = {
    "torch": {"beta1": "betas[0]", "beta2": "betas[1]", "eta_minus": "etas[0]", "eta_plus": "etas[1]",
              "step_min": "step_sizes[0]", "step_max": "step_sizes[1]"},
    "optax": {"lr": "learning_rate", "beta1": "b1", "beta2": "b2", "beta3": "b3", "alpha": "decay",
              "step_min": "min_step_size", "step_max": "max_step_size"},
    "keras": {"lr": "learning_rate", "beta1": "beta_1", "beta2": "beta_2", "eps": "epsilon", "alpha": "rho"},
}

#: The same for one call alone; None: it has no such argument.
EXCEPT: dict[tuple[str, str], dict[str, str | None]] = {
    ("torch", "Adafactor()"): {"eps1": "eps[0]", "eps2": "eps[1]", "clip": "d"},
    ("torch", "Muon()"): {"coefficients": "ns_coefficients", "steps": "ns_steps", "adjust": "adjust_lr_fn",
                          "norm_eps": "eps", "eps": None, "beta1": None, "beta2": None},
    ("optax", "adafactor()"): {"beta2_decay": "decay_rate", "eps1": "eps", "clip": "clipping_threshold",
                               "scale_parameter": "multiply_by_parameter_scale", "weight_decay": "weight_decay_rate"},
    ("optax", "contrib.dadapt_adamw()"): {"beta1": "betas[0]", "beta2": "betas[1]", "d0": "estim_lr0"},
    ("optax", "contrib.prodigy()"): {"beta1": "betas[0]", "beta2": "betas[1]", "d0": "estim_lr0",
                                     "d_coef": "estim_lr_coef"},
    ("optax", "contrib.muon()"): {"momentum": "beta", "coefficients": "ns_coeffs", "steps": "ns_steps",
                                  "norm_eps": "eps", "beta1": "adam_b1", "beta2": "adam_b2"},
    ("optax", "contrib.sophia()"): {"rho": "gamma"},
}

#: Their defaults, by our names, where `convention=` keeps ours.
DEFAULTS: dict[tuple[str, str], dict[str, Any]] = {
    ("torch", "NAdam(decoupled_weight_decay=True)"): {"weight_decay": 0},
    ("torch", "RAdam(decoupled_weight_decay=True)"): {"weight_decay": 0},
    ("torch", "Adafactor()"): {"beta2_decay": -0.8, "eps1": None},
    ("torch", "Muon()"): {"adjust": None},
    ("optax", "contrib.muon()"): {"norm_eps": 1e-8, "beta2": 0.999, "weight_decay": 0.0},
    ("optax", "contrib.sophia()"): {"eps": 1e-8, "weight_decay": 1e-4},
}


def renamed(library: str, call: str, cls: Any) -> dict[str, str]:
    """Ours -> theirs, for one of their calls."""
    mine = [*cls.hypers, *cls.initial_states, *cls.options]
    names: dict[str, str | None] = {**NAMES[library], **EXCEPT.get((library, call), {})}
    return {name: theirs for name in mine if (theirs := names.get(name)) is not None and theirs != name}
