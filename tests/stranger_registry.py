"""With `pytest -p stranger_registry`, the tests over the registry take the classes of other packages, too.

Those of tests/stranger_rules and tests/stranger_pointers, built and on sys.path: `test_strangers.py` runs the tests so.
(numba's is left out: its rule is of float32 alone, and these tests go by both precisions.)
"""
import c_optimizers
import mypkg
import reference

for cls, twin in ((mypkg.HeavyBall, "Momentum"), (mypkg.Layerwise, "LARS"), (c_optimizers.HeavyBallInC, "Momentum"),
                  (c_optimizers.LayerwiseInC, "LARS")):
    setattr(reference, cls.__name__, getattr(reference, twin))
