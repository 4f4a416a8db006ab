"""Each rule that sees matrices again, in NumPy's float64 and in its paper's own notation.

A function takes a matrix (or a vector), its gradient, the step t = 1, 2, ... and a dictionary, its state,
which it changes, and gives the new matrix. Nothing is decayed, staged or cut: that is tested beside it.
"""
import numpy as np


def rms(x):
    return np.sqrt((x**2).mean())


def outer_root(R, C):
    """sqrt of the rank-one estimate from means by row and column."""
    return np.sqrt(np.outer(R, C) / R.mean())


def Adafactor(X, G, t, s, *, lr, beta2_decay, eps1, eps2, clip):
    beta2 = 1 - t**-beta2_decay
    alpha = max(eps2, rms(X)) * min(lr, 1 / np.sqrt(t))
    squares = G**2 + eps1
    if G.ndim == 2:
        s["R"] = beta2 * s.get("R", 0) + (1 - beta2) * squares.mean(axis=1)
        s["C"] = beta2 * s.get("C", 0) + (1 - beta2) * squares.mean(axis=0)
        U = G / outer_root(s["R"], s["C"])
    else:
        s["v"] = beta2 * s.get("v", 0) + (1 - beta2) * squares
        U = G / np.sqrt(s["v"])
    return X - alpha * U / max(1, rms(U) / clip)


def CAME(X, G, t, s, *, lr, beta1, beta2, beta3, eps1, eps2, clip):
    squares = G**2 + eps1
    if G.ndim == 2:
        s["R"] = beta2 * s.get("R", 0) + (1 - beta2) * squares.mean(axis=1)
        s["C"] = beta2 * s.get("C", 0) + (1 - beta2) * squares.mean(axis=0)
        u = G / outer_root(s["R"], s["C"])
    else:
        s["v"] = beta2 * s.get("v", 0) + (1 - beta2) * squares
        u = G / np.sqrt(s["v"])
    u = u / max(1, rms(u) / clip)
    s["m"] = beta1 * s.get("m", 0) + (1 - beta1) * u
    if G.ndim < 2:
        return X - lr * s["m"]
    U = (u - s["m"]) ** 2 + eps2
    s["RU"] = beta3 * s.get("RU", 0) + (1 - beta3) * U.mean(axis=1)
    s["CU"] = beta3 * s.get("CU", 0) + (1 - beta3) * U.mean(axis=0)
    return X - lr * s["m"] / outer_root(s["RU"], s["CU"])


def SM3(w, g, t, s, *, lr, momentum, eps):
    others = [tuple(b for b in range(g.ndim) if b != a) for a in range(g.ndim)]
    mu = [np.expand_dims(s.get(f"mu{a}", np.zeros(g.shape[a])), others[a]) for a in range(g.ndim)]
    nu = np.minimum.reduce(np.broadcast_arrays(*mu, np.full(g.shape, np.inf))) + g**2
    for a in range(g.ndim):
        s[f"mu{a}"] = nu.max(axis=others[a])
    u = np.divide(g, np.sqrt(nu + eps), out=np.zeros_like(g), where=nu > 0)
    s["m"] = momentum * s.get("m", 0) + (1 - momentum) * u
    return w - lr * s["m"]


def AdamMini(w, g, t, s, *, lr, beta1, beta2, eps, blocks=None):
    each = g.reshape(blocks or (g.shape[0] if g.ndim > 1 else 1), -1)
    s["m"] = beta1 * s.get("m", 0) + (1 - beta1) * g
    s["v"] = beta2 * s.get("v", 0) + (1 - beta2) * (each**2).mean(axis=1)
    m_hat, v_hat = s["m"] / (1 - beta1**t), s["v"] / (1 - beta2**t)
    return w - lr * (m_hat.reshape(each.shape) / (np.sqrt(v_hat)[:, None] + eps)).reshape(w.shape)


def projected(w, g, u, delta, wd_ratio, eps):
    """Algorithm 1's projection of an update, and what is left of weight decay."""
    def cosines(x, y):
        return np.abs((x * y).sum(axis=1)) / (np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1))

    for rows in (len(w), 1) if w.ndim > 1 else ():
        w_r, g_r, u_r = w.reshape(rows, -1), g.reshape(rows, -1), u.reshape(rows, -1)
        if cosines(g_r, w_r).max() < delta / np.sqrt(w_r.shape[1]):
            w_hat = w_r / (np.linalg.norm(w_r, axis=1, keepdims=True) + eps)
            return (u_r - w_hat * (w_hat * u_r).sum(axis=1, keepdims=True)).reshape(w.shape), wd_ratio
    return u, 1.0


def SGDP(w, g, t, s, *, lr, momentum, dampening, eps, delta, wd_ratio, nesterov=False, shrink=0.0):
    s["m"] = momentum * s.get("m", 0) + (1 - dampening) * g
    q, ratio = projected(w, g, g + momentum * s["m"] if nesterov else s["m"], delta, wd_ratio, eps)
    return (1 - shrink * ratio / (1 - momentum)) * w - lr * q


