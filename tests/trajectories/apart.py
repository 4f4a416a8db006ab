"""How far two trajectories are apart: the one measure of these comparisons."""
import numpy as np

# Both sides round each operation of a step once, in an order of their own. After n steps an element's error
# is at most n * (1 + c) ulp of the largest value that this element has had, where c, some tens, counts the
# roundings in a step (which is at most twice that value) and the conditions of the averages in it: 200 steps
# stay below 1e-12 with room for 20 ulp a step. (Found: 7e-15.) An element's value *now* would be a wrong
# scale, as it crosses zero and keeps the errors it had; the largest of the whole tensor a lenient one, as it
# hides what goes wrong with small elements.
SAME = 1e-12


def apart(ours, theirs):
    """The largest difference of any element at any time, relative to the largest it was until then.

    Both are (times, elements), the start being a time too. NaN if there is one: not below any tolerance.
    """
    ours, theirs = np.asarray(ours, np.longdouble), np.asarray(theirs, np.longdouble)
    assert ours.shape == theirs.shape
    largest = np.maximum.accumulate(abs(theirs), axis=0)
    return float((abs(ours - theirs) / np.maximum(largest, np.finfo(np.float64).tiny)).max(initial=0))


def flat(arrays):
    """All elements of all arrays, as one copy."""
    return np.concatenate([np.array(a, np.float64).ravel() for a in arrays])
