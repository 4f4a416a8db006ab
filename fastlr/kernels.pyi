# Made by `python -m fastlr.optimizers.stubs` from the declarations; do not edit.
from inspect import Signature
from typing import Any

__all__: list[str]

def is_elementwise(rule: Any) -> bool: ...

class Kernel:
    """One rule over one tensor: p, g and the state; then t, lr and the hyper-parameters by keyword."""

    __name__: str
    @property
    def __signature__(self) -> Signature: ...
    def __call__(self, p: Any, g: Any, /, *slots: Any, t: int, lr: float, **hyper: float) -> None: ...

adabelief: Kernel
adabound: Kernel
adadelta: Kernel
adagrad: Kernel
adam: Kernel
adamax: Kernel
adams: Kernel
adamw: Kernel
adan: Kernel
ademamix: Kernel
adopt: Kernel
aggmo: Kernel
amsgrad: Kernel
asgd: Kernel
diffgrad: Kernel
ftrl: Kernel
grams: Kernel
laprop: Kernel
lion: Kernel
madgrad: Kernel
momentum: Kernel
nadam: Kernel
nadamw: Kernel
nesterov: Kernel
qhadam: Kernel
qhm: Kernel
radam: Kernel
radamw: Kernel
rmsprop: Kernel
rmspropcentered: Kernel
rmspropcenteredmomentum: Kernel
rmspropmomentum: Kernel
rprop: Kernel
schedulefreeadamw: Kernel
schedulefreeradam: Kernel
schedulefreesgd: Kernel
sgd: Kernel
sgdw: Kernel
signsgd: Kernel
signum: Kernel
sophia: Kernel
tiger: Kernel
yogi: Kernel