def AdamP(w, g, t, s, *, lr, beta1, beta2, eps, delta, wd_ratio, nesterov=False, shrink=0.0):
    s["m"] = beta1 * s.get("m", 0) + (1 - beta1) * g
    s["v"] = beta2 * s.get("v", 0) + (1 - beta2) * g**2
    m = beta1 * s["m"] + (1 - beta1) * g if nesterov else s["m"]
    u = m / (1 - beta1**t) / (np.sqrt(s["v"] / (1 - beta2**t)) + eps)
    q, ratio = projected(w, g, u, delta, wd_ratio, eps)
    return (1 - shrink * ratio) * w - lr * q


def RowwiseAdaGrad(x, g, t, s, *, lr, lr_decay, eps):
    rows = g.reshape(g.shape[0] if g.ndim else 1, -1)
    s["s"] = s.get("s", 0) + (rows**2).mean(axis=1)
    return x - lr / (1 + (t - 1) * lr_decay) * (rows / (np.sqrt(s["s"]) + eps)[:, None]).reshape(x.shape)


def AdamW(w, g, t, s, *, lr, beta1, beta2, eps):
    s["m"] = beta1 * s.get("m", 0) + (1 - beta1) * g
    s["v"] = beta2 * s.get("v", 0) + (1 - beta2) * g**2
    return w - lr * s["m"] / (1 - beta1**t) / (np.sqrt(s["v"] / (1 - beta2**t)) + eps)


def polynomial_of_singular_values(X, coefficients):
    """What the iterations make of a matrix, by its singular values: no iteration on matrices."""
    U, sigma, V = np.linalg.svd(X, full_matrices=False)
    for a, b, c in coefficients:
        sigma = a * sigma + b * sigma**3 + c * sigma**5
    return (U * sigma) @ V


def Muon(X, G, t, s, *, lr, momentum, norm_eps, fallback_scale, beta1, beta2, eps, coefficients, scale, nesterov=True):
    if G.ndim < 2:
        return AdamW(X, G, t, s, lr=lr * fallback_scale, beta1=beta1, beta2=beta2, eps=eps)
    s["m"] = momentum * s.get("m", 0) + (1 - momentum) * G
    B = momentum * s["m"] + (1 - momentum) * G if nesterov else s["m"]
    return X - lr * scale * polynomial_of_singular_values(B / max(np.linalg.norm(B), norm_eps), coefficients)


def power(A, exponent):
    values, Q = np.linalg.eigh(A)
    return (Q * values**exponent) @ Q.T


def Shampoo(W, G, t, s, *, lr, matrix_eps, fallback_scale, beta1, beta2, eps, every=1):
    if G.ndim < 2:
        return AdamW(W, G, t, s, lr=lr * fallback_scale, beta1=beta1, beta2=beta2, eps=eps)
    s["L"] = s.get("L", matrix_eps * np.eye(len(G))) + G @ G.T
    s["R"] = s.get("R", matrix_eps * np.eye(len(G.T))) + G.T @ G
    if (t - 1) % every == 0:
        s["PL"], s["PR"] = power(s["L"], -1 / 4), power(s["R"], -1 / 4)
    return W - lr * s["PL"] @ G @ s["PR"]


def SOAP(W, G, t, s, *, lr, shampoo_beta, fallback_scale, beta1, beta2, eps, every=10):
    if G.ndim < 2:
        return AdamW(W, G, t, s, lr=lr * fallback_scale, beta1=beta1, beta2=beta2, eps=eps)
    if t > 1:
        n = t - 1
        s["m"] = beta1 * s.get("m", 0) + (1 - beta1) * G
        s["v"] = beta2 * s.get("v", 0) + (1 - beta2) * (s["QL"].T @ G @ s["QR"]) ** 2
        N = (s["QL"].T @ s["m"] @ s["QR"]) / (np.sqrt(s["v"]) + eps)
        W = W - lr * np.sqrt(1 - beta2**n) / (1 - beta1**n) * s["QL"] @ N @ s["QR"].T
    s["L"] = shampoo_beta * s.get("L", 0) + (1 - shampoo_beta) * (G @ G.T)
    s["R"] = shampoo_beta * s.get("R", 0) + (1 - shampoo_beta) * (G.T @ G)
    if t == 1:
        s["QL"], s["QR"] = (np.linalg.eigh(s[side])[1][:, ::-1] for side in "LR")
    elif (t - 1) % every == 0:
        for axis, side in enumerate("LR"):
            P = s[side] @ s["Q" + side]
            order = np.argsort(-np.einsum("ij,ij->j", s["Q" + side], P))
            s["v"] = np.take(s["v"], order, axis=axis)
            s["Q" + side] = np.linalg.qr(P[:, order])[0]
    return W
