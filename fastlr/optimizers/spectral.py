"""Rules that change an update's singular values: by an iteration, by roots of past products, in their eigenbasis."""
from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from typing import Any, ClassVar

import numpy as np

from .._engine.tensors import Array, Tensor
from .._matrix.matrix_rule import MatrixRule
from .declaration import Hyper, one_of, within
from .matrix import Slots, WithFallback, as_matrix

# Odd polynomials a x + b x**3 + c x**5 of singular values, one for each step; the last one is repeated.
COEFFICIENTS: dict[str, list[tuple[float, float, float]]] = {
    "original": [(3.4445, -4.7750, 2.0315)],           # Jordan et al. 2024
    "quintic": [(4.0848, -6.8946, 2.9270), (3.9505, -6.3029, 2.6377), (3.7418, -5.5913, 2.3037),
                (2.8769, -3.1427, 1.2046), (2.8366, -3.0525, 1.2012)],                      # You 2024, modded-nanogpt
    "polar_express": [(8.237312490495555, -23.157747414558198, 16.680568411445915),         # Amsel et al. 2025, for
                      (4.082441999064835, -2.893047735332586, 0.5252849256975648),          # singular values up to 1.01
                      (3.9263479922546582, -2.8547468034765298, 0.5318022422894988),
                      (3.2982187133085143, -2.424541981026706, 0.48632008358844075),
                      (2.2970369434552573, -1.63662558125903, 0.4002628455953627),
                      (1.8763805351440397, -1.2347896577722228, 0.35891887501668385),
                      (1.8564423485617974, -1.2132449880935525, 0.3568003487825883),
                      (1.8749994008682747, -1.2499988017229169, 0.3749994008546422)],
    "exact": [(15 / 8, -10 / 8, 3 / 8)],                # Newton and Schulz: to one, but slowly
}
WIDE = 2               # columns to rows from which on the iteration is cheaper on products of rows alone


def triples(coefficients: Any) -> list[tuple[float, float, float]]:
    """Coefficients (a, b, c), one for all steps or one for each."""
    given = [coefficients] if len(coefficients) == 3 and not isinstance(coefficients[0], Sequence) else coefficients
    if isinstance(coefficients, str) or not given or any(len(triple) != 3 for triple in given):
        raise ValueError(f"must be one of {', '.join(map(repr, COEFFICIENTS))}, or triples (a, b, c)")
    return [(float(a), float(b), float(c)) for a, b, c in given]


def count_of_steps(steps: Any) -> int:
    """A positive integer."""
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise ValueError("must be a positive integer")
    return steps


def orthogonalized(x: Array, steps: Sequence[tuple[float, float, float]], out: Array | None = None) -> Array:
    """What the iteration makes of x, whose singular values are at most 1: they come near 1. It may overwrite x."""
    # (Products are nearly all the time there is, at the rate of float32: benchmarks/muon.py. On products of rows, 512
    # by 1536 take 47 ms a thread instead of 62, 512 by 2048 take 48 instead of 81; 512 by 512 would take 38 instead of
    # 28. To compute symmetric products by halves, in blocks, gains nothing: calls and copies cost what it saves.)
    out = np.empty_like(x) if out is None else out
    if x.shape[0] > x.shape[1]:
        return orthogonalized(x.T, steps, out.T).T
    wide = x.shape[1] >= WIDE * x.shape[0]
    diagonal = slice(None, None, x.shape[0] + 1)
    gram = x @ x.T                                      # (NumPy sees a matrix by its transpose: half the work)
    product: Array | None = None
    for k, (a, b, c) in enumerate(steps):
        last = k + 1 == len(steps)
        step = gram @ gram.T
        step *= x.dtype.type(c)
        step += gram * x.dtype.type(b)
        step.reshape(-1)[diagonal] += x.dtype.type(a)
        if wide:               # all factors are polynomials of one symmetric matrix, and commute
            product = step if product is None else product @ step
            gram = gram if last else gram @ (step @ step.T)
        else:
            np.matmul(step, x, out=out)
            x, out = out, x
            gram = gram if last else x @ x.T
    return x if product is None else np.matmul(product, x, out=out)


