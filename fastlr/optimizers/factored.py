"""Second moments that do not cost a number per element: of rows and columns, of covers, of blocks."""
from __future__ import annotations

from math import prod
from typing import Any

from .._engine.tensors import Tensor, per_tensor
from .._matrix.matrix_rule import MatrixRule
from .base import Optimizer
from .declaration import Hyper, initial_state, one_of, within
from .matrix import Matrix, MatrixShape, Slots, as_batch, as_matrix


class Adafactor(Matrix, decay="decoupled", conventions=dict.fromkeys(("paper", "torch", "optax"), "Adafactor")):
    r"""Adam's denominator from the mean squares of rows and columns alone; steps relative to the parameter's size.

    .. math::
        R \leftarrow \hat\beta R + (1 - \hat\beta) \operatorname{mean}_j (g_{ij}^2 + \epsilon_1), \quad
        C \leftarrow \hat\beta C + (1 - \hat\beta) \operatorname{mean}_i (g_{ij}^2 + \epsilon_1), \quad
        \hat\beta = 1 - t^{-\beta_2'}

        u_{ij} = g_{ij} / \sqrt{R_i C_j / \operatorname{mean}(R)}, \quad
        \alpha = \max(\epsilon_2, \operatorname{rms}(p)) \min(\eta, 1 / \sqrt t), \quad
        p \leftarrow (1 - \eta \lambda) p - \alpha\, u / \max(1, \operatorname{rms}(u) / d)

    with `beta2_decay` :math:`\beta_2'`, `clip` d. State `R` and `C` in float64: r + c numbers for r x c elements; a
    vector keeps `v` of its own size. A tensor of more axes is one matrix, the first axis by all others. Shazeer &
    Stern 2018, https://arxiv.org/abs/1804.04235, algorithm 4 and 5, with their cap 0.01 of the relative step as `lr`.

    As ``torch.optim.Adafactor`` with ``convention="torch"``: there, :math:`\epsilon_1` bounds mean(R) and the root
    from below instead of being added, and matrices are those of the last two axes; ``eps1=0`` then stands for the
    machine epsilon of each tensor (torch takes that of the first tensor for all). ``convention="optax"``: as
    ``optax.adafactor`` where it factors (it does from 128 rows and columns on), the learning rate is not capped by
    :math:`1/\sqrt t`; there, decay is ``decay="independent"``. ``scale_parameter=False`` leaves out rms(p). Keras
    keeps `v` in full besides. With ``eps1=0`` in the paper's and optax's form, 0 / 0 moves nothing; rms(p) is right for
    every finite p, also where squares of float64 overflow or vanish.

    >>> import numpy as np, fastlr
    >>> p = np.ones((100, 50))
    >>> opt = fastlr.Adafactor(p)
    >>> opt.step(np.ones((100, 50)))
    >>> float(p[0, 0]), sum(slot.size for slot in opt.state["0"].values())
    (0.99, 150)
    """

    lr: Hyper = within(1e-2)
    beta2_decay: Hyper = within(0.8)
    eps1: Hyper = within(1e-30)
    eps2: Hyper = within(1e-3)
    clip: Hyper = within(1.0)
    scale_parameter: bool = one_of(True, False)

    def _rule_names(self, tensors: list[Tensor]) -> list[str]:
        return [f"fastlr._matrix.adafactor:{kind_of(tensor)}" for tensor in tensors]

    def _matrix_shape(self, tensor: Tensor) -> MatrixShape:
        return (as_batch if self.convention == "torch" else as_matrix)(tensor.array.shape)

    def _rule_options(self) -> dict[str, float | list[float]]:
        return {"adds_eps1": self.convention != "torch", "caps_lr": self.convention != "optax",
                "scales_by_param": self.scale_parameter}


