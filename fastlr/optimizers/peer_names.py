"""What torch and optax call the slots of a state, by fastlr's class and slot."""
from __future__ import annotations

TORCH_ADAM = {"m": "exp_avg", "v": "exp_avg_sq", "vmax": "max_exp_avg_sq"}

#: Slots whose name in torch is another.
TORCH: dict[str, dict[str, str]] = {
    "Momentum": {"m": "momentum_buffer"}, "Nesterov": {"m": "momentum_buffer"},
    "Adam": TORCH_ADAM, "AMSGrad": TORCH_ADAM, "AdamW": TORCH_ADAM, "NAdam": TORCH_ADAM, "RAdam": TORCH_ADAM,
    "NAdamW": TORCH_ADAM, "RAdamW": TORCH_ADAM,
    "AdaMax": {"m": "exp_avg", "u": "exp_inf"},
    "RMSprop": {"v": "square_avg"}, "RMSpropCentered": {"v": "square_avg", "a": "grad_avg"},
    "RMSpropMomentum": {"v": "square_avg", "m": "momentum_buffer"},
    "RMSpropCenteredMomentum": {"v": "square_avg", "a": "grad_avg", "m": "momentum_buffer"},
    "AdaGrad": {"s": "sum"}, "AdaDelta": {"v": "square_avg", "u": "acc_delta"},
    "Rprop": {"g_prev": "prev", "s": "step_size"},
    "Adafactor": {"R": "row_var", "C": "col_var", "v": "variance"},
    "Muon": {"m": "momentum_buffer"},
}

OPTAX_ADAM = {"m": "mu", "v": "nu"}

#: The fields of optax's states that hold slots.
OPTAX: dict[str, dict[str, str]] = {
    "Momentum": {"m": "trace"}, "Nesterov": {"m": "trace"},
    "Adam": OPTAX_ADAM, "AdamW": OPTAX_ADAM, "RAdam": OPTAX_ADAM,
    "AdaBelief": {"m": "mu", "s": "nu"}, "AMSGrad": {"m": "mu", "v": "nu", "vmax": "nu_max"},
    "AdaMax": {"m": "mu", "u": "nu"}, "Lion": {"m": "mu"},
    "RMSprop": {"v": "nu"}, "RMSpropCentered": {"v": "nu", "a": "mu"},
    "AdaGrad": {"s": "sum_of_squares"}, "AdaDelta": {"v": "e_g", "u": "e_x"},
}