class Muon(WithFallback, decay="decoupled", conventions=dict.fromkeys(("torch", "optax"), "Muon")):
    r"""Momentum whose singular values are all made about one.

    .. math::
        m \leftarrow \mu m + (1 - \mu) g, \quad u = \mu m + (1 - \mu) g, \quad
        X_0 = u / \max(\lVert u \rVert_F, \epsilon_n), \quad
        X_{k+1} = a X_k + b (X_k X_k^\top) X_k + c (X_k X_k^\top)^2 X_k

        p \leftarrow (1 - \eta \lambda) p - \eta s X_K

    with `momentum` :math:`\mu`, `norm_eps` :math:`\epsilon_n`, K = `steps` and s by `adjust`, of a matrix of r rows
    and c columns: "match_rms_adamw" :math:`0.2 \sqrt{\max(r, c)}` (Liu et al. 2025, https://arxiv.org/abs/2502.16982:
    steps of AdamW's size, so that one learning rate serves both), "original" :math:`\sqrt{\max(1, r / c)}`, "spectral"
    :math:`\sqrt{r / c}`, "none" 1. `coefficients` (a, b, c): "original", "quintic" and "polar_express" (Amsel et al.
    2025, https://arxiv.org/abs/2505.16932), "exact", or a triple for all or each step. State `m`. Jordan et al. 2024,
    https://kellerjordan.github.io/posts/muon.

    The norm is right for every finite u, also where squares of float64 overflow or vanish. With ``norm_eps=0`` an
    update of zeros moves nothing.

    What is no matrix is moved by AdamW, with `beta1`, `beta2`, `eps` (with ``eps=0``, 0 / 0 moves nothing), the same
    weight decay and `fallback_scale` times the learning rate; so is what ``fallback={"embedding": True}`` names.
    ``fallback=None`` refuses what is no matrix. A tensor of more than two axes is one matrix, the first axis by all
    others.

    The iteration runs in the precision of the rule. fastlr itself iterates on matrices of up to about 64 x 64, many at
    a time and with the same bits everywhere; larger ones by NumPy's BLAS, whose bits may depend on its threads and
    CPU. So that a step that fails (no memory, an interrupt) changes nothing, the updates of all larger matrices are
    held until the last is made: as much memory as their `m`.

    As ``torch.optim.Muon`` with ``adjust="original"``, which iterates in bfloat16, moves matrices alone and whose
    weight_decay is 0.1; as Keras', whose momentum is not averaged (which the norm cancels). ``convention="optax"``: as
    ``optax.contrib.muon`` of the transposed matrix, which corrects m and u for their start and adds
    :math:`\epsilon_n` to the norm.

    >>> import numpy as np, fastlr
    >>> p = np.zeros((2, 2))
    >>> fastlr.Muon(p, lr=0.1, adjust="none", coefficients="exact", steps=20).step(np.array([[3.0, 0.0], [0.0, -0.1]]))
    >>> p.round(3) + 0.0
    array([[-0.1,  0. ],
           [ 0. ,  0.1]])
    """

    momentum: Hyper = within(0.95, 0, 1)
    norm_eps: Hyper = within(1e-7)
    fallback_scale: Hyper = within(1.0)
    beta1: Hyper = within(0.9, 0, 1)
    beta2: Hyper = within(0.95, 0, 1)
    eps: Hyper = within(1e-8)
    weight_decay: Hyper = within(0.1)
    coefficients: Any = one_of(*COEFFICIENTS, check=triples, takes=Sequence[float] | Sequence[Sequence[float]])
    steps: int = one_of(5, check=count_of_steps)
    adjust: str = one_of("match_rms_adamw", "original", "spectral", "none")
    nesterov: bool = one_of(True, False)
    matrix_rule: ClassVar[str] = "fastlr._matrix.muon:muon"

    def _rule_options(self) -> dict[str, float | list[float]]:
        return {"nesterov": self.nesterov, "corrects_bias": self.convention == "optax",
                "lr_factor": [adjusted(self.adjust, *tensor.matrix_shape[1:]) if tensor.array.size else 1.0
                              for tensor in self._tensors]}

    def _rule_constants(self) -> tuple[float, ...]:
        chosen = COEFFICIENTS[self.coefficients] if isinstance(self.coefficients, str) else self.coefficients
        self._steps = [chosen[min(k, len(chosen) - 1)] for k in range(self.steps)]
        return tuple(coefficient for triple in self._steps for coefficient in triple)

    def _update(self, update: Array, into: Array) -> None:
        made = orthogonalized(update, self._steps, into)
        if not np.may_share_memory(made, into):
            np.copyto(into, made)


def adjusted(how: str, rows: int, cols: int) -> float:
    """What a matrix's learning rate is multiplied by."""
    return {"match_rms_adamw": 0.2 * sqrt(max(rows, cols)), "original": sqrt(max(1, rows / cols)),
            "spectral": sqrt(rows / cols), "none": 1.0}[how]


