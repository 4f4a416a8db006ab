"""Adam and what follows from it: a running mean of gradients over the root of a running mean of their squares."""
from __future__ import annotations

from .base import Optimizer
from .declaration import Convention, Hyper, initial_state, within


def shares_of_moments(h: dict[str, float], first_update: bool) -> dict[str, tuple[int, float]]:
    """What running means of gradients and of their squares take of one more gradient, before they decay."""
    return {"m": (1, (1 - h["beta1"]) / h["beta1"]), "v": (2, (1 - h["beta2"]) / h["beta2"])}


class Adam(Optimizer, fades="m", accumulation=shares_of_moments, conventions={
        "torch": "Adam", "optax": "Adam", "keras": Convention("AdamHat", "decoupled", eps=1e-7)}):
    r"""The mean of past gradients over their root mean square, both corrected for their start at zero.

    .. math::
        m \leftarrow \beta_1 m + (1 - \beta_1) g, \quad v \leftarrow \beta_2 v + (1 - \beta_2) g^2, \quad
        p \leftarrow p - \eta \frac{m / (1 - \beta_1^t)}{\sqrt{v / (1 - \beta_2^t)} + \epsilon}

    State `m` and `v`. Kingma & Ba 2015, https://arxiv.org/abs/1412.6980, algorithm 1. As ``torch.optim.Adam`` and
    ``optax.adam`` (with ``eps_root=0``): epsilon beside the corrected root, so that it weighs the same at every step.

    ``convention="keras"``: epsilon beside the uncorrected root, the paper's "epsilon hat",

    .. math::
        p \leftarrow p - \eta \frac{\sqrt{1 - \beta_2^t}}{1 - \beta_1^t} \frac{m}{\sqrt{v} + \hat\epsilon}

    where it weighs :math:`1 / \sqrt{1 - \beta_2}` times as much at the first step; it is 1e-7, and weight decay is
    decoupled.

    With ``eps=0``, 0 / 0 is NaN by ``convention="torch"``, as in torch; by the others it moves nothing.

    >>> import numpy as np, fastlr
    >>> p = np.array([1.0, 1.0])
    >>> fastlr.Adam(p, lr=0.1).step(np.array([5.0, -0.01]))
    >>> p.round(6)
    array([0.9, 1.1])
    """

    beta1: Hyper = within(0.9, 0, 1)
    beta2: Hyper = within(0.999, 0, 1)
    eps: Hyper = within(1e-8)


class AMSGrad(Adam, accumulation=shares_of_moments, conventions={
        "torch": "AMSGrad", "optax": "AMSGradCorrected",
        "keras": Convention("AMSGradHat", "decoupled", eps=1e-7), "paper": "AMSGradPlain"}):
    r"""Adam that never forgets the largest mean square an element has had.

    .. math::
        v_{\max} \leftarrow \max(v_{\max}, v), \quad
        p \leftarrow p - \eta \frac{m / (1 - \beta_1^t)}{\sqrt{v_{\max} / (1 - \beta_2^t)} + \epsilon}

    with m and v as in Adam. State `m`, `v` and `vmax`. Reddi, Kale & Kumar 2018, https://arxiv.org/abs/1904.09237. As
    ``torch.optim.Adam(amsgrad=True)``.

    ``convention="optax"``: the maximum of the corrected mean square, :math:`v_{\max} \leftarrow \max(v_{\max},
    v / (1 - \beta_2^t))`, where a large first gradient stays for good. ``"keras"``: epsilon, its default and weight
    decay as in Keras' `Adam`. ``"paper"``: neither moment is corrected, :math:`p \leftarrow p - \eta m /
    (\sqrt{v_{\max}} + \epsilon)`.

    With ``eps=0``, 0 / 0 is NaN by ``convention="torch"``, as in torch; by the others it moves nothing.

    >>> import numpy as np, fastlr
    >>> p = np.array([1.0])
    >>> fastlr.AMSGrad(p, lr=0.1).step(np.array([5.0]))
    >>> round(float(p[0]), 6)
    0.9
    """


