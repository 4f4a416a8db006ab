"""Steps on the CPU of parameters that are on an accelerator: gradients come and parameters go back chunk by chunk."""
from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch

from .backward import needs_all_gradients
from .binding import COMPLEX, FLOATS, names_of
from .optimizer import Optimizer

if TYPE_CHECKING:
    from ..optimizers.measuring import Measured

CHUNK_BYTES = 1 << 25


class Lane:
    """Copies between a device and the CPU in an order of their own, beside what else the device does.

    Where a device has no streams, each copy is done when it is asked for.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream = torch.Stream(device=device) if has_streams(device) else None

    def copy(self, into: torch.Tensor, source: torch.Tensor) -> None:
        """Begin a copy."""
        if self.stream is None:
            into.copy_(source)
        else:
            with self.stream:
                into.copy_(source, non_blocking=True)

    def follow_device(self) -> None:
        """Let further copies wait for what the device was told to do."""
        if self.stream is not None:
            self.stream.wait_stream(torch.accelerator.current_stream(self.device))

    def lead_device(self) -> None:
        """Let what the device is told to do from now on wait for the copies."""
        if self.stream is not None:
            torch.accelerator.current_stream(self.device).wait_stream(self.stream)

    def mark(self) -> Callable[[], None]:
        """A function that waits until the copies so far are done."""
        return nothing if self.stream is None else self.stream.record_event().synchronize


def nothing() -> None:
    """There is nothing to wait for."""


def has_streams(device: torch.device) -> bool:
    """Whether copies from and to a device may run beside other work."""
    present = torch.accelerator.current_accelerator(check_available=True)
    return present is not None and present.type == device.type and device.type != "mps"


class Member:
    """One parameter, and what of it is on the CPU."""

    __slots__ = ("bytes", "lanes", "mirror", "offset", "out", "param", "version")

    def __init__(self, param: torch.Tensor, lanes: tuple[Lane, Lane]) -> None:
        half = param.dtype == torch.float16
        pinned = has_streams(param.device)
        self.param, self.lanes, self.offset = param, lanes, 0
        self.mirror = torch.empty_like(param.detach(), device="cpu", dtype=torch.float32 if half else None,
                                       pin_memory=pinned and not half)
        self.mirror.requires_grad_(param.requires_grad)
        #: What goes back, where that is not the mirror itself.
        self.out = torch.empty_like(param.detach(), device="cpu", pin_memory=pinned) if half else self.mirror.detach()
        self.bytes = -(-param.numel() * param.element_size() // 64) * 64
        self.mirror.detach().copy_(param.detach())
        self.version = param._version

    def catch_up(self) -> None:
        """Take on what somebody wrote to the parameter; a float16 that is the master's, rounded, keeps that."""
        self.mirror.requires_grad_(self.param.requires_grad)
        if self.param._version == self.version:
            return
        master = self.mirror.detach()
        if self.out.dtype == master.dtype:
            master.copy_(self.param.detach())
        else:
            self.out.copy_(self.param.detach())
            master.copy_(torch.where(master.to(self.out.dtype) == self.out, master, self.out.to(master.dtype)))
        self.version = self.param._version

    def gradient_in(self, buffer: torch.Tensor) -> torch.Tensor:
        """The part of a buffer that its gradient is copied to, in the parameter's layout."""
        part = buffer[self.offset:self.offset + self.param.numel() * self.param.element_size()]
        return part.view(self.param.dtype).as_strided(self.mirror.size(), self.mirror.stride())