class CAME(Matrix, decay="decoupled"):
    r"""Adafactor with a momentum, which moves less where it and the update disagree.

    .. math::
        u = g / \sqrt{R C^\top / \operatorname{mean}(R)}, \quad
        \hat u = u / \max(1, \operatorname{rms}(u) / d), \quad
        m \leftarrow \beta_1 m + (1 - \beta_1) \hat u

        R_U, C_U \leftarrow \text{means by row and column of } (\hat u - m)^2 + \epsilon_2
        \text{ with } \beta_3, \quad
        p \leftarrow p - \eta\, m / \sqrt{R_U C_U^\top / \operatorname{mean}(R_U)}

    with R and C as in Adafactor, of :math:`\beta_2` and :math:`g^2 + \epsilon_1`, and `clip` d. State `m`, and in
    float64 `R`, `C`, `RU`, `CU`; a vector keeps `m` and `v`, and moves by m. Luo et al. 2023,
    https://arxiv.org/abs/2307.02047, algorithm 2. As ``pytorch_optimizer.CAME``; torch, optax and Keras have none. With
    ``eps1=0`` or ``eps2=0``, what would be divided by 0 moves nothing, where theirs is NaN.

    >>> import numpy as np, fastlr
    >>> p = np.ones((4, 2))
    >>> fastlr.CAME(p, lr=0.01).step(np.ones((4, 2)))
    >>> p[0].round(4)
    array([0.8889, 0.8889])
    """

    lr: Hyper = within(2e-4)
    beta1: Hyper = within(0.9, 0, 1)
    beta2: Hyper = within(0.999, 0, 1)
    beta3: Hyper = within(0.9999, 0, 1)
    eps1: Hyper = within(1e-30)
    eps2: Hyper = within(1e-16)
    clip: Hyper = within(1.0)

    def _rule_names(self, tensors: list[Tensor]) -> list[str]:
        return [f"fastlr._matrix.came:{kind_of(tensor)}" for tensor in tensors]


class SM3(Matrix):
    r"""AdaGrad that keeps, of each row and each column, the largest sum of squares that any of its elements can have.

    .. math::
        \nu = \min_a \mu^{(a)} + g^2, \quad
        \mu^{(a)} \leftarrow \max \nu \text{ over all axes but } a, \quad
        m \leftarrow \beta m + (1 - \beta) g / \sqrt{\nu + \epsilon}, \quad p \leftarrow p - \eta m

    with `momentum` :math:`\beta`, 0 / 0 = 0. State `m`, and in float64 `mu0`, `mu1`, ... of each axis. Anil et al.
    2019, https://arxiv.org/abs/1901.11150, algorithm SM3-II, where :math:`\epsilon = 0`. As ``optax.sm3``, whose
    epsilon is 1e-8, and as ``pytorch_optimizer.SM3`` with its default 0 for momentum. ``momentum=0`` as a number, in
    the constructor: no `m` is kept.

    With ``eps=0``, 0 / 0 moves nothing.

    >>> import numpy as np, fastlr
    >>> p = np.ones((3, 2))
    >>> opt = fastlr.SM3(p, lr=0.1, momentum=0.0)
    >>> opt.step(np.full((3, 2), 7.0))
    >>> float(p[0, 0]), sorted(opt.state["0"])
    (0.9, ['mu0', 'mu1'])
    """

    matrix_rule = "fastlr._matrix.sm3:sm3"

    lr: Hyper = within(0.1)
    momentum: Hyper = within(0.9, 0, 1)
    eps: Hyper = within(1e-30)

    def _matrix_shape(self, tensor: Tensor) -> MatrixShape:
        shape = tensor.array.shape
        return ((), prod(shape[:-1]), shape[-1]) if shape else ((), 1, 1)

    def _slots(self, tensor: Tensor, rule: MatrixRule | None) -> Slots:
        slots = super()._slots(tensor, rule)
        return {name: slot for name, slot in slots.items() if name != "m" or self._defaults["momentum"] != 0}

    def _set_hyper(self, groups: Any, name: str, value: Hyper) -> None:
        if name == "momentum" and value != 0 and self._defaults["momentum"] == 0:
            raise ValueError("SM3: this one was made with momentum=0 and keeps no mean; make it with a momentum")
        super()._set_hyper(groups, name, value)


