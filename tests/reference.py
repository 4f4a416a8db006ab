"""Each optimizer again, in NumPy and in its paper's own notation: theta by its gradient g at step t = 1, 2, ...

Each takes and returns the parameter and then the slots, in the precision of what it is given. `see(k, value)` is shown
every value that a step stores (0 the parameter, then the slots) and says with which one to go on: a test that gives
back what a kernel stored checks each expression from the same inputs.
"""
import functools
import inspect

import numpy as np


def unseen(k, value):
    return value


def SGD(theta, g, t, *, lr, see=unseen):
    return (see(0, theta - lr * g),)


def SignSGD(theta, g, t, *, lr, see=unseen):
    return (see(0, theta - lr * np.sign(g)),)


def Signum(theta, g, t, m, *, lr, momentum, see=unseen):
    m = see(1, momentum * m + (1 - momentum) * g)
    return see(0, theta - lr * np.sign(m)), m


Tiger = Signum


def Lion(theta, g, t, m, *, lr, beta1, beta2, see=unseen):
    c = beta1 * m + (1 - beta1) * g
    return see(0, theta - lr * np.sign(c)), see(1, beta2 * m + (1 - beta2) * g)


def Momentum(theta, g, t, m, *, lr, momentum, dampening, see=unseen):
    m = see(1, g if t == 1 else momentum * m + (1 - dampening) * g)
    return see(0, theta - lr * m), m


SGDW = Momentum


def QHM(theta, g, t, m, *, lr, momentum, nu, see=unseen):
    m = see(1, momentum * m + (1 - momentum) * g)
    return see(0, theta - lr * ((1 - nu) * g + nu * m)), m


def AggMo(theta, g, t, v1, v2, v3, *, lr, beta1, beta2, beta3, see=unseen):
    v1, v2, v3 = see(1, beta1 * v1 + g), see(2, beta2 * v2 + g), see(3, beta3 * v3 + g)
    return see(0, theta - lr / 3 * (v1 + v2 + v3)), v1, v2, v3


def ASGD(theta, g, t, ax, averaging=0, *, lr, lambd, alpha, t0, see=unseen):
    eta = lr / (1 + lambd * lr * (t - 1))**alpha
    theta = see(0, theta * (1 - lambd * eta) - eta * g)
    mu = 1 / max(1, t - 1 - t0)
    begun = t - t0 > 1                     # (the mean is kept where the next update, at the latest, needs it)
    return theta, see(1, ax if not begun else theta if mu == 1 else ax + mu * (theta - ax)), see(2, theta.dtype.type(begun))


def Rprop(theta, g, t, g_before, delta, *, lr, eta_minus, eta_plus, step_min, step_max, see=unseen):
    turn = np.sign(g * g_before)
    factor = np.where(turn > 0, eta_plus, np.where(turn < 0, eta_minus, 1))
    delta = see(2, np.clip((lr if t == 1 else delta) * factor, step_min, step_max))
    g = see(1, np.where(turn < 0, 0, g))
    return see(0, theta - delta * np.sign(g)), g, delta


def Nesterov(theta, g, t, m, *, lr, momentum, see=unseen):
    m = see(1, momentum * m + g)
    return see(0, theta - lr * (g + momentum * m)), m


def MomentumInside(theta, g, t, v, *, lr, momentum, dampening, see=unseen):
    v = see(1, lr * g if t == 1 else momentum * v + lr * (1 - dampening) * g)
    return see(0, theta - v), v


def NesterovInside(theta, g, t, v, *, lr, momentum, see=unseen):
    v = see(1, momentum * v + lr * g)
    return see(0, theta - (momentum * v + lr * g)), v


def RpropLate(theta, g, t, coming, delta, *, lr, eta_minus, eta_plus, step_min, step_max, see=unseen):
    delta = lr * np.ones_like(g) if t == 1 else delta
    turn = np.sign(g * coming)
    theta = see(0, theta - np.where(turn < 0, 0, coming))
    factor = np.where(turn > 0, eta_plus, eta_minus)
    delta = see(2, np.where(turn == 0, delta, np.clip(delta * factor, step_min, step_max)))
    return theta, see(1, np.where(turn < 0, 0, delta * np.sign(g))), delta


def AdaGradInside(theta, g, t, s, *, lr, lr_decay, eps, see=unseen):
    s = see(1, s + g**2)
    return see(0, theta - lr / (1 + (t - 1) * lr_decay) * g / np.sqrt(s + eps)), s


def AdaGrad(theta, g, t, s, *, lr, lr_decay, eps, see=unseen):
    s = see(1, s + g**2)
    return see(0, theta - lr / (1 + (t - 1) * lr_decay) * g / (np.sqrt(s) + eps)), s


