"""Whole training steps of torch with `fastlr.torch`: `python benchmarks/torch_training.py [small] [backward] [ppo]`.

small: the loop of docs/torch.md (zero, forward, backward, step) of networks of three layers, batches of 32 rows, by
torch's AdamW as it comes, torch's fused one, and fastlr's: microseconds of an update, and of the step in it.

backward: a transformer of 100 million parameters, whose parameters move after the backward pass or inside it
(``in_backward=True``), and torch's fused AdamW: seconds of a whole step (zero, forward, backward, step), rounds
interleaved, and what memory stays between steps and how much more a step needs at most. Times are measured where the C
library keeps what is freed (whether it gives back memory of gradients, to fault it in again, depends on what else is in
memory, and costs a third of a step), memory where it does not; each in a process of its own.
ppo: PPO of stable-baselines3 on CartPole from the first to the last of its updates, with torch's Adam and fastlr's.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

import torch

import fastlr
import fastlr.torch

WIDTH, LAYERS, WORDS = 1024, 8, 256
WAYS = {"fastlr": (fastlr.torch.AdamW, {}), "fastlr, in_backward": (fastlr.torch.AdamW, {"in_backward": True}),
        "torch fused": (torch.optim.AdamW, {"fused": True})}


class Block(torch.nn.Module):
    """One layer of a transformer."""

    def __init__(self):
        super().__init__()
        self.first, self.second = torch.nn.LayerNorm(WIDTH), torch.nn.LayerNorm(WIDTH)
        self.qkv, self.out = torch.nn.Linear(WIDTH, 3 * WIDTH), torch.nn.Linear(WIDTH, WIDTH)
        self.up, self.down = torch.nn.Linear(WIDTH, 4 * WIDTH), torch.nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x):
        q, k, v = (part.unflatten(-1, (16, -1)).transpose(1, 2) for part in self.qkv(self.first(x)).chunk(3, dim=-1))
        mixed = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.down(torch.nn.functional.gelu(self.up(self.second(x))))


class Training:
    """A model, its optimizer, and one step of them."""

    def __init__(self, way, tokens):
        torch.manual_seed(0)
        self.model = torch.nn.Sequential(torch.nn.Embedding(WORDS, WIDTH), *(Block() for _ in range(LAYERS)),
                                         torch.nn.LayerNorm(WIDTH), torch.nn.Linear(WIDTH, WORDS))
        cls, keywords = WAYS[way]
        self.opt = cls(self.model.parameters(), lr=1e-4, **keywords)
        self.in_backward = "in_backward" in keywords
        self.words = torch.randint(WORDS, (1, tokens + 1))

    def step(self):
        self.opt.zero_grad(set_to_none=True)
        loss = torch.nn.functional.cross_entropy(self.model(self.words[:, :-1])[0], self.words[0, 1:])
        loss.backward()
        if not self.in_backward:
            self.opt.step()
        return loss.item()


SMALL = {"torch": (torch.optim.AdamW, {}), "torch fused": (torch.optim.AdamW, {"fused": True}),
         "fastlr": (fastlr.torch.AdamW, {})}


class Small:
    """A network of three layers, its optimizer, and some updates of them."""

    def __init__(self, who, width):
        torch.manual_seed(0)
        self.model = torch.nn.Sequential(torch.nn.Linear(8, width), torch.nn.Tanh(), torch.nn.Linear(width, width),
                                         torch.nn.Tanh(), torch.nn.Linear(width, 1))
        cls, keywords = SMALL[who]
        self.opt = cls(self.model.parameters(), lr=1e-3, **keywords)
        self.x = torch.randn(32, 8)
        self.y = self.x.sum(1, keepdim=True)

    def seconds(self, updates):
        """Of an update, and of its step."""
        stepping = 0.0
        begun = time.perf_counter()
        for _ in range(updates):
            self.opt.zero_grad()
            (self.model(self.x) - self.y).square().mean().backward()
            before = time.perf_counter()
            self.opt.step()
            stepping += time.perf_counter() - before
        return (time.perf_counter() - begun) / updates, stepping / updates


def small(rounds):
    """Seconds of an update and of its step, by width and optimizer; medians of interleaved rounds."""
    found = {}
    for width in (64, 512):
        made = {who: Small(who, width) for who in SMALL}
        times = {who: [] for who in SMALL}
        for turn in range(4 * rounds + 1):
            for who, training in made.items():
                taken = training.seconds(100)
                if turn:               # (in the first, memory is touched and code imported)
                    times[who].append(taken)
        found[width] = {who: {
            "update": statistics.median(update for update, _ in taken),
            "step": statistics.median(step for _, step in taken),
            "times as long as fastlr": statistics.median(a / b for (a, _), (b, _) in zip(taken, times["fastlr"],
                                                                                         strict=True)),
        } for who, taken in times.items()}
    return found


def resident():
    """Bytes of memory that this process has."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def most_memory(way, tokens):
    """Bytes: what stays between steps, without gradients, and the most that a step needs above that."""
    training = Training(way, tokens)
    for _ in range(3):                 # (what the first leaves free, the C library gives back in the second)
        training.step()
    training.opt.zero_grad(set_to_none=True)
    stays, most, ended = resident(), [0], threading.Event()

    def watch():
        while not ended.wait(1e-3):
            most[0] = max(most[0], resident())

    watcher = threading.Thread(target=watch)
    watcher.start()
    training.step()
    most[0] = max(most[0], resident())
    ended.set()
    watcher.join()
    return {"stays": stays, "most": most[0] - stays,
            "gradients": sum(param.numel() * 4 for param in training.model.parameters())}