class Decomposing(WithFallback, family=True):
    """A rule made of products and bases of matrices. They are NumPy's; an interface may have its own."""

    def _product(self, a: Array, b: Array) -> Array:
        product: Array = a @ b
        return product

    def _gram_added(self, sums: Array, x: Array, keep: float = 1.0, share: float = 1.0) -> Array:
        """keep sums + share x x^T, of symmetric sums."""
        gram: Array = x @ x.T          # (NumPy sees a matrix by its transpose: half the work)
        if share != 1:
            gram *= share
        gram += sums if keep == 1 else sums * sums.dtype.type(keep)
        return gram

    def _orthonormal(self, x: Array) -> Array:
        """Q of a QR decomposition."""
        return np.linalg.qr(x)[0]


class Shampoo(Decomposing, decay="coupled"):
    r"""AdaGrad of whole rows and columns: gradients between the roots of what their products have added up to.

    .. math::
        L \leftarrow L + g g^\top, \quad R \leftarrow R + g^\top g, \quad
        p \leftarrow p - \eta\, (L + \epsilon I)^{-1/4} g (R + \epsilon I)^{-1/4}

    with `matrix_eps` :math:`\epsilon`. State `L`, `R` and their roots `PL`, `PR`, computed again every `every` steps; a
    side longer than `largest` has none, and the other the power -1/2. Gupta, Koren & Singer 2018,
    https://arxiv.org/abs/1802.09568, algorithm 1. As ``pytorch_optimizer.Shampoo`` without momentum; torch, optax and
    Keras have none.

    What is no matrix is moved by AdamW, as in Muon, with `beta1`, `beta2`, `eps`. Products and roots are NumPy's BLAS
    and LAPACK, whose bits may depend on their threads and CPU. So that a step that fails (a decomposition that does not
    converge, an interrupt) changes nothing, what it makes is held until all is made: for its time, as much memory again
    as state and matrices.

    With ``eps=0``, 0 / 0 moves nothing.

    >>> import numpy as np, fastlr
    >>> p = np.zeros((2, 2))
    >>> fastlr.Shampoo(p, lr=0.1).step(np.array([[4.0, 0.0], [0.0, -0.25]]))
    >>> p.round(3) + 0.0
    array([[-0.1,  0. ],
           [ 0. ,  0.1]])
    """

    matrix_eps: Hyper = within(1e-6)
    fallback_scale: Hyper = within(1.0)
    beta1: Hyper = within(0.9, 0, 1)
    beta2: Hyper = within(0.999, 0, 1)
    eps: Hyper = within(1e-8)
    every: int = one_of(1, check=count_of_steps)
    largest: int = one_of(8192, check=count_of_steps)

    def _slots(self, tensor: Tensor, rule: MatrixRule | None) -> Slots:
        if rule is not None:
            return super()._slots(tensor, rule)
        _, rows, cols = as_matrix(tensor.array.shape)
        return {slot: ((n, n), False) for slot, n in (("L", rows), ("R", cols), ("PL", rows), ("PR", cols))
                if n <= self.largest}

    def _update(self, i: int, g: Array, hyper: dict[str, float], t: int) -> tuple[Array, float, dict[str, Array]]:
        memory, new = self._tensors[i].matrices, dict[str, Array]()
        power = -0.25 if "L" in memory and "R" in memory else -0.5
        for statistic, root, factor in (("L", "PL", g), ("R", "PR", g.T)):
            if statistic in memory:
                new[statistic] = self._gram_added(memory[statistic], factor)
                if (t - 1) % self.every == 0:
                    new[root] = self._root(new[statistic], hyper["matrix_eps"], power)
        update = g
        if "L" in memory:
            update = self._product(new.get("PL", memory["PL"]), update)
        if "R" in memory:
            update = self._product(update, new.get("PR", memory["PR"]))
        return update, 1.0, new

    def _root(self, statistic: Array, eps: float, power: float) -> Array:
        """(statistic + eps)**power of a symmetric matrix with no eigenvalue below 0 but by rounding; NaN for NaN."""
        if not np.isfinite(statistic).all():
            return np.full_like(statistic, np.nan)
        values, vectors = np.linalg.eigh(statistic.astype(np.float64))
        # (what rounding made of an eigenvalue of 0 must not outweigh eps, and 0 itself stays a number in float32)
        scaled = vectors * (np.maximum(values, 0) + max(eps, 1e-30)) ** power
        root: Array = self._product(scaled, vectors.T).astype(statistic.dtype)
        return root


