"""Layer-wise decay of the learning rate."""
from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from .declaration import above


def layerwise(
    names: Iterable[str], decay: float, layer: Callable[[str], Any] | None = None
) -> dict[str, float]:
    """Factors of the learning rate, one per parameter, smaller by `decay` with each layer further from the output.

        factor = decay ** (layers after this one)

    Args:
        names: the parameters' names, from the input to the output: a mapping of parameters will do.
        decay: per layer, > 0; 0.65 to 0.9 are usual for fine-tuning.
        layer: name -> what its layer is called; names of one layer share a factor. Not given: all before the last
            dot, so that "fc1.weight" and "fc1.bias" are one layer.

    For an optimizer's `lr_scale`; schedules and hyper-parameters do not change:

    >>> layerwise(["emb.w", "fc1.w", "fc1.b", "out.w"], decay=0.5)
    {'emb.w': 0.25, 'fc1.w': 0.5, 'fc1.b': 0.5, 'out.w': 1.0}

    Source: Howard & Ruder 2018, https://arxiv.org/abs/1801.06146, "discriminative fine-tuning". Is timm's
    param_groups_layer_decay without its rule for the names.
    """
    field: Any = above(0)
    field.keyword = "decay"
    decay = field.accept("layerwise", decay)
    layer_of = layer or (lambda name: name.rpartition(".")[0] or name)
    names = list(names)
    layers = {name: layer_of(name) for name in names}
    order = {which: k for k, which in enumerate(dict.fromkeys(layers.values()))}
    return {name: decay ** (len(order) - 1 - order[layers[name]]) for name in names}