class AdamW(Adam, fades="m", decay="decoupled", accumulation=shares_of_moments, conventions={
        "torch": "AdamW", "optax": Convention("AdamW", weight_decay=1e-4),
        "keras": Convention("AdamWHat", eps=1e-7, weight_decay=4e-3)}):
    r"""Adam, and apart from it each parameter shrinks by lr * weight_decay.

    .. math:: p \leftarrow (1 - \eta \lambda) p, \quad \text{then Adam}

    State `m` and `v`. Loshchilov & Hutter 2019, https://arxiv.org/abs/1711.05101, with their schedule multiplier
    inside :math:`\eta`. As ``torch.optim.AdamW``, with its default weight_decay 0.01. ``decay="independent"`` shrinks
    by weight_decay alone.

    ``convention="optax"``: the same up to rounding, with weight_decay 1e-4. ``"keras"``: epsilon beside the uncorrected
    root, as in Keras' `Adam`, and 1e-7; weight_decay 0.004.

    With ``eps=0``, 0 / 0 is NaN by ``convention="torch"``, as in torch; by the others it moves nothing.

    >>> import numpy as np, fastlr
    >>> p = np.array([1.0])
    >>> fastlr.AdamW(p, lr=0.1, weight_decay=0.5).step(np.array([2.0]))
    >>> round(float(p[0]), 6)
    0.85
    """

    weight_decay: Hyper = within(0.01)


class NAdam(Adam, fades="m", conventions={
        "torch": "NAdam", "optax": "NAdamConstant",
        "keras": Convention("NAdam", "decoupled", lr=1e-3, eps=1e-7, momentum_decay=1.0)}):
    r"""Adam with Nesterov's momentum: it looks one step ahead, by a momentum that grows towards beta1.

    .. math::
        \mu_t = \beta_1 (1 - \tfrac12 0.96^{t \psi}), \quad
        p \leftarrow p - \eta \left( \frac{1 - \mu_t}{1 - \prod_{i \le t} \mu_i} g
        + \frac{\mu_{t+1}}{1 - \prod_{i \le t+1} \mu_i} m \right) \bigg/
        \left( \sqrt{v / (1 - \beta_2^t)} + \epsilon \right)

    with m and v as in Adam and :math:`\psi` = `momentum_decay`. State `m`, `v`, and of each tensor `mu_product`. Dozat
    2016, https://openreview.net/forum?id=OM0jvwB8jIp57ZJjtNEZ. As ``torch.optim.NAdam``, with its defaults.

    ``convention="optax"``: there is no schedule, :math:`\mu_t = \beta_1` from the start, and momentum_decay has no say.
    ``"keras"``: momentum_decay is 1, lr 0.001, eps 1e-7, and weight decay decoupled.

    With ``eps=0``, 0 / 0 is NaN by ``convention="torch"``, as in torch; by the others it moves nothing.

    >>> import numpy as np, fastlr
    >>> p = np.array([1.0])
    >>> fastlr.NAdam(p, lr=0.1).step(np.array([5.0]))
    >>> round(float(p[0]), 6)
    0.894355
    """

    lr: Hyper = within(2e-3)
    momentum_decay: Hyper = within(4e-3)


class Adan(Optimizer, decay="decoupled",
           conventions={"pytorch-optimizer": "Adan", "optax": "AdanComplement"}):
    r"""Nesterov's momentum by the difference of gradients.

    .. math::
        d = g - g_{t-1}, \quad m \leftarrow \beta_1 m + (1 - \beta_1) g, \quad
        v \leftarrow \beta_2 v + (1 - \beta_2) d, \quad
        n \leftarrow \beta_3 n + (1 - \beta_3) (g + \beta_2 d)^2, \\
        p \leftarrow \frac{1}{1 + \eta \lambda} \left( p - \eta
        \frac{m / (1 - \beta_1^t) + \beta_2 v / (1 - \beta_2^t)}{\sqrt{n / (1 - \beta_3^t)} + \epsilon} \right)

    where d = 0 at the first step. State `m`, `v`, `n` and the gradient before, `g_prev`. Xie et al.
    2023, https://arxiv.org/abs/2208.06677, with each beta what the paper calls 1 - beta. As ``pytorch_optimizer.Adan``,
    the authors' code and the paper.

    ``convention="optax"``: where :math:`\beta_2` is a factor, of d and of v, there is :math:`1 - \beta_2`; the root is
    :math:`\sqrt{n / (1 - \beta_3^t) + \epsilon} + \epsilon` (optax' eps_root and eps, of the same default), and weight
    decay is as in `AdamW`.

    With ``eps=0``, 0 / 0 moves nothing.

    >>> import numpy as np, fastlr
    >>> p = np.array([1.0])
    >>> fastlr.Adan(p, lr=0.1).step(np.array([5.0]))
    >>> round(float(p[0]), 6)
    0.9
    """

    beta1: Hyper = within(0.98, 0, 1)
    beta2: Hyper = within(0.92, 0, 1)
    beta3: Hyper = within(0.99, 0, 1)
    eps: Hyper = within(1e-8)