def FTRL(w, g, t, z, n, alpha, *, lr, beta, l1, l2, see=unseen):
    alpha = lr if t == 1 or alpha == 0 else alpha          # (0 only where sizes are computed)
    z = z - w * ((beta + np.sqrt(n)) / alpha + l2) - l1 * np.sign(w) if t == 1 else z
    n_before, n = n, see(2, n + g**2)
    z = see(1, z + (g - ((beta + np.sqrt(n)) / lr - (beta + np.sqrt(n_before)) / alpha) * w))
    balance = (beta + np.sqrt(n)) / lr + l2
    w = np.where(balance > 0, np.where(abs(z) > l1, (np.sign(z) * l1 - z) / np.where(balance > 0, balance, 1), 0), w)
    return see(0, w), z, n, see(3, lr)


def MADGRAD(x, g, k, s, v, x0, *, lr, momentum, eps, see=unseen):
    lamb = (lr + eps) * np.sqrt(np.asarray(k, x.dtype))
    x0 = x if k == 1 else x0
    see(3, x0)
    s, v = see(1, s + lamb * g), see(2, v + lamb * g**2)
    z = x0 - s / (np.cbrt(v) + eps)
    return see(0, momentum * x + (1 - momentum) * z), s, v, x0


def AdaDelta(x, g, t, Eg2, Edx2, *, lr, rho, eps, see=unseen):
    Eg2 = see(1, rho * Eg2 + (1 - rho) * g**2)
    dx = -np.sqrt(Edx2 + eps) / np.sqrt(Eg2 + eps) * g
    Edx2 = see(2, rho * Edx2 + (1 - rho) * dx**2)
    return see(0, x + lr * dx), Eg2, Edx2


def RMSprop(theta, g, t, v, *, lr, alpha, eps, see=unseen):
    v = see(1, alpha * v + (1 - alpha) * g**2)
    return see(0, theta - lr * g / (np.sqrt(v) + eps)), v


def RMSpropCentered(theta, g, t, n, gbar, *, lr, alpha, eps, see=unseen):
    n = see(1, alpha * n + (1 - alpha) * g**2)
    gbar = see(2, alpha * gbar + (1 - alpha) * g)
    return see(0, theta - lr * g / (np.sqrt(n - gbar**2) + eps)), n, gbar


def RMSpropMomentum(theta, g, t, n, delta, *, lr, alpha, eps, momentum, see=unseen):
    n = see(1, alpha * n + (1 - alpha) * g**2)
    delta = see(2, momentum * delta + g / (np.sqrt(n) + eps))
    return see(0, theta - lr * delta), n, delta


def RMSpropCenteredMomentum(theta, g, t, n, gbar, delta, *, lr, alpha, eps, momentum, see=unseen):
    n = see(1, alpha * n + (1 - alpha) * g**2)
    gbar = see(2, alpha * gbar + (1 - alpha) * g)
    delta = see(3, momentum * delta + g / (np.sqrt(n - gbar**2) + eps))
    return see(0, theta - lr * delta), n, gbar, delta


def RMSpropInside(theta, g, t, v, *, lr, alpha, eps, see=unseen):
    v = see(1, alpha * v + (1 - alpha) * g**2)
    return see(0, theta - lr * g / np.sqrt(v + eps)), v


def RMSpropCenteredInside(theta, g, t, n, gbar, *, lr, alpha, eps, see=unseen):
    n = see(1, alpha * n + (1 - alpha) * g**2)
    gbar = see(2, alpha * gbar + (1 - alpha) * g)
    return see(0, theta - lr * g / np.sqrt(n - gbar**2 + eps)), n, gbar


def RMSpropMomentumInside(theta, g, t, n, delta, *, lr, alpha, eps, momentum, see=unseen):
    n = see(1, alpha * n + (1 - alpha) * g**2)
    delta = see(2, momentum * delta + lr * g / np.sqrt(n + eps))
    return see(0, theta - delta), n, delta


def RMSpropCenteredMomentumInside(theta, g, t, n, gbar, delta, *, lr, alpha, eps, momentum, see=unseen):
    n = see(1, alpha * n + (1 - alpha) * g**2)
    gbar = see(2, alpha * gbar + (1 - alpha) * g)
    delta = see(3, momentum * delta + lr * g / np.sqrt(n - gbar**2 + eps))
    return see(0, theta - delta), n, gbar, delta


def Adam(theta, g, t, m, v, *, lr, beta1, beta2, eps, see=unseen):
    m = see(1, beta1 * m + (1 - beta1) * g)
    v = see(2, beta2 * v + (1 - beta2) * g**2)
    m_hat, v_hat = m / (1 - beta1**t), v / (1 - beta2**t)
    return see(0, theta - lr * m_hat / (np.sqrt(v_hat) + eps)), m, v


def AdamHat(theta, g, t, m, v, *, lr, beta1, beta2, eps, see=unseen):
    m = see(1, beta1 * m + (1 - beta1) * g)
    v = see(2, beta2 * v + (1 - beta2) * g**2)
    alpha = lr * np.sqrt(1 - beta2**t) / (1 - beta1**t)
    return see(0, theta - alpha * m / (np.sqrt(v) + eps)), m, v


AdamWHat = AdamHat