class SOAP(Decomposing, decay="decoupled"):
    r"""Adam in the eigenbasis of Shampoo's products.

    .. math::
        L \leftarrow \beta_s L + (1 - \beta_s) g g^\top, \quad R \leftarrow \beta_s R + (1 - \beta_s) g^\top g, \quad
        g' = Q_L^\top g Q_R

        m \leftarrow \beta_1 m + (1 - \beta_1) g, \quad v \leftarrow \beta_2 v + (1 - \beta_2) g'^2, \quad
        p \leftarrow p - \eta \frac{\sqrt{1 - \beta_2^t}}{1 - \beta_1^t}
        Q_L \frac{Q_L^\top m Q_R}{\sqrt v + \epsilon} Q_R^\top

    with `shampoo_beta` :math:`\beta_s`. The first gradient makes the bases and moves nothing, and t counts from the
    second; every `every` steps one power iteration and a QR decomposition bring Q_L and Q_R nearer to the eigenvectors
    of L and R. State `m`, `v`, `L`, `R`, `QL`, `QR`; a side longer than `largest` keeps its own basis. Vyas et al.
    2024, https://arxiv.org/abs/2409.11321, algorithm 3. As ``pytorch_optimizer.SOAP`` and the authors' code, which make
    the QR decomposition in float32 whatever the parameters are, and shrink the parameter after the step; torch, optax
    and Keras have none.

    With ``eps=0``, 0 / 0 moves nothing. What is no matrix is moved by AdamW, as in Muon. Products and decompositions
    are NumPy's BLAS and LAPACK, whose bits may depend on their threads and CPU. What a step makes is held until all is
    made, as in Shampoo.

    >>> import numpy as np, fastlr
    >>> p = np.zeros((2, 2))
    >>> opt = fastlr.SOAP(p, lr=0.1, weight_decay=0.0)
    >>> for _ in range(2):
    ...     opt.step(np.array([[4.0, 0.0], [0.0, -0.25]]))
    >>> p.round(3) + 0.0
    array([[-0.1,  0. ],
           [ 0. ,  0.1]])
    """

    lr: Hyper = within(3e-3)
    shampoo_beta: Hyper = within(0.95, 0, 1)
    fallback_scale: Hyper = within(1.0)
    beta1: Hyper = within(0.95, 0, 1)
    beta2: Hyper = within(0.95, 0, 1)
    eps: Hyper = within(1e-8)
    weight_decay: Hyper = within(0.01)
    every: int = one_of(10, check=count_of_steps)
    largest: int = one_of(10_000, check=count_of_steps)

    def _slots(self, tensor: Tensor, rule: MatrixRule | None) -> Slots:
        if rule is not None:
            return super()._slots(tensor, rule)
        _, rows, cols = as_matrix(tensor.array.shape)
        squares: Slots = {slot: ((n, n), False) for slot, n in (("L", rows), ("R", cols), ("QL", rows), ("QR", cols))
                          if n <= self.largest}
        return {"m": (tensor.array.shape, False), "v": (tensor.array.shape, False), **squares}

    def _update(self, i: int, g: Array, hyper: dict[str, float], t: int) -> tuple[Array, float, dict[str, Array]]:
        memory, real, new = self._tensors[i].matrices, g.dtype.type, dict[str, Array]()
        update, factor = np.zeros_like(g), 1.0
        beta1, beta2, beta = hyper["beta1"], hyper["beta2"], hyper["shampoo_beta"]
        v = memory["v"].reshape(g.shape)
        if t > 1:
            m = memory["m"].reshape(g.shape) * real(beta1)
            m += g * real(1 - beta1)
            v = v * real(beta2)
            v += self._rotated(g, memory) ** 2 * real(1 - beta2)
            new |= {"m": m, "v": v}
            factor = sqrt(1 - beta2 ** (t - 1)) / (1 - beta1 ** (t - 1))
            eps, mean = real(hyper["eps"]), self._rotated(m, memory)
            root = np.sqrt(v) + eps
            # (0 / 0 is 0; a mask makes a step 5 % longer)
            quotient = mean / root if eps > 0 else np.divide(mean, root, out=np.zeros_like(g), where=root != 0)
            update = self._rotated(quotient, memory, back=True)
        for axis, (side, basis, rows) in enumerate((("L", "QL", g), ("R", "QR", g.T))):
            if side not in memory:
                continue
            new[side] = mean = self._gram_added(memory[side], rows, beta, 1 - beta)
            if not np.isfinite(mean).all():
                new[basis] = np.full_like(mean, np.nan)
            elif t == 1:
                new[basis] = np.linalg.eigh(mean)[1][:, ::-1]
            elif (t - 1) % self.every == 0:
                towards = self._product(mean, memory[basis])
                order = np.argsort(-(memory[basis] * towards).sum(axis=0), kind="stable")
                new["v"] = v = np.take(v, order, axis=axis)
                new[basis] = self._orthonormal(towards[:, order])
        return update, factor, new

    def _rotated(self, x: Array, memory: dict[str, Array], back: bool = False) -> Array:
        """A matrix into the bases that are kept, or back."""
        if "QL" in memory:
            x = self._product(memory["QL"] if back else memory["QL"].T, x)
        if "QR" in memory:
            x = self._product(x, memory["QR"].T if back else memory["QR"])
        return x