class NAdamW(NAdam, fades="m", decay="decoupled", rule="NAdam",
             conventions={"torch": "NAdam", "optax": Convention("NAdamConstant", weight_decay=1e-4)}):
    r"""NAdam, and apart from it each parameter shrinks by lr * weight_decay.

    .. math:: p \leftarrow (1 - \eta \lambda) p, \quad \text{then NAdam}

    State `m`, `v`, and of each tensor `mu_product`. Dozat 2016 with the decay of Loshchilov & Hutter 2019,
    https://arxiv.org/abs/1711.05101. As ``torch.optim.NAdam(decoupled_weight_decay=True)``. ``convention="optax"``: no
    schedule of mu, and weight_decay 1e-4.

    With ``eps=0``, 0 / 0 is NaN by ``convention="torch"``, as in torch; by the others it moves nothing.

    >>> import numpy as np, fastlr
    >>> p = np.array([1.0])
    >>> fastlr.NAdamW(p, lr=0.1, weight_decay=1.0).step(np.array([5.0]))
    >>> round(float(p[0]), 6)
    0.794355
    """

    weight_decay: Hyper = within(0.01)


class AdaMax(Adam, conventions={
        "torch": "AdaMax", "optax": "AdaMax", "keras": Convention("AdaMaxOutside", "decoupled", lr=1e-3, eps=1e-7)}):
    r"""Adam by the largest gradient that an element remembers, in place of a mean square.

    .. math::
        m \leftarrow \beta_1 m + (1 - \beta_1) g, \quad u \leftarrow \max(\beta_2 u, |g| + \epsilon), \quad
        p \leftarrow p - \frac{\eta}{1 - \beta_1^t} \frac{m}{u}

    State `m` and `u`. Kingma & Ba 2015, https://arxiv.org/abs/1412.6980, section 7.1. As ``torch.optim.Adamax`` and
    ``optax.adamax``.

    ``convention="keras"``: epsilon is no part of u, :math:`u \leftarrow \max(\beta_2 u, |g|)`, but is added to it where
    it divides; lr is 0.001, eps 1e-7 and weight decay decoupled.

    With ``eps=0``, 0 / 0 is NaN by ``convention="torch"``, as in torch; by the others it moves nothing.

    >>> import numpy as np, fastlr
    >>> p = np.array([1.0, 1.0])
    >>> fastlr.AdaMax(p, lr=0.1).step(np.array([5.0, -0.01]))
    >>> p.round(6)
    array([0.9, 1.1])
    """

    lr: Hyper = within(2e-3)


class LaProp(Adam, fades="m"):
    r"""First normalise the gradient, then let it gather momentum.

    .. math::
        v \leftarrow \beta_2 v + (1 - \beta_2) g^2, \quad
        m \leftarrow \beta_1 m + (1 - \beta_1) \frac{g}{\sqrt{v / (1 - \beta_2^t)} + \epsilon}, \quad
        p \leftarrow p - \eta \frac{m}{1 - \beta_1^t}

    State `m` and `v`. Ziyin, Wang & Ueda 2020, https://arxiv.org/abs/2002.04839, algorithm 1. As
    ``pytorch_optimizer.LaProp`` while the learning rate stays: there it is inside `m`, and epsilon beside the
    uncorrected root.

    With ``eps=0``, 0 / 0 moves nothing.

    >>> import numpy as np, fastlr
    >>> p = np.array([1.0, 1.0])
    >>> fastlr.LaProp(p, lr=0.1).step(np.array([5.0, -0.01]))
    >>> p.round(6)
    array([0.9, 1.1])
    """

    lr: Hyper = within(4e-4)
    eps: Hyper = within(1e-15)