class AdamMini(Matrix, decay="decoupled"):
    r"""AdamW with one mean square for each block of a parameter.

    .. math::
        m \leftarrow \beta_1 m + (1 - \beta_1) g, \quad
        v_b \leftarrow \beta_2 v_b + (1 - \beta_2) \operatorname{mean}_b g^2, \quad
        p \leftarrow p - \eta \frac{m / (1 - \beta_1^t)}{\sqrt{v_b / (1 - \beta_2^t)} + \epsilon}

    State `m`, and `v` in float64: a number for each block. A block is one index of the first axis (a neuron's weights,
    a token's embedding); a vector is one block. `blocks` says otherwise: how many equal blocks of consecutive
    elements, given as lr_scale is: ``blocks={"attention.query": heads, "norm": 1}``. Zhang et al. 2024,
    https://arxiv.org/abs/2406.16793, algorithm 1. As ``pytorch_optimizer.AdamMini``, which has one block for what it
    does not know by name; torch, optax and Keras have none. With ``eps=0``, 0 / 0 moves nothing.

    >>> import numpy as np, fastlr
    >>> p = np.ones((3, 2))
    >>> opt = fastlr.AdamMini(p, lr=0.1, weight_decay=0.0)
    >>> opt.step(np.array([[1.0, 1.0], [2.0, 2.0], [3.0, 4.0]]))
    >>> p.round(4)
    array([[0.9   , 0.9   ],
           [0.9   , 0.9   ],
           [0.9151, 0.8869]])
    >>> opt.state["0"]["v"].shape
    (3,)
    """

    lr: Hyper = within(1e-3)
    beta1: Hyper = within(0.9, 0, 1)
    beta2: Hyper = within(0.999, 0, 1)
    eps: Hyper = within(1e-8)
    weight_decay: Hyper = within(0.1)
    blocks: Any = one_of(None, check=lambda blocks: blocks)

    matrix_rule = "fastlr._matrix.adam_mini:adam_mini"

    def _rule_names(self, tensors: list[Tensor]) -> list[str]:
        self._blocks: dict[str, int] = {}
        for tensor, number in zip(tensors, per_tensor(self.blocks, tensors, "AdamMini", "blocks"), strict=True):
            shape, size = tensor.array.shape, tensor.array.size
            if number is None:
                number = shape[0] if len(shape) > 1 else 1
            elif isinstance(number, bool) or not isinstance(number, int) or number < 1 or size % number:
                raise ValueError(f"AdamMini: blocks of {tensor.name!r} must be a count that divides its {size} "
                                 f"elements, got {number!r}")
            self._blocks[tensor.name] = number
        return super()._rule_names(tensors)

    def _matrix_shape(self, tensor: Tensor) -> MatrixShape:
        blocks = self._blocks[tensor.name]
        return (), blocks, tensor.array.size // blocks if blocks else 0


class RowwiseAdaGrad(Matrix):
    r"""AdaGrad with one sum for each row: of the means of its gradients' squares.

    .. math::
        s_i \leftarrow s_i + \operatorname{mean}_j g_{ij}^2, \quad
        p_{ij} \leftarrow p_{ij} - \frac{\eta}{1 + (t - 1) \delta} \frac{g_{ij}}{\sqrt{s_i} + \epsilon}

    with `lr_decay` :math:`\delta`, t = 1 at the first update. State `s`, which begins at `initial_accumulator_value`: 4
    bytes a row (8 in float64), for embedding tables whose AdaGrad would double them. Rows are those of `step_rows`, the
    indices of the first axis: a row of a vector is one element, which makes it AdaGrad; one number is one row.
    `step_rows` moves the touched rows and their sums exactly as `step` does. Sums of squares are in double, and NaN in
    one element reaches its row.

    Mudigere et al. 2022, https://arxiv.org/abs/2104.05158 ("row-wise sparse AdaGrad"). As ``torchrec``'s
    ``RowWiseAdagrad`` and FBGEMM's ``EXACT_ROWWISE_ADAGRAD`` (duplicates are summed before they are squared), which
    take matrices alone; FBGEMM has no `lr_decay`. torch, optax and Keras have no such rule. With ``eps=0``, 0 / 0 moves
    nothing.

    >>> import numpy as np, fastlr
    >>> table = np.zeros((1000, 2))
    >>> opt = fastlr.RowwiseAdaGrad({"table": table}, lr=0.1)
    >>> opt.step_rows("table", [7, 3], np.array([[3.0, 4.0], [1.0, 1.0]]))
    >>> table[[7, 3]].round(4)
    array([[-0.0849, -0.1131],
           [-0.1   , -0.1   ]])
    >>> opt.state["table"]["s"][7], opt.state["table"]["s"].shape
    (np.float64(12.5), (1000,))
    """

    matrix_rule = "fastlr._matrix.rowwise_adagrad:rowwise_adagrad"

    lr: Hyper = within(1e-2)
    lr_decay: Hyper = within(0.0)
    eps: Hyper = within(1e-10)
    initial_accumulator_value: float = initial_state("s", 0.0)

    step_rows = Optimizer.step_rows

    def _matrix_shape(self, tensor: Tensor) -> MatrixShape:
        shape = tensor.array.shape
        return (), prod(shape[:1]), prod(shape[1:])


def kind_of(tensor: Tensor) -> str:
    """Which of a rule's two forms moves a tensor."""
    return "matrix" if tensor.array.ndim > 1 else "vector"