class Offloaded(torch.optim.Optimizer):
    """An optimizer of parameters that are elsewhere; see `offload`."""

    _inner: Optimizer | None = None

    def __init__(self, params: Iterable[Any], optimizer_class: type[Optimizer], chunk_bytes: int,
                 keywords: dict[str, Any]) -> None:
        self._owner = getattr(optimizer_class, "__name__", repr(optimizer_class))
        if not (isinstance(optimizer_class, type) and issubclass(optimizer_class, Optimizer)):
            raise TypeError(f"offload: optimizer_class must be one of fastlr.torch, got {self._owner}")
        for name in ("in_backward", "zero_grads"):
            if keywords.get(name):
                raise ValueError(f"{self._owner}: {name}=True needs gradients on the CPU; leave it out with offload")
        if keywords.get("catch_up_rows"):
            raise ValueError(f"{self._owner}: catch_up_rows needs parameters on the CPU; leave it out with offload")
        if isinstance(chunk_bytes, bool) or not isinstance(chunk_bytes, int) or chunk_bytes < 1:
            raise ValueError(f"offload: chunk_bytes must be a positive integer, got {chunk_bytes!r}")
        self._chunk_bytes, self._lanes = chunk_bytes, dict[torch.device, tuple[Lane, Lane]]()
        self._members: dict[int, Member] = {}
        self._chunks: list[list[Member]] | None = None
        given: Any = params            # (torch refuses one tensor)
        if not isinstance(params, torch.Tensor):
            given = [dict(group) if isinstance(group, dict) else group for group in params]
        super().__init__(given, {})                                # (torch's own checks, messages and names)
        groups, names = list[dict[str, Any]](self.param_groups), names_of(self.param_groups)
        self.param_groups.clear()
        halves = any(param.dtype == torch.bfloat16 for group in groups for param in group["params"])
        if halves and "master" not in keywords:
            keywords = {**keywords, "master": "split"}
        inner = optimizer_class([self._mirrored(group, own) for group, own in zip(groups, names, strict=True)],
                                **keywords)
        refused = needs_all_gradients(inner)
        if refused is not None:
            raise ValueError(f"{self._owner}: offload moves one chunk of parameters while the gradients of the next "
                             f"are copied, and {refused} needs all gradients first; leave it out, or clip on the "
                             f"device before the step")
        inner.in_backward = True                                   # (each parameter has a plan of its own)
        self.defaults, self._inner = inner.defaults, inner
        for group, own in zip(groups, inner.param_groups, strict=True):
            self.param_groups.append({**own, **group})

    def _mirrored(self, group: Mapping[str, Any], names: list[str]) -> dict[str, Any]:
        """A group with tensors on the CPU in place of the parameters."""
        for param, name in zip(group["params"], names, strict=True):
            who = f"{self._owner}: parameter {name}"
            if hasattr(param, "placements"):
                raise TypeError(f"{who} is a DTensor; let FSDP offload it, fully_shard(..., offload_policy="
                                f"CPUOffloadPolicy()), and give its parameters to fastlr.torch.{self._owner}")
            if param.device.type == "meta":
                raise RuntimeError(f"{who} is on the meta device and has no memory; materialise it first")
            if param.layout != torch.strided or param.dtype not in (*FLOATS, *COMPLEX):
                raise TypeError(f"{who}: expected a dense tensor of float16, bfloat16, float32, float64 or complex, "
                                f"got {param.layout}, {param.dtype}")
        own = []
        for param in group["params"]:
            if param.device not in self._lanes:
                self._lanes[param.device] = Lane(param.device), Lane(param.device)
            member = self._members[id(param)] = Member(param, self._lanes[param.device])
            own.append(member.mirror)
        self._chunks = None
        return {**group, "params": own}

    def _chunked(self) -> list[list[Member]]:
        """Parameters in chunks, each of one device."""
        chunks: list[list[Member]] = []
        for group in self.param_groups:
            for param in group["params"]:
                member, last = self._members[id(param)], chunks[-1] if chunks else []
                member.offset = last[-1].offset + last[-1].bytes if last else 0
                if last and last[0].lanes is member.lanes and member.offset + member.bytes <= self._chunk_bytes:
                    last.append(member)
                else:
                    member.offset = 0
                    chunks.append([member])
        most = max((chunk[-1].offset + chunk[-1].bytes for chunk in chunks), default=0)
        pinned = any(has_streams(device) for device in self._lanes)
        self._buffers = [torch.empty(most, dtype=torch.uint8, pin_memory=pinned) for _ in range(2)]
        return chunks

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of parameters: see `torch.optim.Optimizer.add_param_group`."""
        super().add_param_group(param_group)
        if self._inner is None:
            return
        group = self.param_groups.pop()
        names = [str(name) for name in group.get("param_names", range(len(group["params"])))]
        self._inner.add_param_group(self._mirrored(group, names))
        self.param_groups.append({**self._inner.param_groups[-1], **group})

    # Stepping

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient, in place, on its device.

        Gradients of a chunk are copied to the CPU while the chunk before it moves there, and while the one before that
        is copied back. What the device does after the step waits for the copies.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        with torch.no_grad():
            self._move()
        return loss

    def _move(self) -> None:
        inner = self._take_groups()
        if self._chunks is None:
            self._chunks = self._chunked()
        chunks = [[(member, member.param.grad) for member in chunk if member.param.grad is not None]
                  for chunk in self._chunks]
        chunks = [chunk for chunk in chunks if chunk]
        for chunk in chunks:
            for member, gradient in chunk:
                self._check(member, gradient)
                member.catch_up()
        for down, _ in self._lanes.values():
            down.follow_device()
        inner._checked = False
        waits = [self._fetch(chunks, 0)]
        for k, chunk in enumerate(chunks):
            waits.append(self._fetch(chunks, k + 1))
            waits[k]()
            for member, _ in chunk:
                gradient = member.gradient_in(self._buffers[k % 2])
                member.mirror.grad = gradient.to(member.mirror.dtype)
                inner._move_one(member.mirror)
                if member.out.dtype != member.mirror.dtype:
                    member.out.copy_(member.mirror.detach())
                member.lanes[1].copy(member.param.detach(), member.out)
                member.version = member.param._version
                self.state[member.param] = inner.state[member.mirror]
        for _, up in self._lanes.values():
            up.lead_device()

    def _fetch(self, chunks: list[list[tuple[Member, torch.Tensor]]], k: int) -> Callable[[], None]:
        """Begin to copy the gradients of chunk k; the function that waits for them."""
        if k >= len(chunks):
            return nothing
        for member, gradient in chunks[k]:
            member.lanes[0].copy(member.gradient_in(self._buffers[k % 2]), gradient.detach())
        return chunks[k][0][0].lanes[0].mark()

    def _check(self, member: Member, gradient: torch.Tensor) -> None:
        """Nothing is moved where a gradient cannot be used."""
        if gradient.layout != torch.strided:
            raise RuntimeError(f"{self._owner}: offload does not support sparse gradients")
        if gradient.dtype != member.param.dtype or gradient.shape != member.param.shape:
            raise ValueError(f"{self._owner}: a gradient: expected {member.param.dtype} {tuple(member.param.shape)} "
                             f"like the parameter, got {gradient.dtype} {tuple(gradient.shape)}")

    def _take_groups(self) -> Optimizer:
        """Let the inner optimizer have the groups as they are now."""
        inner = self._inner
        assert inner is not None
        if len(self.param_groups) != len(inner.param_groups):
            raise ValueError(f"{self._owner}: groups of offload are added by add_param_group")
        for group, own in zip(self.param_groups, inner.param_groups, strict=True):
            if any(id(param) not in self._members for param in group["params"]):
                raise ValueError(f"{self._owner}: parameters of offload are added by add_param_group")
            mirrors = [self._members[id(param)].mirror for param in group["params"]]
            if list(map(id, mirrors)) != list(map(id, own["params"])):
                own["params"], self._chunks = mirrors, None
            for name, value in group.items():
                if name != "params" and own.get(name) is not value:
                    own[name] = value
        return inner

    def measure(self, on: bool = True) -> None:
        """Measure each parameter in every step: see `fastlr.Optimizer.measure`."""
        self._take_groups().measure(on)

    @property
    def measures(self) -> bool:
        """Whether each parameter is measured."""
        return self._inner is not None and self._inner.measures

    @property
    def measured(self) -> dict[str, Measured]:
        """Norms of each parameter's gradient, update and values in the latest step: see `Optimizer.measured`."""
        return self._take_groups().measured

    # State

    def state_dict(self) -> dict[str, Any]:
        """As `fastlr.torch.Optimizer.state_dict`; the float32 that is kept of float16 parameters is their "master"."""
        for hook in self._optimizer_state_dict_pre_hooks.values():
            hook(self)
        inner = self._take_groups()
        d: dict[str, Any] = inner.state_dict()
        numbers = [number for group in d["param_groups"] for number in group["params"]]
        params = [param for group in self.param_groups for param in group["params"]]
        for number, param in zip(numbers, params, strict=True):
            member = self._members[id(param)]
            if member.out.dtype != member.mirror.dtype and number in d["state"]:
                d["state"][number] = {**d["state"][number], "master": member.mirror.detach()}
        for post_hook in self._optimizer_state_dict_post_hooks.values():
            replaced = post_hook(self, d)
            d = d if replaced is None else replaced
        return d

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Load what `state_dict` returned, or that of torch's class or fastlr.torch's, whose masters are parameters."""
        state_dict = dict(state_dict)
        for hook in self._optimizer_load_state_dict_pre_hooks.values():
            replaced = hook(self, state_dict)
            state_dict = state_dict if replaced is None else dict(replaced)
        inner = self._take_groups()
        masters = {number: state["master"] for number, state in state_dict["state"].items()
                   if isinstance(state, Mapping) and "master" in state}
        inner.load_state_dict({**state_dict, "state": {
            number: {name: value for name, value in state.items() if name != "master"} if number in masters else state
            for number, state in state_dict["state"].items()}})
        numbers = [number for group in state_dict["param_groups"] for number in group["params"]]
        self.state.clear()
        for group, own in zip(self.param_groups, inner.param_groups, strict=True):
            group.update({name: value for name, value in own.items() if name != "params"})
        for number, param in zip(numbers, (p for group in self.param_groups for p in group["params"]), strict=True):
            member = self._members[id(param)]
            member.version = -1                                    # (the parameter is read again)
            if number in masters and member.out.dtype != member.mirror.dtype:
                member.mirror.detach().copy_(masters[number])
            if member.mirror in inner.state:
                self.state[param] = inner.state[member.mirror]
        for post_hook in self._optimizer_load_state_dict_post_hooks.values():
            post_hook(self)

    def __getstate__(self) -> dict[str, Any]:
        raise TypeError(f"{self._owner}: what offload makes has streams and pinned memory and cannot be copied; use "
                        f"state_dict")


def offload(params: Iterable[Any], optimizer_class: type[Optimizer], *, chunk_bytes: int = CHUNK_BYTES,
            **keywords: Any) -> Offloaded:
    """An optimizer whose parameters are on an accelerator, and whose state, master copies and steps are on the CPU.

    A step copies gradients to pinned memory and parameters back, in their own type, in two streams: while one chunk
    moves on the CPU, the gradients of the next are on their way, and the parameters of the last. The device's memory
    holds parameters and gradients alone.

    Parameters
    ----------
    params
        Parameters or groups, on any device, as for every torch optimizer. `param_groups` has them: schedulers, hooks,
        ``clip_grad_norm_`` and `GradScaler` work as ever.
    optimizer_class
        A class of `fastlr.torch`, whose arguments are `keywords`.
    chunk_bytes
        How many bytes of gradients are copied together; twice as much pinned memory is used for them. A larger
        parameter is one chunk.
    keywords
        Arguments of the class. bfloat16 parameters have ``master="split"`` unless it is given: they train as float32
        does, and 2 bytes of each stay on the CPU. float16 parameters have a float32 copy there, which moves.

    Returns a `torch.optim.Optimizer`. What somebody writes to a parameter between steps, as a model's
    ``load_state_dict`` does, is noticed. State dictionaries are those of the class; with float16 they have the float32
    copy as "master".

    Raises
    ------
    ValueError
        For options and rules that need all gradients before the first parameter moves (`clip_norm`, `clip_zscore`,
        `nonfinite`, Prodigy): clip on the device, before the step.
    TypeError
        For DTensors: FSDP2 offloads them itself, by ``CPUOffloadPolicy``.

    >>> import torch, fastlr.torch
    >>> model = torch.nn.Linear(3, 1, dtype=torch.bfloat16)        # (here on the CPU, where it gains nothing)
    >>> opt = fastlr.torch.offload(model.parameters(), fastlr.torch.AdamW, lr=0.1)
    >>> model(torch.ones(1, 3, dtype=torch.bfloat16)).sum().backward()
    >>> opt.step()
    >>> sorted(opt.state[model.weight])
    ['exp_avg', 'exp_avg_sq', 'remainder', 'step']

    Differs from torchao's ``CPUOffloadOptimizer`` and DeepSpeed's ZeRO-Offload: any rule, no copy in float32 of
    bfloat16 parameters beside them, and nothing is compiled.
    """
    return Offloaded(params, optimizer_class, chunk_bytes, keywords)