class QHAdam(Adam, fades="m"):
    r"""Adam between the gradient and its running mean, above and below the line.

    .. math::
        p \leftarrow p - \eta \frac{(1 - \nu_1) g + \nu_1 m / (1 - \beta_1^t)}
        {\sqrt{(1 - \nu_2) g^2 + \nu_2 v / (1 - \beta_2^t)} + \epsilon}

    with m and v as in Adam. State `m` and `v`. Ma & Yarats 2019, https://arxiv.org/abs/1810.06801, with the defaults
    that they recommend. As ``pytorch_optimizer.QHAdam``, whose own defaults (both nu 1) are Adam.

    With ``eps=0``, 0 / 0 moves nothing.

    >>> import numpy as np, fastlr
    >>> p = np.array([1.0])
    >>> fastlr.QHAdam(p, lr=0.1).step(np.array([5.0]))
    >>> round(float(p[0]), 6)
    0.9
    """

    beta1: Hyper = within(0.995, 0, 1)
    nu1: Hyper = within(0.7, 0, 1 + 2**-52)
    nu2: Hyper = within(1.0, 0, 1 + 2**-52)


class RAdam(Adam, fades="m", conventions={"torch": "RAdam", "optax": "RAdamCorrected"}):
    r"""Adam that rectifies the variance of its rate: momentum alone until there are enough gradients to divide by.

    .. math::
        \rho_\infty = \frac{2}{1 - \beta_2} - 1, \quad \rho = \rho_\infty - \frac{2 t \beta_2^t}{1 - \beta_2^t}, \quad
        r = \sqrt{\frac{(\rho - 4)(\rho - 2) \rho_\infty}{(\rho_\infty - 4)(\rho_\infty - 2) \rho}}, \\
        p \leftarrow p - \eta \frac{m}{1 - \beta_1^t} \cdot
        \begin{cases} r \sqrt{1 - \beta_2^t} / (\sqrt{v} + \epsilon) & \rho > 5 \\ 1 & \text{else} \end{cases}

    with m and v as in Adam. State `m` and `v`. Liu et al. 2020, https://arxiv.org/abs/1908.03265. As
    ``torch.optim.RAdam``, epsilon beside the uncorrected root. ``convention="optax"``: beside the corrected one,
    :math:`r / (\sqrt{v / (1 - \beta_2^t)} + \epsilon)`, with the same threshold.

    With ``eps=0``, 0 / 0 is NaN by ``convention="torch"``, as in torch; by the others it moves nothing.

    >>> import numpy as np, fastlr
    >>> p = np.array([1.0])
    >>> fastlr.RAdam(p, lr=0.1).step(np.array([5.0]))
    >>> round(float(p[0]), 6)
    0.5
    """


class RAdamW(RAdam, fades="m", decay="decoupled", rule="RAdam",
             conventions={"torch": "RAdam", "optax": "RAdamCorrected"}):
    r"""RAdam, and apart from it each parameter shrinks by lr * weight_decay.

    .. math:: p \leftarrow (1 - \eta \lambda) p, \quad \text{then RAdam}

    State `m` and `v`. Liu et al. 2020 with the decay of Loshchilov & Hutter 2019, https://arxiv.org/abs/1711.05101. As
    ``torch.optim.RAdam(decoupled_weight_decay=True)``. Conventions as in `RAdam`.

    With ``eps=0``, 0 / 0 is NaN by ``convention="torch"``, as in torch; by the others it moves nothing.

    >>> import numpy as np, fastlr
    >>> p = np.array([1.0])
    >>> fastlr.RAdamW(p, lr=0.1, weight_decay=1.0).step(np.array([5.0]))
    >>> round(float(p[0]), 6)
    0.4
    """

    weight_decay: Hyper = within(0.01)


class AdaBelief(Adam, decay="decoupled"):
    r"""Adam by how far gradients are from what their mean let expect, in place of how large they are.

    .. math::
        m \leftarrow \beta_1 m + (1 - \beta_1) g, \quad
        s \leftarrow \beta_2 s + (1 - \beta_2) (g - m)^2 + \epsilon, \quad
        p \leftarrow p - \eta \frac{m / (1 - \beta_1^t)}{\sqrt{s / (1 - \beta_2^t)} + \epsilon}

    State `m` and `s`. Zhuang et al. 2020, https://arxiv.org/abs/2010.07468, algorithm 2. As ``optax.adabelief`` and
    ``pytorch_optimizer.AdaBelief``; timm's and the authors' code rectify as RAdam does by default.

    With ``eps=0``, 0 / 0 moves nothing.

    >>> import numpy as np, fastlr
    >>> p = np.array([1.0])
    >>> fastlr.AdaBelief(p, lr=0.1).step(np.array([5.0]))
    >>> round(float(p[0]), 6)
    0.888889
    """

    eps: Hyper = within(1e-16)


