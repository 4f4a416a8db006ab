"""Optimizers of the rules of rules.c, which is compiled beside this file."""
import ctypes
from pathlib import Path

import fastlr

library = ctypes.CDLL(str(Path(__file__).with_name("librules.so")))

HEAVYBALL = fastlr.rule_from_pointers(
    "heavyball", slots=("m",), hypers=("momentum", "dampening"), scalars=library.heavyball_scalars,
    step_float32=library.heavyball_float, step_float64=library.heavyball_double)
LAYERWISE = fastlr.rule_from_pointers(
    "layerwise", slots=("m",), hypers=("momentum", "trust_coefficient", "eps", "weight_decay"),
    sums=("param_squares", "grad_squares"), terms_float32=library.layerwise_terms_float,
    terms_float64=library.layerwise_terms_double, finish=library.layerwise_finish,
    step_float32=library.layerwise_float, step_float64=library.layerwise_double,
    depends_on_param=True, decay_inside_update=True)


def share_of_velocity(h, first_update):
    """What the velocity takes of one more gradient, before it decays."""
    return {"m": (1, (1 if first_update else 1 - h["dampening"]) / h["momentum"])}


class HeavyBallInC(fastlr.Optimizer, rule=HEAVYBALL, accumulation=share_of_velocity):
    """Gradients add up in a velocity `m`, and the parameter follows it."""

    momentum: fastlr.Hyper = fastlr.within(0.9, 0, 1)
    dampening: fastlr.Hyper = fastlr.within(0.0, 0, 1)


class LayerwiseInC(fastlr.Optimizer, rule=LAYERWISE, decay="decoupled"):
    """Momentum with a learning rate for each tensor, in proportion to its norm over that of its gradient."""

    momentum: fastlr.Hyper = fastlr.within(0.9, 0, 1)
    trust_coefficient: fastlr.Hyper = fastlr.within(1e-3)
    eps: fastlr.Hyper = fastlr.within(0.0)
