"""Memory: of a process that takes steps, and of an optimizer's state."""
import fastlr

from .arrays import NAMES, named, normal, stepped


class Peak:
    """Parameters, gradients and both moments are 64 MB; a step should need nothing beside them."""

    def setup(self):
        self.opt, self.grads = stepped(fastlr.AdamW, 1, 4_000_000)

    def peakmem_step(self):
        for _ in range(3):
            self.opt.step()

    peakmem_step.version = "1"


class State:
    """Bytes of state per float32 parameter; fewer is better."""

    params = NAMES
    param_names = ("optimizer",)
    unit = "bytes"

    def track_state_bytes_per_parameter(self, name):
        opt = named(name)(normal(4, (10, 25)))
        return sum(array.nbytes for slots in opt.state.values() for array in slots.values()) / 1000

    track_state_bytes_per_parameter.version = "1"