def AMSGradHat(theta, g, t, m, v, v_hat, *, lr, beta1, beta2, eps, see=unseen):
    m = see(1, beta1 * m + (1 - beta1) * g)
    v = see(2, beta2 * v + (1 - beta2) * g**2)
    v_hat = see(3, np.maximum(v_hat, v))
    alpha = lr * np.sqrt(1 - beta2**t) / (1 - beta1**t)
    return see(0, theta - alpha * m / (np.sqrt(v_hat) + eps)), m, v, v_hat


def AMSGradCorrected(theta, g, t, m, v, v_max, *, lr, beta1, beta2, eps, see=unseen):
    m = see(1, beta1 * m + (1 - beta1) * g)
    v = see(2, beta2 * v + (1 - beta2) * g**2)
    v_max = see(3, np.maximum(v_max, v / (1 - beta2**t)))
    return see(0, theta - lr * m / (1 - beta1**t) / (np.sqrt(v_max) + eps)), m, v, v_max


def AMSGradPlain(theta, g, t, m, v, v_hat, *, lr, beta1, beta2, eps, see=unseen):
    m = see(1, beta1 * m + (1 - beta1) * g)
    v = see(2, beta2 * v + (1 - beta2) * g**2)
    v_hat = see(3, np.maximum(v_hat, v))
    return see(0, theta - lr * m / (np.sqrt(v_hat) + eps)), m, v, v_hat


def AMSGrad(theta, g, t, m, v, v_max, *, lr, beta1, beta2, eps, see=unseen):
    m = see(1, beta1 * m + (1 - beta1) * g)
    v = see(2, beta2 * v + (1 - beta2) * g**2)
    v_max = see(3, np.maximum(v_max, v))
    return see(0, theta - lr * m / (1 - beta1**t) / (np.sqrt(v_max / (1 - beta2**t)) + eps)), m, v, v_max


def AdamW(theta, g, t, m, v, *, lr, beta1, beta2, eps, see=unseen):
    return Adam(theta, g, t, m, v, lr=lr, beta1=beta1, beta2=beta2, eps=eps, see=see)


def AdaMax(theta, g, t, m, u, *, lr, beta1, beta2, eps, see=unseen):
    m = see(1, beta1 * m + (1 - beta1) * g)
    u = see(2, np.maximum(beta2 * u, abs(g) + eps))
    return see(0, theta - lr / (1 - beta1**t) * m / u), m, u


def AdaMaxOutside(theta, g, t, m, u, *, lr, beta1, beta2, eps, see=unseen):
    m = see(1, beta1 * m + (1 - beta1) * g)
    u = see(2, np.maximum(beta2 * u, abs(g)))
    return see(0, theta - lr * m / ((1 - beta1**t) * (u + eps))), m, u


def LaProp(theta, g, t, m, n, *, lr, beta1, beta2, eps, see=unseen):
    n = see(2, beta2 * n + (1 - beta2) * g**2)
    m = see(1, beta1 * m + (1 - beta1) * g / (np.sqrt(n / (1 - beta2**t)) + eps))
    return see(0, theta - lr * m / (1 - beta1**t)), m, n


def QHAdam(theta, g, t, m, v, *, lr, beta1, beta2, nu1, nu2, eps, see=unseen):
    m = see(1, beta1 * m + (1 - beta1) * g)
    v = see(2, beta2 * v + (1 - beta2) * g**2)
    above = (1 - nu1) * g + nu1 * m / (1 - beta1**t)
    return see(0, theta - lr * above / (np.sqrt((1 - nu2) * g**2 + nu2 * v / (1 - beta2**t)) + eps)), m, v


def RAdam(theta, g, t, m, v, *, lr, beta1, beta2, eps, see=unseen):
    m = see(1, beta1 * m + (1 - beta1) * g)
    v = see(2, beta2 * v + (1 - beta2) * g**2)
    m_hat, rho_inf = m / (1 - beta1**t), 2 / (1 - beta2) - 1
    rho = rho_inf - 2 * t * beta2**t / (1 - beta2**t)
    if rho <= 5:
        return see(0, theta - lr * m_hat), m, v
    r = np.sqrt((rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho))
    return see(0, theta - lr * m_hat * r * np.sqrt(1 - beta2**t) / (np.sqrt(v) + eps)), m, v


RAdamW = RAdam


def RAdamCorrected(theta, g, t, m, v, *, lr, beta1, beta2, eps, see=unseen):
    m = see(1, beta1 * m + (1 - beta1) * g)
    v = see(2, beta2 * v + (1 - beta2) * g**2)
    m_hat, v_hat, ro_inf = m / (1 - beta1**t), v / (1 - beta2**t), 2 / (1 - beta2) - 1
    ro = ro_inf - 2 * t * beta2**t / (1 - beta2**t)
    if ro < 5:
        return see(0, theta - lr * m_hat), m, v
    r = np.sqrt((ro - 4) * (ro - 2) * ro_inf / ((ro_inf - 4) * (ro_inf - 2) * ro))
    return see(0, theta - lr * r * m_hat / (np.sqrt(v_hat) + eps)), m, v


