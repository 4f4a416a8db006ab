"""The classes: bounds, defaults, and what no signature says."""
import fastlr


def share_of_velocity(h, first_update):
    """What the velocity takes of one more gradient, before it decays."""
    return {"m": (1, (1 if first_update else 1 - h["dampening"]) / h["momentum"])}


class HeavyBall(fastlr.Optimizer, rule="mypkg._rules", accumulation=share_of_velocity):
    """Gradients add up in a velocity `m`, and the parameter follows it."""

    momentum: fastlr.Hyper = fastlr.within(0.9, 0, 1)
    dampening: fastlr.Hyper = fastlr.within(0.0, 0, 1)


class Layerwise(fastlr.Optimizer, rule="mypkg._rules", decay="decoupled"):
    """Momentum with a learning rate for each tensor, in proportion to its norm over that of its gradient."""

    momentum: fastlr.Hyper = fastlr.within(0.9, 0, 1)
    trust_coefficient: fastlr.Hyper = fastlr.within(1e-3)
    eps: fastlr.Hyper = fastlr.within(0.0)
