"""The numbers of the frozen trajectories: no library's random stream, which a later version may change.

    x_0 = 1,   x_{k+1} = (6364136223846793005 x_k + 1442695040888963407) mod 2**64          (Knuth's MMIX)

and number k is (x_{k+1} >> 40) / 2**23 - 1, in [-1, 1) and exact in float32 as in float64. The first 11 are
the parameters, of shapes (5,) and (2, 3); each 11 that follow are the gradients of one step.
"""
import itertools

import numpy as np

SHAPES = ((5,), (2, 3))
STEPS = 40


def numbers():
    x = 1
    while True:
        x = (6364136223846793005 * x + 1442695040888963407) % 2**64
        yield (x >> 40) / 2**23 - 1


def cut(values, dtype=np.float64):
    """11 numbers as arrays of the two shapes."""
    values = np.array(values, dtype)
    return [values[:5].copy(), values[5:].reshape(2, 3).copy()]


def beginning_and_gradients(dtype=np.float64):
    """The two parameters, and the two gradients of each step."""
    stream = numbers()
    parameters, *gradients = (cut(list(itertools.islice(stream, 11)), dtype) for _ in range(1 + STEPS))
    return parameters, gradients


def written(values):
    """Numbers as text: 16 hexadecimal digits of each float64 (8 of a float32), its bytes from high to low."""
    values = np.asarray(values)
    return values.astype(values.dtype.newbyteorder(">")).tobytes().hex()


def read(lines):
    """A list of such texts of float64 as an array, a row for each."""
    return np.array([np.frombuffer(bytes.fromhex(line), ">f8") for line in lines])