def NAdam(theta, g, t, m, v, mu_product=1, *, lr, beta1, beta2, eps, momentum_decay, see=unseen):
    mu, mu_next = (beta1 * (1 - 0.5 * np.asarray(0.96, theta.dtype) ** (k * momentum_decay)) for k in (t, t + 1))
    mu_product = see(3, mu if t == 1 else mu * mu_product)
    m = see(1, beta1 * m + (1 - beta1) * g)
    v = see(2, beta2 * v + (1 - beta2) * g**2)
    m_hat = mu_next * m / (1 - mu_product * mu_next) + (1 - mu) * g / (1 - mu_product)
    return see(0, theta - lr * m_hat / (np.sqrt(v / (1 - beta2**t)) + eps)), m, v, mu_product


NAdamW = NAdam


def NAdamConstant(theta, g, t, m, v, power=1, *, lr, beta1, beta2, eps, momentum_decay, see=unseen):
    m = see(1, beta1 * m + (1 - beta1) * g)
    v = see(2, beta2 * v + (1 - beta2) * g**2)
    m_hat = beta1 * m / (1 - beta1**(t + 1)) + (1 - beta1) * g / (1 - beta1**t)
    theta = see(0, theta - lr * m_hat / (np.sqrt(v / (1 - beta2**t)) + eps))
    return theta, m, v, see(3, beta1 if t == 1 else beta1 * power)


def Adan(theta, g, t, m, v, n, g_before, *, lr, beta1, beta2, beta3, eps, inner=0, see=unseen):
    d = 0 * g if t == 1 else g - g_before
    m = see(1, beta1 * m + (1 - beta1) * g)
    v = see(2, beta2 * v + (1 - beta2) * d)
    n = see(3, beta3 * n + (1 - beta3) * (g + beta2 * d)**2)
    eta = lr / (np.sqrt(n / (1 - beta3**t)) + eps)
    theta = (theta - eta * (m / (1 - beta1**t) + beta2 * v / (1 - beta2**t))) / (1 + lr * inner)
    return see(0, theta), m, v, n, see(4, g)


def AdanComplement(theta, g, t, m, v, n, g_before, *, lr, beta1, beta2, beta3, eps, see=unseen):
    d = 0 * g if t == 1 else g - g_before
    m = see(1, beta1 * m + (1 - beta1) * g)
    v = see(2, beta2 * v + (1 - beta2) * d)
    n = see(3, beta3 * n + (1 - beta3) * (g + (1 - beta2) * d)**2)
    u = m / (1 - beta1**t) + (1 - beta2) * v / (1 - beta2**t)
    return see(0, theta - lr * u / (np.sqrt(n / (1 - beta3**t) + eps) + eps)), m, v, n, see(4, g)


def norm(x):
    return np.sqrt((x**2).sum())


def Fromage(w, g, t, *, lr, see=unseen):
    ratio = norm(w) / norm(g) if norm(w) * norm(g) > 0 else 1
    return (see(0, (w - lr * ratio * g) / np.sqrt(1 + lr**2)),)


def local_lr(w, g, eta, beta, eps):
    length = norm(g) + abs(beta) * norm(w)
    return eta * norm(w) / (length + eps) if norm(w) * length > 0 else 1


def LARS(w, g, t, v, *, lr, momentum, trust_coefficient, eps, inner=0, see=unseen):
    v = see(1, momentum * v + lr * local_lr(w, g, trust_coefficient, inner, eps) * (g + inner * w))
    return see(0, w - v), v


def LARC(w, g, t, v, *, lr, momentum, trust_coefficient, eps, inner=0, see=unseen):
    v = see(1, momentum * v + min(local_lr(w, g, trust_coefficient, inner, eps) / lr, 1) * (g + inner * w))
    return see(0, w - lr * v), v


def NovoGrad(w, g, t, m, v, *, lr, beta1, beta2, eps, inner=0, see=unseen):
    v = see(2, (g**2).sum() if t == 1 else beta2 * v + (1 - beta2) * (g**2).sum())
    m = see(1, beta1 * m + (g / (np.sqrt(v) + eps) + inner * w))
    return see(0, w - lr * m), m, v


def masked(u, g):
    phi = u * g > 0
    return np.where(phi, u, 0) * (g.size / (phi.sum() + np.longdouble(1)))


def masked_by_mean(u, g):
    phi = u * g > 0
    return np.where(phi, u, 0) / np.maximum(phi.mean(dtype=np.longdouble), np.longdouble(1e-3))


def CautiousLionMean(theta, g, t, m, *, lr, beta1, beta2, see=unseen):
    u = np.sign(beta1 * m + (1 - beta1) * g)
    return see(0, theta - lr * masked_by_mean(u, g)), see(1, beta2 * m + (1 - beta2) * g)