def step_times(rounds, tokens):
    """Seconds and losses of each way, by round."""
    made = {way: Training(way, tokens) for way in WAYS}
    times, losses = {way: [] for way in WAYS}, {way: [] for way in WAYS}
    for turn in range(rounds + 2):
        order = list(made.items())
        for way, training in order[turn % len(order):] + order[:turn % len(order)]:
            begun = time.perf_counter()
            losses[way].append(training.step())
            times[way].append(time.perf_counter() - begun)
    return {"times": {way: took[2:] for way, took in times.items()}, "losses": losses}


def apart(what, tokens, environment, *more):
    """What a process of its own says."""
    said = subprocess.run([sys.executable, __file__, what, "--tokens", str(tokens), "--threads",
                           str(torch.get_num_threads()), *more], check=True, stdout=subprocess.PIPE, text=True,
                          env=os.environ | environment).stdout
    return json.loads(said)


def backward(rounds, tokens):
    """Seconds of a step and memory, of each way."""
    rows = {way: apart("memory", tokens, {"MALLOC_MMAP_THRESHOLD_": "65536"}, "--way", way) for way in WAYS}
    found = apart("times", tokens, {"MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TRIM_THRESHOLD_": str(1 << 40)},
                  "--rounds", str(rounds))
    for way, row in rows.items():
        row["seconds"] = statistics.median(found["times"][way])
        row["times as fast as fastlr"] = statistics.median(
            a / b for a, b in zip(found["times"]["fastlr"], found["times"][way], strict=True))
        row["loss"] = found["losses"][way][-1]
    return rows


def ppo(rounds, updates):
    """Seconds from the first to the last of PPO's updates, of each optimizer."""
    from stable_baselines3 import PPO

    times = {"fastlr": [], "torch": []}
    kinds = {"fastlr": {"optimizer_class": fastlr.torch.Adam, "optimizer_kwargs": {"eps": 1e-5}}, "torch": {}}
    for turn in range(rounds + 1):
        for who, keywords in kinds.items():
            model = PPO("MlpPolicy", "CartPole-v1", seed=turn, device="cpu", policy_kwargs=keywords)
            begun = time.perf_counter()
            model.learn(updates * model.n_steps)
            times[who].append(time.perf_counter() - begun)
            model.env.close()
    rows = {who: {"seconds": statistics.median(took[1:])} for who, took in times.items()}
    rows["fastlr"]["times as fast as torch"] = statistics.median(
        a / b for a, b in zip(times["torch"][1:], times["fastlr"][1:], strict=True))
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("what", nargs="*", default=["small", "backward", "ppo"], help="default: small backward ppo")
    parser.add_argument("--rounds", type=int, default=5, help="more take longer, and vary less")
    parser.add_argument("--tokens", type=int, default=32, help="of a batch of the transformer")
    parser.add_argument("--updates", type=int, default=2, help="of PPO: 320 steps of the optimizer each")
    parser.add_argument("--threads", type=int, default=fastlr.get_num_threads(), help="of fastlr and of torch")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)          # (for processes of its own)
    parser.add_argument("--json", action="store_true", help="write JSON")
    given = parser.parse_args()
    fastlr.set_num_threads(given.threads)
    torch.set_num_threads(given.threads)
    if given.what in (["memory"], ["times"]):
        print(json.dumps(most_memory(given.way, given.tokens) if given.what == ["memory"] else
                         step_times(given.rounds, given.tokens)))
        return
    found = {"torch": torch.__version__, "threads": given.threads}
    if "small" in given.what:
        found["small"] = small(given.rounds)
    if "backward" in given.what:
        found["backward"] = backward(given.rounds, given.tokens)
    if "ppo" in given.what:
        found["ppo"] = ppo(given.rounds, given.updates)
    if given.json:
        print(json.dumps(found, indent=1))
        return
    print(f"torch {torch.__version__}, {given.threads} threads")
    if "small" in found:
        print("\n| small networks, AdamW | an update, us | the step alone, us | times as long as fastlr |\n"
              "|---|---|---|---|")
        for width, rows in found["small"].items():
            for who, row in rows.items():
                print(f"| 8-{width}-{width}-1, {who} | {1e6 * row['update']:.0f} | {1e6 * row['step']:.0f} | "
                      f"{row['times as long as fastlr']:.2f} |")
    if "backward" in found:
        print("\n| a transformer of 100 million parameters, AdamW | step, s | times as fast | stays, MB | "
              "a step needs, MB |\n"
              "|---|---|---|---|---|")
        for way, row in found["backward"].items():
            print(f"| {way} | {row['seconds']:.3f} | {row['times as fast as fastlr']:.2f} | {row['stays'] / 1e6:.0f} | "
                  f"{row['most'] / 1e6:.0f} |")
        print(f"Gradients of all parameters: {row['gradients'] / 1e6:.0f} MB")
    if "ppo" in found:
        print("\n| PPO on CartPole, Adam | s | times as fast as torch |\n|---|---|---|")
        for who, row in found["ppo"].items():
            print(f"| {who} | {row['seconds']:.2f} | {row.get('times as fast as torch', 1):.2f} |")


if __name__ == "__main__":
    main()
