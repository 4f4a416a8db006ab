"""spaCy trains with its own optimizer and with fastlr's: `python benchmarks/spacy_training.py`.

Named entities and text classification with spaCy's default pipelines, on docstrings of Python's own library: entities
are exceptions, built-in types and functions, classes are groups of modules. Shown for each optimizer are the seconds in
it (of each parameter the median call, times their number), its share of training, the microseconds of a call, all as
medians of the rounds, and the score on documents that were not trained on: its mean over the rounds, each of which has
another seed. One thread computes.
"""
import argparse
import builtins
import importlib
import inspect
import json
import os
import random
import re
import statistics
import time
from collections import defaultdict

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")     # (thinc takes norms by NumPy; one thread for either)

import spacy
from spacy.training import Example
from spacy.util import fix_random_seed, minibatch
from thinc.api import registry

import fastlr

TOPICS = {
    "network": "email.message email.utils http.client http.cookies urllib.request urllib.parse socket ssl smtplib "
               "imaplib ftplib socketserver xmlrpc.client ipaddress",
    "processes": "asyncio.events asyncio.streams asyncio.tasks threading multiprocessing.pool multiprocessing.managers "
                 "subprocess concurrent.futures.process concurrent.futures.thread queue sched signal selectors",
    "files": "os shutil pathlib tempfile zipfile tarfile io glob gzip bz2 lzma mailbox fileinput filecmp",
    "numbers": "math cmath statistics decimal fractions random datetime calendar numbers operator itertools heapq",
    "code": "ast inspect dis tokenize unittest.case unittest.mock doctest pdb trace types logging argparse pydoc",
}
TYPES = {"str", "int", "float", "list", "dict", "tuple", "bytes", "set", "bool", "object", "bytearray", "complex"}
SETTINGS = {"learn_rate": 0.001, "L2": 0.01, "L2_is_weight_decay": True, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8,
            "grad_clip": 1.0}                  # (those of spaCy's default configuration)
OPTIMIZERS = {"Adam.v1": {}, "fastlr.Adam.v1": {"convention": "keras"}}


def paragraphs():
    """Texts of the docstrings, with the group that their module belongs to."""
    seen, found = set(), []
    for topic, modules in TOPICS.items():
        for module in map(importlib.import_module, modules.split()):
            for _, item in sorted(vars(module).items()):
                parts = [item, *(vars(item).values() if inspect.isclass(item) else ())]
                for part in parts:
                    doc = getattr(part, "__doc__", None)
                    for text in re.split(r"\n\s*\n", doc) if isinstance(doc, str) else ():
                        text = " ".join(text.split())
                        if 8 <= len(text.split()) <= 80 and text not in seen:
                            seen.add(text)
                            found.append((text, topic))
    random.Random(0).shuffle(found)
    return found


def entity(token, following):
    """The label of a word, or nothing."""
    if isinstance(getattr(builtins, token, None), type) and issubclass(getattr(builtins, token), BaseException):
        return "EXCEPTION"
    if token in TYPES:
        return "TYPE"
    return "FUNCTION" if re.fullmatch(r"[a-z_]{3,}", token) and following.startswith("(") else None


def examples(nlp, task, texts):
    """Documents with what is to be found in them."""
    found = []
    for text, topic in texts:
        doc = nlp.make_doc(text)
        if task == "textcat":
            gold = {"cats": {name: float(name == topic) for name in TOPICS}}
        else:
            labels = [(token, entity(token.text, text[token.idx + len(token):])) for token in doc]
            gold = {"entities": [(token.idx, token.idx + len(token), label) for token, label in labels if label]}
        found.append(Example.from_dict(doc, gold))
    return found


def train(task, name, averages, steps, texts, seed):
    """Seconds in the optimizer and in all updates, calls, and the score."""
    fix_random_seed(seed)
    opt = registry.resolve({"optimizer": {"@optimizers": name, "use_averages": averages} | SETTINGS
                            | OPTIMIZERS[name]})["optimizer"]
    nlp = spacy.blank("en")
    nlp.add_pipe(task)
    held = len(texts) // 5
    dev, data = examples(nlp, task, texts[:held]), examples(nlp, task, texts[held:])
    nlp.initialize(lambda: data, sgd=opt)
    times, call = defaultdict(list), type(opt).__call__

    def timed(self, key, *arguments, **keywords):
        begun = time.perf_counter()
        returned = call(self, key, *arguments, **keywords)
        times[key].append(time.perf_counter() - begun)
        return returned

    type(opt).__call__ = timed
    done, begun = 0, time.perf_counter()
    try:
        while done < steps:
            random.shuffle(data)
            for batch in minibatch(data, 16):
                nlp.update(batch, sgd=opt, drop=0.1)
                opt.step_schedules()
                done += 1
                if done == steps:
                    break
    finally:
        type(opt).__call__ = call
    took = time.perf_counter() - begun
    with nlp.use_params(opt.averages or {}):
        scores = nlp.evaluate(dev)
    spent = sum(len(found) * statistics.median(found) for found in times.values())
    return spent, took, sum(map(len, times.values())), scores["ents_f" if task == "ner" else "cats_macro_f"]


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--steps", type=int, default=300)
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--tasks", nargs="+", default=["ner", "textcat"], choices=["ner", "textcat"])
    arguments.add_argument("--json", action="store_true")
    given = arguments.parse_args()
    texts, rows = paragraphs(), []
    fastlr.set_num_threads(1)
    for task in given.tasks:
        for averages in (False, True):
            runs = {name: [] for name in OPTIMIZERS}
            for seed in range(given.rounds):
                for name in OPTIMIZERS:
                    runs[name].append(train(task, name, averages, given.steps, texts, seed))
            for name, found in runs.items():
                spent, took, calls, _ = map(statistics.median, zip(*found, strict=True))
                scores = [run[-1] for run in found]
                rows.append({"task": task, "averages": averages, "optimizer": name, "seconds": spent,
                             "share": spent / took, "microseconds": spent / calls * 1e6, "scores": scores,
                             "of_thinc": spent / statistics.median(run[0] for run in runs["Adam.v1"])})
                if not given.json:
                    print(f"{task:8s} averages={averages!s:5s} {name:15s} {spent:7.3f} s in the optimizer, "
                          f"{spent / took:5.1%} of training, {spent / calls * 1e6:6.1f} us a call, "
                          f"{rows[-1]['of_thinc']:.2f} of thinc's, score {statistics.mean(scores):.3f} "
                          f"({min(scores):.3f} to {max(scores):.3f})", flush=True)
    if given.json:
        print(json.dumps(rows))


if __name__ == "__main__":
    main()