def CautiousAdamWMean(theta, g, t, m, v, *, lr, beta1, beta2, eps, see=unseen):
    m = see(1, beta1 * m + (1 - beta1) * g)
    v = see(2, beta2 * v + (1 - beta2) * g**2)
    u = m / (1 - beta1**t) / (np.sqrt(v / (1 - beta2**t)) + eps)
    return see(0, theta - lr * masked_by_mean(u, g)), m, v


def CautiousLion(theta, g, t, m, *, lr, beta1, beta2, see=unseen):
    u = np.sign(beta1 * m + (1 - beta1) * g)
    return see(0, theta - lr * masked(u, g)), see(1, beta2 * m + (1 - beta2) * g)


def CautiousAdamW(theta, g, t, m, v, *, lr, beta1, beta2, eps, see=unseen):
    m = see(1, beta1 * m + (1 - beta1) * g)
    v = see(2, beta2 * v + (1 - beta2) * g**2)
    u = m / (1 - beta1**t) / (np.sqrt(v / (1 - beta2**t)) + eps)
    return see(0, theta - lr * masked(u, g)), m, v


def MARS(x, g, t, m, v, g_before, *, lr, beta1, beta2, gamma, eps, see=unseen):
    c = g if t == 1 else g + gamma * beta1 / (1 - beta1) * (g - g_before)
    c = c / max(1, norm(c))
    m = see(1, beta1 * m + (1 - beta1) * c)
    v = see(2, beta2 * v + (1 - beta2) * c**2)
    x = x - lr * m / (1 - beta1**t) / (np.sqrt(v / (1 - beta2**t)) + eps)
    return see(0, x), m, v, see(3, g)


def MARSFromZero(x, g, t, m, v, g_before, *, lr, beta1, beta2, gamma, eps, see=unseen):
    c = g + gamma * beta1 / (1 - beta1) * (g - g_before)
    c = c / max(1, norm(c))
    m = see(1, beta1 * m + (1 - beta1) * c)
    v = see(2, beta2 * v + (1 - beta2) * c**2)
    x = x - lr * m / (1 - beta1**t) / (np.sqrt(v / (1 - beta2**t)) + eps)
    return see(0, x), m, v, see(3, g)


def StableAdamW(theta, g, t, v, u, *, lr, beta1, beta2, eps, inner=0, see=unseen):
    v = see(1, beta1 * v + (1 - beta1) * g)
    u = see(2, beta2 * u + (1 - beta2) * g**2)
    v_hat, u_hat = v / (1 - beta1**t), u / (1 - beta2**t)
    eta = lr / max(1, np.sqrt((g**2 / np.maximum(u_hat, eps**2)).mean()))
    return see(0, theta - eta * inner * theta - eta * v_hat / (np.sqrt(u_hat) + eps)), v, u
def AdaBelief(theta, g, t, m, s, *, lr, beta1, beta2, eps, see=unseen):
    m = see(1, beta1 * m + (1 - beta1) * g)
    s = see(2, beta2 * s + (1 - beta2) * (g - m)**2 + eps)
    return see(0, theta - lr * m / (1 - beta1**t) / (np.sqrt(s / (1 - beta2**t)) + eps)), m, s


def Yogi(x, g, t, m, v, *, lr, beta1, beta2, eps, see=unseen):
    m = see(1, beta1 * m + (1 - beta1) * g)
    v = see(2, v - (1 - beta2) * np.sign(v - g**2) * g**2)
    return see(0, x - lr * m / (1 - beta1**t) / (np.sqrt(v / (1 - beta2**t)) + eps)), m, v


def Grams(w, g, t, m, v, *, lr, beta1, beta2, eps, see=unseen):
    m = see(1, beta1 * m + (1 - beta1) * g)
    v = see(2, beta2 * v + (1 - beta2) * g**2)
    u = m / (1 - beta1**t) / (np.sqrt(v / (1 - beta2**t)) + eps)
    return see(0, w - lr * np.sign(g) * abs(u)), m, v


def AdaBound(x, g, t, m, v, *, lr, beta1, beta2, final_scale, gamma, eps, see=unseen):
    m = see(1, beta1 * m + (1 - beta1) * g)
    v = see(2, beta2 * v + (1 - beta2) * g**2)
    eta = lr * np.sqrt(1 - beta2**t) / (1 - beta1**t) / (np.sqrt(v) + eps)
    final = lr * final_scale
    return see(0, x - np.clip(eta, final * (1 - 1 / (gamma * t + 1)), final * (1 + 1 / (gamma * t))) * m), m, v


def DiffGrad(theta, g, t, m, v, g_before, *, lr, beta1, beta2, eps, see=unseen):
    xi = 1 / (1 + np.exp(-abs(g_before - g)))
    m = see(1, beta1 * m + (1 - beta1) * g)
    v = see(2, beta2 * v + (1 - beta2) * g**2)
    theta = see(0, theta - lr * xi * m / (1 - beta1**t) / (np.sqrt(v / (1 - beta2**t)) + eps))
    return theta, m, v, see(3, g)