class Yogi(Adam, fades="m"):
    r"""Adam whose mean square moves by no more than the square of a gradient, so that it forgets slowly.

    .. math::
        m \leftarrow \beta_1 m + (1 - \beta_1) g, \quad
        v \leftarrow v - (1 - \beta_2) \operatorname{sign}(v - g^2) g^2, \quad
        p \leftarrow p - \eta \frac{m / (1 - \beta_1^t)}{\sqrt{v / (1 - \beta_2^t)} + \epsilon}

    State `m`, which begins at `initial_momentum`, and `v`, which begins at `initial_accumulator_value`. Zaheer et al.
    2018, https://papers.nips.cc/paper/8186, algorithm 2, which corrects neither for its start. As ``optax.yogi`` and
    ``pytorch_optimizer.Yogi`` with initial_momentum=1e-6: there `m` begins at 1e-6 too, so that a parameter moves
    before it has had a gradient.

    With ``eps=0``, 0 / 0 moves nothing.

    >>> import numpy as np, fastlr
    >>> p = np.array([1.0])
    >>> fastlr.Yogi(p, lr=0.1).step(np.array([5.0]))
    >>> round(float(p[0]), 6)
    0.900022
    """

    lr: Hyper = within(1e-2)
    eps: Hyper = within(1e-3)
    initial_momentum: Hyper = initial_state("m", 0.0)
    initial_accumulator_value: Hyper = initial_state("v", 1e-6)


class Grams(Adam, decay="decoupled"):
    r"""As far as Adam goes, and in the direction of the gradient at hand.

    .. math::
        p \leftarrow p - \eta \operatorname{sign}(g)
        \frac{|m| / (1 - \beta_1^t)}{\sqrt{v / (1 - \beta_2^t)} + \epsilon}

    with m and v as in Adam. State `m` and `v`. Cao, Li & Song 2024, https://arxiv.org/abs/2412.17107. As
    ``pytorch_optimizer.Grams``.

    With ``eps=0``, 0 / 0 moves nothing.

    >>> import numpy as np, fastlr
    >>> p = np.array([1.0])
    >>> opt = fastlr.Grams(p, lr=0.1)
    >>> for g in (5.0, -1.0):
    ...     opt.step(np.array([g]))
    ...     print(round(float(p[0]), 6))
    0.9
    0.951103
    """

    eps: Hyper = within(1e-6)


class AdaBound(Adam):
    r"""Adam whose rate for each element is held between bounds that close in on one rate for all.

    .. math::
        p \leftarrow p - \eta \operatorname{clip} \left( \frac{\sqrt{1 - \beta_2^t} / (1 - \beta_1^t)}
        {\sqrt{v} + \epsilon}, \, f \left(1 - \frac{1}{\gamma t + 1}\right), \,
        f \left(1 + \frac{1}{\gamma t}\right) \right) m

    with m and v as in Adam, and f = `final_scale`: it ends as gradient descent with momentum at the rate
    final_scale * lr. State `m` and `v`. Luo, Xiong, Liu & Sun 2019, https://arxiv.org/abs/1902.09843. As
    ``pytorch_optimizer.AdaBound`` and the authors' code, where the rate in the end is given as final_lr = 0.1 and
    follows a schedule of lr; here it is in units of lr, so that it does so by itself.

    With ``eps=0``, 0 / 0 moves nothing.

    >>> import numpy as np, fastlr
    >>> p = np.array([1.0])
    >>> fastlr.AdaBound(p, lr=0.1, final_scale=1.0).step(np.array([5.0]))
    >>> round(float(p[0]), 6)
    0.9
    """

    final_scale: Hyper = within(100.0)
    gamma: Hyper = within(1e-3, 1e-12)


class DiffGrad(Adam):
    r"""Adam that halves its step where a gradient hardly changes.

    .. math::
        \xi = \frac{1}{1 + e^{-|g_{t-1} - g|}}, \quad
        p \leftarrow p - \eta \frac{\xi m / (1 - \beta_1^t)}{\sqrt{v / (1 - \beta_2^t)} + \epsilon}

    with m and v as in Adam. State `m`, `v` and the gradient before, `g_prev`, which begins at 0. Dubey et al. 2020,
    https://arxiv.org/abs/1909.11015. As ``pytorch_optimizer.DiffGrad`` and the authors' code, but epsilon
    beside the corrected root, as in Adam; there it is beside the uncorrected one.

    With ``eps=0``, 0 / 0 moves nothing.

    >>> import numpy as np, fastlr
    >>> p = np.array([1.0])
    >>> fastlr.DiffGrad(p, lr=0.1).step(np.array([5.0]))
    >>> round(float(p[0]), 6)
    0.900669
    """


