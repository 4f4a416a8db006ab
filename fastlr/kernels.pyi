from inspect import Signature
from typing import Any

class Kernel:
    """One rule over one tensor: p, g and the state; then t, lr and the hyper-parameters by keyword."""

    __name__: str
    @property
    def __signature__(self) -> Signature: ...
    def __call__(self, p: Any, g: Any, /, *slots: Any, t: int, lr: float, **hyper: float) -> None: ...

adadelta: Kernel
adagrad: Kernel
adam: Kernel
adamw: Kernel
adan: Kernel
amsgrad: Kernel
momentum: Kernel
nadam: Kernel
nesterov: Kernel
rmsprop: Kernel
rmspropcentered: Kernel
rmspropcenteredmomentum: Kernel
rmspropmomentum: Kernel
sgd: Kernel