def ADOPT(theta, g, t, m, v, *, lr, beta1, beta2, clip_exponent, eps, see=unseen):
    if t == 1:
        return see(0, theta), see(1, m), see(2, g**2)
    c = np.asarray(t - 1, theta.dtype)**clip_exponent
    m = see(1, beta1 * m + (1 - beta1) * np.clip(g / np.maximum(np.sqrt(v), eps), -c, c))
    return see(0, theta - lr * m), m, see(2, beta2 * v + (1 - beta2) * g**2)


def ADOPTWider(theta, g, t, m, v, *, lr, beta1, beta2, clip_exponent, eps, see=unseen):
    if t == 1:
        return see(0, theta), see(1, m), see(2, g**2)
    c = np.asarray(t, theta.dtype)**clip_exponent
    m = see(1, beta1 * m + (1 - beta1) * np.clip(g / np.maximum(np.sqrt(v), eps), -c, c))
    return see(0, theta - lr * m), m, see(2, beta2 * v + (1 - beta2) * g**2)


def clip(z, rho):
    return np.minimum(np.maximum(z, -rho), rho)


def Sophia(theta, g, t, m, h, *, lr, beta1, beta2, rho, eps, see=unseen):
    m, h = see(1, beta1 * m + (1 - beta1) * g), see(2, h)
    return see(0, theta - lr * clip(m / np.maximum(rho * h, eps), 1)), m, h


def SophiaAdded(theta, g, t, m, h, *, lr, beta1, beta2, rho, eps, see=unseen):
    m, h = see(1, beta1 * m + (1 - beta1) * g), see(2, h)
    return see(0, theta - lr * clip(m / (rho * np.maximum(h, 0) + eps), 1)), m, h


def SophiaDebiased(theta, g, t, m, h, *, lr, beta1, beta2, rho, eps, see=unseen):
    m, h = see(1, beta1 * m + (1 - beta1) * g), see(2, h)
    return see(0, theta - lr * clip(m / (1 - beta1**t) / np.maximum(rho * h, eps), 1)), m, h


def AdEMAMix(theta, g, t, m1, nu, m2, *, lr, beta1, beta2, beta3, alpha, alpha_warmup, beta3_warmup, eps, see=unseen):
    if t < alpha_warmup:
        alpha = alpha * t / alpha_warmup
    if t < beta3_warmup:
        share, log1, log3 = t / beta3_warmup, np.log(beta1), np.log(beta3)
        beta3 = np.exp(log1 * log3 / ((1 - share) * log3 + share * log1))
    m1 = see(1, beta1 * m1 + (1 - beta1) * g)
    nu = see(2, beta2 * nu + (1 - beta2) * g**2)
    m2 = see(3, beta3 * m2 + (1 - beta3) * g)
    theta = see(0, theta - lr * (m1 / (1 - beta1**t) + alpha * m2) / (np.sqrt(nu / (1 - beta2**t)) + eps))
    return theta, m1, nu, m2


def AdamS(theta, g, t, m, *, lr, beta1, beta2, eps, see=unseen):
    nu, m = beta2 * m**2 + (1 - beta2) * g**2, see(1, beta1 * m + (1 - beta1) * g)
    return see(0, theta - lr * m / (np.sqrt(nu) + eps)), m


def averaging(y, step, t, z, memory, first, *, lr, beta, r, weight_lr_power, see):
    """y, z and the memory after a step of z; `first` is the number of the memory's first entry."""
    total, lr_max, _ = memory
    lr_max = see(first + 1, np.maximum(lr, 0 if t == 1 else lr_max))
    w = np.asarray(t, y.dtype)**r * lr_max**weight_lr_power if lr_max > 0 else 0 * lr
    total = see(first, w + (0 if t == 1 else total))
    c = w / total if total > 0 else 0
    z = y if t == 1 else z
    y = see(0, (1 - c) * y + c * z - lr * (1 - beta * (1 - c)) * step)
    return y, see(1, z - lr * step), (total, lr_max, see(first + 2, beta))


def ScheduleFreeSGD(y, g, t, z, *memory, lr, momentum, warmup_steps, r, weight_lr_power, inner=0, see=unseen):
    lr = lr * min(t / warmup_steps, 1) if warmup_steps > 0 else lr
    y, z, memory = averaging(y, g + inner * y, t, z, memory, 2, lr=lr, beta=momentum, r=r,
                             weight_lr_power=weight_lr_power, see=see)
    return y, z, *memory


def ScheduleFreeAdamW(y, g, t, z, v, *memory, lr, beta1, beta2, eps, warmup_steps=0, r, weight_lr_power, inner=0,
                      see=unseen):
    lr = lr * min(t / warmup_steps, 1) if warmup_steps > 0 else lr
    v = see(2, beta2 * v + (1 - beta2) * g**2)
    step = g / (np.sqrt(v / (1 - beta2**t)) + eps) + inner * y
    y, z, memory = averaging(y, step, t, z, memory, 3, lr=lr, beta=beta1, r=r, weight_lr_power=weight_lr_power, see=see)
    return y, z, v, *memory