class ADOPT(Optimizer, conventions={
        "optax": "ADOPT", "pytorch-optimizer": "ADOPTWider", "timm": Convention("ADOPT", clip_exponent=0.333)}):
    r"""Divide by the mean square of the gradients before, then let the quotient gather momentum.

    .. math::
        n = \operatorname{clip} \left( \frac{g}{\max(\sqrt{v}, \epsilon)}, \pm (t - 1)^c \right), \quad
        m \leftarrow \beta_1 m + (1 - \beta_1) n, \quad p \leftarrow p - \eta m, \quad
        v \leftarrow \beta_2 v + (1 - \beta_2) g^2

    with c = `clip_exponent`. The first update only sets v to the square: nothing moves. State `m` and `v`. Taniguchi et
    al. 2024, https://arxiv.org/abs/2411.02853, algorithm 2. As ``optax.contrib.adopt`` and the authors' code.

    ``convention="pytorch-optimizer"``: clipped by :math:`t^c`. ``"timm"``: c is 0.333.

    With ``eps=0``, 0 / 0 moves nothing.

    >>> import numpy as np, fastlr
    >>> p = np.array([1.0])
    >>> opt = fastlr.ADOPT(p, lr=0.1)
    >>> for g in (5.0, 5.0):
    ...     opt.step(np.array([g]))
    ...     print(round(float(p[0]), 6))
    1.0
    0.99
    """

    beta1: Hyper = within(0.9, 0, 1)
    beta2: Hyper = within(0.9999, 0, 1)
    clip_exponent: Hyper = within(0.25)
    eps: Hyper = within(1e-6)


class AdEMAMix(Optimizer, decay="decoupled"):
    r"""Adam with a second mean of gradients that remembers ten thousand of them.

    .. math::
        m_2 \leftarrow \beta_3 m_2 + (1 - \beta_3) g, \quad
        p \leftarrow p - \eta \frac{m / (1 - \beta_1^t) + \alpha m_2}{\sqrt{v / (1 - \beta_2^t)} + \epsilon}

    with m and v as in Adam. State `m`, `v` and `m2`. Over the first `alpha_warmup` updates alpha grows from 0, and over
    `beta3_warmup` the half-life of `m2` from that of `m`, each linearly; the authors take the length of the training
    for both, and 0 is off. Pagliardini, Ablin & Grangier 2024, https://arxiv.org/abs/2409.03137. As
    ``optax.contrib.ademamix`` and ``pytorch_optimizer.AdEMAMix``.

    With ``eps=0``, 0 / 0 moves nothing.

    >>> import numpy as np, fastlr
    >>> p = np.array([1.0])
    >>> fastlr.AdEMAMix(p, lr=0.1).step(np.array([5.0]))
    >>> round(float(p[0]), 6)
    0.89995
    """

    beta1: Hyper = within(0.9, 0, 1)
    beta2: Hyper = within(0.999, 0, 1)
    beta3: Hyper = within(0.9999, 0, 1)
    alpha: Hyper = within(5.0)
    alpha_warmup: Hyper = within(0.0)
    beta3_warmup: Hyper = within(0.0)
    eps: Hyper = within(1e-8)


class AdamS(Optimizer, decay="decoupled"):
    r"""Adam without a second moment: the mean of the gradients divides its own step.

    .. math::
        s = \beta_2 m^2 + (1 - \beta_2) g^2, \quad m \leftarrow \beta_1 m + (1 - \beta_1) g, \quad
        p \leftarrow p - \eta \frac{m}{\sqrt{s} + \epsilon}

    where s has the mean of the step before. State `m`, as much as Momentum's; no correction for the start. Zhang,
    Wang & Chen 2025, https://arxiv.org/abs/2505.16363. torch, optax and Keras have none; pytorch-optimizer's AdamS is
    another rule, Adam with another weight decay.

    With ``eps=0``, 0 / 0 moves nothing.

    >>> import numpy as np, fastlr
    >>> p = np.array([1.0])
    >>> fastlr.AdamS(p, lr=0.1, beta2=0.75).step(np.array([5.0]))
    >>> round(float(p[0]), 6)
    0.98
    """

    beta1: Hyper = within(0.9, 0, 1)
    beta2: Hyper = within(0.95, 0, 1)
    eps: Hyper = within(1e-8)
