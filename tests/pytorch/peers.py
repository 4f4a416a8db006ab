"""The classes that torch has too, with the arguments that make each of them another rule."""
import torch

#: Class, arguments. Rates are small enough that differences in rounding do not grow.
CASES = [
    ("SGD", {"lr": 0.01}),
    ("SGD", {"lr": 0.01, "momentum": 0.9, "dampening": 0.1, "weight_decay": 1e-3}),
    ("SGD", {"lr": 0.005, "momentum": 0.9, "nesterov": True}),
    ("Adam", {"lr": 1e-3}),
    ("Adam", {"lr": 1e-3, "amsgrad": True, "weight_decay": 1e-2}),
    ("Adam", {"lr": 1e-3, "weight_decay": 1e-2, "decoupled_weight_decay": True}),
    ("AdamW", {"lr": 1e-3}),
    ("AdamW", {"lr": 1e-3, "amsgrad": True, "betas": (0.8, 0.95), "eps": 1e-6}),
    ("Adamax", {"lr": 1e-3, "weight_decay": 1e-3}),
    ("NAdam", {"lr": 1e-4}),
    ("NAdam", {"lr": 1e-4, "weight_decay": 1e-2, "decoupled_weight_decay": True, "momentum_decay": 1e-2}),
    ("RAdam", {"lr": 1e-3}),
    ("RAdam", {"lr": 1e-3, "weight_decay": 1e-2, "decoupled_weight_decay": True}),
    ("RMSprop", {"lr": 1e-4}),
    ("RMSprop", {"lr": 1e-5, "momentum": 0.9, "alpha": 0.9, "eps": 1e-4}),
    ("RMSprop", {"lr": 1e-5, "centered": True, "eps": 1e-2}),
    ("RMSprop", {"lr": 1e-5, "centered": True, "momentum": 0.5, "weight_decay": 1e-3, "eps": 1e-2}),
    ("Adagrad", {"lr": 1e-2, "lr_decay": 1e-2, "initial_accumulator_value": 0.1, "weight_decay": 1e-3}),
    ("Adadelta", {"lr": 1e-2, "weight_decay": 1e-3}),
    ("Adafactor", {"lr": 1e-4, "weight_decay": 1e-2}),
    ("ASGD", {"lr": 0.02, "t0": 100, "weight_decay": 1e-3}),
    ("Rprop", {"lr": 1e-3}),
    ("SparseAdam", {"lr": 1e-3}),
    ("Muon", {"lr": 1e-3}),
]
CASES = [(name, keywords) for name, keywords in CASES if hasattr(torch.optim, name)]
DENSE = [(name, keywords) for name, keywords in CASES if name != "SparseAdam"]


def label(case):
    name, keywords = case
    return ",".join([name, *(f"{key}={value}" for key, value in keywords.items())])


def network(dtype=torch.float32, seed=0, only_matrices=False):
    """A small network with a vector, a matrix, a kernel of four axes and a number among its parameters."""
    torch.manual_seed(seed)

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = torch.nn.Conv2d(1, 4, 3)
            self.one, self.two = torch.nn.Linear(4 * 36, 16), torch.nn.Linear(16, 1)
            self.gain = torch.nn.Parameter(torch.tensor(1.0))

        def forward(self, x):
            return self.gain * self.two(torch.tanh(self.one(torch.tanh(self.conv(x)).flatten(1))))

    net = Net().to(dtype)
    if only_matrices:
        for param in net.parameters():
            param.requires_grad_(param.ndim == 2)
    return net


def data(dtype=torch.float32):
    """More than the network can learn by heart: where a loss comes to nothing, rounding alone says where to go."""
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(128, 1, 8, 8, generator=generator, dtype=torch.float64)
    y = x.mean(dim=(1, 2, 3))[:, None] * 3 + torch.randn(128, 1, generator=generator, dtype=torch.float64)
    return x.to(dtype), y.to(dtype)


def train(net, opt, steps, dtype=torch.float32, each=None):
    """The losses of so many steps."""
    x, y = data(dtype)
    losses = []
    for t in range(steps):
        opt.zero_grad()
        loss = ((net(x) - y) ** 2).mean()
        loss.backward()
        if each is not None:
            each(t)
        opt.step()
        losses.append(float(loss.detach()))
    return losses


def trained(net):
    return [param for param in net.parameters() if param.requires_grad]