def ScheduleFreeRAdam(y, g, t, z, v, *memory, lr, beta2, inner=0, **hyper):
    rho_inf = 2 / (1 - beta2) - 1
    rho = rho_inf - 2 * t / np.expm1(-t * np.log(beta2))           # (the same, without the cancellation)
    rate = np.sqrt((rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho)) if rho > 4 else 0 * rho
    return ScheduleFreeAdamW(y, g, t, z, v, *memory, lr=lr * rate, beta2=beta2, inner=inner, **hyper)


def LAMB(theta, g, t, m, v, *, lr, beta1, beta2, eps, inner=0, see=unseen):
    m = see(1, beta1 * m + (1 - beta1) * g)
    v = see(2, beta2 * v + (1 - beta2) * g**2)
    r = m / (1 - beta1**t) / (np.sqrt(v / (1 - beta2**t)) + eps) + inner * theta
    size, length = np.sqrt((theta**2).sum()), np.sqrt((r**2).sum())
    return see(0, theta - lr * (size / length if size * length > 0 else 1) * r), m, v


def LAMBOutside(theta, g, t, m, v, *, lr, beta1, beta2, eps, see=unseen):
    m = see(1, beta1 * m + (1 - beta1) * g)
    v = see(2, beta2 * v + (1 - beta2) * g**2)
    update = m / (1 - beta1**t) / (np.sqrt(v / (1 - beta2**t)) + eps)
    w_norm, g_norm = norm(theta), norm(update)
    return see(0, theta - (w_norm / g_norm if w_norm * g_norm > 0 else 1) * lr * update), m, v


def LAMBUncorrected(theta, g, t, m, v, *, lr, beta1, beta2, eps, see=unseen):
    m = see(1, beta1 * m + (1 - beta1) * g)
    v = see(2, beta2 * v + (1 - beta2) * g**2)
    r = m / (np.sqrt(v) + eps)
    ratio = min(norm(theta), 10) / (norm(r) + eps) if norm(theta) * norm(r) > 0 else 1
    return see(0, theta - lr / (1 - beta1**t) * ratio * r), m, v


def PolyakSGD(x, g, t, gamma, *, lr, f_min, eps, loss, see=unseen):
    gamma = see(1, min(max(loss - f_min, 0) / ((g**2).sum() + eps), lr))
    return see(0, x - gamma * g), gamma


def MoMo(x, g, t, d, tau, f, gamma, k, *, lr, beta, lower_bound, loss, inner=0, see=unseen):
    beta = 0 if t == 1 else beta
    d = see(1, beta * d + (1 - beta) * g)
    f, gamma, k = see(3, beta * f + (1 - beta) * loss), see(4, beta * gamma + (1 - beta) * (g * x).sum()), see(5, k + 1)
    gap = (1 + lr * inner) * (f - lower_bound - gamma) + (d * x).sum()
    tau = see(2, min(max(gap, 0) / (d**2).sum(), lr))
    return see(0, x / (1 + lr * inner) - tau * d), d, tau, f, gamma, k


def MoMoAdam(x, g, t, d, v, tau, f, gamma, k, *, lr, beta1, beta2, eps, lower_bound, loss, inner=0, see=unseen):
    d, v = see(1, beta1 * d + (1 - beta1) * g), see(2, beta2 * v + (1 - beta2) * g**2)
    f, gamma = see(4, beta1 * f + (1 - beta1) * loss), see(5, beta1 * gamma + (1 - beta1) * (g * x).sum())
    D = np.sqrt(v / (1 - beta2**t)) + eps
    gap = (1 + lr * inner) * (f - (1 - beta1**t) * lower_bound - gamma) + (d * x).sum()
    tau = see(3, min(max(gap, 0) / (d**2 / D).sum(), lr / (1 - beta1**t)))
    return see(0, x / (1 + lr * inner) - tau * d / D), d, v, tau, f, gamma, see(6, k + 1)


def DoG(x, g, t, x0, eta, r, G, *, lr, reps_rel, eps, inner=0, see=unseen):
    x0 = see(1, x if t == 1 else x0)
    r = see(3, max(reps_rel * (1 + norm(x0)) if t == 1 else r, norm(x - x0)))
    G = see(4, G + (g**2).sum())
    eta = see(2, r / np.sqrt(G + eps))
    return see(0, x - lr * eta * (g + inner * x)), x0, eta, r, G


def DoWG(x, g, t, x0, eta, r2, v, *, lr, eps, inner=0, see=unseen):
    x0 = see(1, x if t == 1 else x0)
    r2 = see(3, max(r2, ((x - x0)**2).sum()))
    v = see(4, v + r2 * (g**2).sum())
    eta = see(2, r2 / (np.sqrt(v) + eps))
    return see(0, x - lr * eta * (g + inner * x)), x0, eta, r2, v


def DAdaptSGD(x, g, t, s, x0, d, N, g0, *, lr, momentum, d0, inner=0, see=unseen):
    g, d = g + inner * x, d0 if t == 1 else d
    x0, g0 = see(2, x if t == 1 else x0), see(5, norm(g) if t == 1 else g0)
    N = see(4, N + d * lr / g0 * (g * s).sum())
    s = see(1, s + d * lr / g0 * g)
    return see(0, momentum * x + (1 - momentum) * (x0 - s)), s, x0, see(3, max(d, 2 * N / norm(s))), N, g0


def DAdaptAdaGrad(x, g, t, alpha, s, x0, d, S, L, G, *, lr, momentum, eps, d0, inner=0, see=unseen):
    d, alpha_before, s_before = d0 if t == 1 else d, alpha, s
    x0, alpha = see(3, x if t == 1 else x0), see(1, alpha + g**2)
    s = see(2, s + d * lr * (g + inner * x))
    A = np.sqrt(alpha) + eps
    S = see(5, S + (s**2 / A).sum() - (s_before**2 / (np.sqrt(alpha_before) + eps)).sum())
    L = see(6, L + abs(s).sum() - abs(s_before).sum())
    G = see(7, G + (d * lr)**2 * (g**2 / A).sum())
    return see(0, momentum * x + (1 - momentum) * (x0 - s / A)), alpha, s, x0, see(4, max(d, (S - G) / L)), S, L, G


def DAdaptAdam(x, g, t, m, v, s, d, N, *, lr, beta1, beta2, eps, d0, inner=0, see=unseen):
    d, b = d0 if t == 1 else d, np.sqrt(beta2)
    N = see(5, b * N + (1 - b) * d * lr * (g * s / (np.sqrt(v) + eps)).sum())
    m, v = see(1, beta1 * m + (1 - beta1) * d * lr * g), see(2, beta2 * v + (1 - beta2) * g**2)
    s = see(3, b * s + (1 - b) * d * lr * g)
    x = x - d * lr * inner * x - m / (np.sqrt(v) + eps)
    return see(0, x), m, v, s, see(4, max(d, N / ((1 - b) * abs(s).sum()))), N


def DAdaptAdamDebiased(x, g, t, *memory, lr, beta1, beta2, inner=0, **hyper):
    return DAdaptAdam(x, g, t, *memory, lr=lr * np.sqrt(1 - beta2**t) / (1 - beta1**t), beta1=beta1, beta2=beta2,
                      inner=inner, **hyper)


def DAdaptLion(x, g, t, m, s, d, N, *, lr, beta1, beta2, d0, inner=0, see=unseen):
    d, b = d0 if t == 1 else d, np.sqrt(beta2)
    u = np.sign(beta1 * m + (1 - beta1) * g)
    x = see(0, x - d * lr * inner * x - d * lr * u)
    m = see(1, beta2 * m + (1 - beta2) * d * lr * g)
    N = see(4, b * N + (1 - b) * d * lr * (u * s).sum())
    s = see(2, b * s + (1 - b) * d * lr * u)
    return x, m, s, see(3, max(d, N / ((1 - b) * abs(s).sum()))), N


def Prodigy(x, g, t, m, v, s, x0, d, r, *, lr, beta1, beta2, eps, d0, d_coef, inner=0, see=unseen):
    d, beta3 = d0 if t == 1 else d, np.sqrt(beta2)
    x0 = see(4, x if t == 1 else x0)
    r = see(6, beta3 * r + d**2 * lr / d0 * (g * (x0 - x)).sum())
    m, v = see(1, beta1 * m + (1 - beta1) * d * g), see(2, beta2 * v + (1 - beta2) * d**2 * g**2)
    s = see(3, beta3 * s + d**2 * lr / d0 * g)
    d_next = see(5, max(d, d_coef * r / abs(s).sum()))
    return see(0, x - d * lr * inner * x - d * lr * m / (np.sqrt(v) + d_next * eps)), m, v, s, x0, d_next, r


def ProdigyDebiased(x, g, t, *memory, lr, beta1, beta2, inner=0, **hyper):
    return Prodigy(x, g, t, *memory, lr=lr * np.sqrt(1 - beta2**t) / (1 - beta1**t), beta1=beta1, beta2=beta2, inner=inner,
                   **hyper)


@functools.cache
def decays_inside(name):
    """Whether decoupled weight decay is a term of a step: where a formula takes `inner`."""
    return "inner" in inspect.signature(globals()[name]).parameters


def step(name, decay, theta, g, t, slots, hyper, see=unseen):
    """One step with weight decay in one of its modes; returns (theta, *slots)."""
    hyper = dict(hyper)
    lr, weight_decay = hyper["lr"], hyper.pop("weight_decay")
    if decay == "corrected":           # (AdamC: gamma**2 / gamma_max)
        decay, weight_decay = "decoupled", weight_decay * lr / hyper.pop("lr_max")
    if decay == "coupled":
        g = g + weight_decay * theta
    elif decay == "decoupled" and decays_inside(name):
        hyper["inner"] = weight_decay
    elif decay == "decoupled":
        theta = theta - lr * weight_decay * theta
    elif decay == "independent":
        theta = theta - weight_decay * theta
    return globals()[name](theta, g, t, *slots, **hyper, see=see)
