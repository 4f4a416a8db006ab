"""`fastlr.thinc` beside thinc's own optimizers, and in spaCy: the same numbers, schedules, averages and scores."""
import re
from importlib.metadata import entry_points
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("spacy")

import spacy
import thinc.optimizers
from spacy.tokens import DocBin
from spacy.training import Example
from thinc.api import Linear, Model, registry

import fastlr
import fastlr.thinc
from fastlr import schedules
from fastlr.optimizers.rule_class import REGISTRY
from fastlr.optimizers.thinc_names import moves_alone

NAMES = [cls.__name__ for cls in REGISTRY.values() if moves_alone(cls)]
every_name = pytest.mark.parametrize("name", NAMES)


def arrays(seed, scale=1.0, shape=(7, 5)):
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(np.float32)


def resolved(text):
    """What a configuration of spaCy makes of a section."""
    return registry.resolve(thinc.api.Config().from_str(text))["optimizer"]


def trained(opt, steps=40, scale=1.0):
    weights, gradient = arrays(0), np.zeros((7, 5), np.float32)
    for t in range(steps):
        gradient += arrays(1 + t, scale)
        returned = opt((1, "W"), weights, gradient)
        assert all(map(np.shares_memory, returned, (weights, gradient))) and not gradient.any()
        opt.step_schedules()
    return weights


@every_name
def test_a_configuration_names_the_optimizer_and_its_bits_are_those_of_fastlr(name):
    opt = resolved(f'[optimizer]\n@optimizers = "fastlr.{name}.v1"\nlearn_rate = 0.01\ngrad_clip = 0\n')
    assert type(opt) is getattr(fastlr.thinc, name) and isinstance(opt, thinc.optimizers.Optimizer)
    found = trained(opt)
    p = arrays(0)
    own = getattr(fastlr, name)([p], lr=0.01)
    for t in range(40):
        own.step([arrays(1 + t)])
    assert found.tobytes() == p.tobytes()
    assert opt.nr_update == {(1, "W"): 40}
    assert {slot: x.tobytes() for slot, x in opt.state[1, "W"].items() if slot != "ema"} \
        == {slot: x.tobytes() for slot, x in own.state["0"].items()}


def test_the_entry_points_are_all_that_can_be():
    found = {point.name: point for point in entry_points(group="thinc_optimizers") if point.name.startswith("fastlr.")}
    assert sorted(found) == sorted(f"fastlr.{name}.v1" for name in NAMES)
    assert found["fastlr.Lion.v1"].load() is fastlr.thinc.Lion
    assert {"AdamW", "Muon", "ScheduleFreeAdamW", "Optimizer"} <= set(dir(fastlr.thinc))
    assert not {"Prodigy", "Sophia", "MoMo"} & set(dir(fastlr.thinc))


@pytest.mark.parametrize("averages", [False, True])
@pytest.mark.parametrize("clip, scale", [(0.0, 1.0), (1.0, 1.0), (1.0, 0.01)])
def test_adam_is_thincs(averages, clip, scale):
    """The factor of clipping differs by 1e-6 of the norm, in which Adam does not depend on it, to rounding.

    A few units in the last place of each update of 0.01 are 1e-8 of steps, and thinc's 1 - beta2 in float32 is 5e-5
    off, half of that in the update.
    """
    theirs = thinc.optimizers.Adam(0.01, grad_clip=clip, use_averages=averages)
    ours = fastlr.thinc.Adam(0.01, grad_clip=clip, use_averages=averages, convention="keras")
    np.testing.assert_allclose(trained(ours, scale=scale), trained(theirs, scale=scale), rtol=0, atol=40 * 0.01 * 5e-5)
    if not averages:
        assert ours.averages is None
        return
    assert list(ours.averages) == [(1, "W")]
    np.testing.assert_allclose(ours.averages[1, "W"], theirs.averages[1, "W"], rtol=0, atol=40 * 0.01 * 5e-5)


@pytest.mark.parametrize("shrinks", [False, True])
def test_weight_decay_is_thincs(shrinks):
    """Where it shrinks weights, it does so before their update rather than after it: lr * L2 = 0.001 of an update of
    0.01; thinc's 1 - beta2 is 5e-5 off."""
    theirs = thinc.optimizers.Adam(0.01, L2=0.1, L2_is_weight_decay=shrinks, grad_clip=0.0, use_averages=False)
    ours, other = (fastlr.thinc.Adam(0.01, L2=0.1, L2_is_weight_decay=which, grad_clip=0.0, use_averages=False,
                                     convention="keras") for which in (shrinks, not shrinks))
    want, found = trained(theirs), trained(ours)
    tolerance = 40 * 0.01 * (0.001 + 5e-5)
    np.testing.assert_allclose(found, want, rtol=0, atol=tolerance)
    assert np.abs(trained(other) - want).max() > 10 * tolerance
    for name, usual in (("Adam", False), ("AdamW", True)):
        cls = getattr(fastlr.thinc, name)
        assert trained(cls(0.01, L2=0.1)).tobytes() == trained(cls(0.01, L2=0.1, L2_is_weight_decay=usual)).tobytes()


def test_schedules_of_every_kind_give_one_value_after_the_other():
    cosine = schedules.cosine(0.1, steps=20).warmup(5)
    text = "cosine(0.1, steps=20).warmup(5)"
    rates = [float(cosine(t)) for t in range(41)]
    found = []
    for given in (cosine, text, rates, iter(rates), lambda t: rates[t]):
        opt = fastlr.thinc.AdamW(given)
        seen = []
        for _ in range(40):
            seen.append(opt.learn_rate)
            opt.step_schedules()
        assert seen == rates[:40]
        found.append(trained(fastlr.thinc.AdamW(iter(rates) if hasattr(given, "__next__") else given)).tobytes())
    p = arrays(0)
    own = fastlr.AdamW([p], lr=cosine, clip_tensor_norm=1.0)
    for t in range(40):
        own.step([arrays(1 + t)])
    assert set(found) == {p.tobytes()}
    opt = resolved('[optimizer]\n@optimizers = "fastlr.AdamW.v1"\n[optimizer.learn_rate]\n@schedules = "warmup_linear.v1"\n'
                   "initial_rate = 0.1\nwarmup_steps = 4\ntotal_steps = 10\n")
    assert [opt.learn_rate, opt.step_schedules(), opt.learn_rate] == [0.0, None, 0.025]
    short = fastlr.thinc.SGD([0.5, 0.25])
    for want in (0.5, 0.25, 0.25):             # (the last value holds)
        assert short.learn_rate == want
        short.step_schedules()


def test_values_that_are_set_count_from_the_next_call():
    weights, key = np.zeros((2, 2), np.float32), (3, "b")
    opt = fastlr.thinc.SGD(1.0, grad_clip=0.0, use_averages=False)

    def moved(gradient, **keywords):
        before = weights.copy()
        opt(key, weights, np.full((2, 2), gradient, np.float32), **keywords)
        return (before - weights)[0, 0].item()

    assert moved(1.0) == 1.0
    opt.learn_rate = 0.5
    assert [moved(1.0), moved(1.0, lr_scale=0.25), moved(1.0)] == [0.5, 0.125, 0.5]
    opt.grad_clip = 1.0
    assert moved(4.0) == pytest.approx(0.25, rel=1e-5)
    opt.grad_clip = 0
    assert moved(4.0) == 2.0 and opt.nr_update[key] == 6
    clipped = fastlr.thinc.SGD(1.0, grad_clip=[1.0, 2.0])
    assert [clipped.grad_clip, clipped.step_schedules(), clipped.grad_clip] == [1.0, None, 2.0]
    assert (clipped.b1, clipped.b2, fastlr.thinc.Adam(0.1).b2) == (0.0, 0.0, 0.999)
    with pytest.raises(AttributeError):
        opt.learning_rate = 0.1


def test_weights_in_other_memory_go_on_with_their_state():
    whole = trained(fastlr.thinc.AdamW(0.01), 40)
    opt = fastlr.thinc.AdamW(0.01)
    weights, gradient = arrays(0), np.zeros((7, 5), np.float32)
    for t in range(40):
        gradient += arrays(1 + t)
        weights = weights[:] if t % 3 else weights.copy()      # (over the same memory, or moved)
        opt((1, "W"), weights, gradient)
    assert weights.tobytes() == whole.tobytes() and opt.nr_update == {(1, "W"): 40}


def test_averages_are_what_a_model_is_used_with():
    model = Linear(2, 3).initialize()
    opt = fastlr.thinc.AdamW(0.1)
    for t in range(5):
        _, backprop = model.begin_update(arrays(t, shape=(4, 3)))
        backprop(arrays(9 + t, shape=(4, 2)))
        model.finish_update(opt)
    before = model.get_param("W").copy()
    with model.use_params(opt.averages):
        assert model.get_param("W").tobytes() == opt.averages[model.id, "W"].tobytes() != before.tobytes()
    assert model.get_param("W").tobytes() == before.tobytes()
    free = fastlr.thinc.ScheduleFreeAdamW(0.1)
    weights = trained(free)
    assert free.averages[1, "W"].shape == (7, 5) and not np.array_equal(free.averages[1, "W"], weights)


def test_what_is_wrong_is_refused_with_advice():
    with pytest.raises(TypeError, match="AdamW: unknown keyword 'learning_rate'; did you mean 'learn_rate'"):
        fastlr.thinc.AdamW(learning_rate=0.1)
    with pytest.raises(ValueError, match=r"AdamW: learn_rate must be in \[0, inf\), got -1"):
        fastlr.thinc.AdamW(-1)
    with pytest.raises(ValueError, match=r"AdamW: beta1 must be in \[0, 1\), got 1.5"):
        fastlr.thinc.AdamW(0.1, beta1=1.5)
    with pytest.raises(ValueError, match="SGD: grad_clip must be"):
        fastlr.thinc.SGD(0.1, grad_clip=-1)
    with pytest.raises(ValueError, match="SGD: L2_is_weight_decay must be True, False or None, got 'yes'"):
        fastlr.thinc.SGD(0.1, L2_is_weight_decay="yes")
    with pytest.raises(ValueError, match="SGD: learn_rate: a schedule without values"):
        fastlr.thinc.SGD([])
    with pytest.raises(ValueError, match="Adam: state_dtype must be"):
        fastlr.thinc.Adam(0.1, state_dtype="int4")
    with pytest.raises(TypeError, match="SGD: learn_rate must be a number here"):
        fastlr.thinc.SGD(0.1).learn_rate = schedules.constant(0.1)
    with pytest.raises(AttributeError, match="no Prodigy: its rule needs sums over all parameters"):
        fastlr.thinc.Prodigy  # noqa: B018
    with pytest.raises(AttributeError, match="no MoMo: its rule needs the loss"):
        fastlr.thinc.MoMo  # noqa: B018
    with pytest.raises(AttributeError, match="no attribute 'AdamV'; did you mean"):
        fastlr.thinc.AdamV  # noqa: B018
    with pytest.raises(Exception, match="unexpected argument: 'learning_rate'"):
        resolved('[optimizer]\n@optimizers = "fastlr.AdamW.v1"\nlearning_rate = 0.1\n')
    opt = fastlr.thinc.SGD(0.1)
    with pytest.raises(TypeError, match="expected an array of NumPy, got list; fastlr steps on the CPU"):
        opt((1, "W"), [1.0], [1.0])
    weights, gradient = np.ones(3, np.float32), np.ones(3, np.float32)
    opt((1, "W"), weights, gradient)
    with pytest.raises(ValueError, match=r"expected shape \(3,\) as before, got \(4,\)"):
        opt((1, "W"), np.ones(4, np.float32), np.ones(4, np.float32))
    before = weights.copy()
    with pytest.raises(ValueError, match=r"expected float32 \(3,\) like the parameter, got float32 \(2,\)"):
        opt((1, "W"), weights, np.ones(2, np.float32))
    assert weights.tobytes() == before.tobytes()


# spaCy

COLORS, CITIES = ["red", "green", "blue", "grey", "black"], ["Paris", "Rome", "Oslo", "Lima", "Cairo"]
CONFIG = """
[nlp]
lang = "en"
pipeline = ["tok2vec", "ner", "textcat"]
batch_size = 64
[components]
[components.tok2vec]
factory = "tok2vec"
[components.tok2vec.model]
@architectures = "spacy.HashEmbedCNN.v2"
pretrained_vectors = null
width = 32
depth = 2
embed_size = 300
window_size = 1
maxout_pieces = 2
subword_features = false
[components.ner]
factory = "ner"
[components.ner.model]
@architectures = "spacy.TransitionBasedParser.v2"
state_type = "ner"
extra_state_tokens = false
hidden_width = 16
maxout_pieces = 2
use_upper = true
[components.ner.model.tok2vec]
@architectures = "spacy.Tok2VecListener.v1"
width = 32
[components.textcat]
factory = "textcat"
[corpora]
[corpora.train]
@readers = "spacy.Corpus.v1"
path = {train!r}
[corpora.dev]
@readers = "spacy.Corpus.v1"
path = {dev!r}
[training]
max_steps = 60
eval_frequency = 30
patience = 0
[training.optimizer]
{optimizer}
"""
OPTIMIZERS = {
    "thinc": '@optimizers = "Adam.v1"\nlearn_rate = 0.01\nuse_averages = true',
    "fastlr": '@optimizers = "fastlr.Adam.v1"\nlearn_rate = 0.01\nuse_averages = true',
    "schedule": '@optimizers = "fastlr.AdamW.v1"\nlearn_rate = "cosine(0.01, steps=60).warmup(5)"\nuse_averages = false',
}


def documents(count, seed):
    """Sentences with a city to find, which are about it or about the weather."""
    rng, nlp = np.random.default_rng(seed), spacy.blank("en")
    found = DocBin()
    for _ in range(count):
        city, about = str(rng.choice(CITIES)), bool(rng.integers(2))
        start, end = ("The walls of ", " are ") if about else ("The sky over ", " was ")
        doc = nlp.make_doc(f"{start}{city}{end}{rng.choice(COLORS)} .")
        doc.ents = [doc.char_span(len(start), len(start) + len(city), "CITY")]
        doc.cats = {"WALLS": float(about), "SKY": float(not about)}
        found.add(doc)
    return found


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_spacy_trains_a_pipeline_by_its_configuration(kind, tmp_path):
    from spacy.training.initialize import init_nlp
    from spacy.training.loop import train
    from spacy.util import load_config_from_str

    for name, count, seed in (("train", 300, 0), ("dev", 60, 1)):
        documents(count, seed).to_disk(tmp_path / f"{name}.spacy")
    text = CONFIG.format(train=str(tmp_path / "train.spacy"), dev=str(tmp_path / "dev.spacy"),
                         optimizer=OPTIMIZERS[kind]).replace("'", '"')
    filled = spacy.blank("en").from_config(load_config_from_str(text), auto_fill=True).config
    nlp = init_nlp(filled)
    nlp, _ = train(nlp, None)
    scores = nlp.evaluate([Example(nlp.make_doc(doc.text), doc)
                           for doc in DocBin().from_disk(tmp_path / "dev.spacy").get_docs(nlp.vocab)])
    assert scores["ents_f"] == 1.0 and scores["cats_macro_f"] == 1.0


def test_rehearsal_and_an_optimizer_of_ones_own():
    nlp = spacy.blank("en")
    nlp.add_pipe("textcat")
    train = [Example.from_dict(doc, {"cats": doc.cats}) for doc in documents(30, 0).get_docs(nlp.vocab)]
    opt = nlp.initialize(lambda: train, sgd=fastlr.thinc.Lion(0.001))
    assert type(opt) is fastlr.thinc.Lion
    losses = []
    for _ in range(30):
        found: dict = {}
        nlp.update(train, sgd=opt, losses=found)
        losses.append(found["textcat"])
    assert losses[-1] < losses[0] / 2
    nlp.rehearse(train, sgd=nlp.resume_training(sgd=opt))
    assert isinstance(nlp.get_pipe("textcat").model, Model)


def test_the_page_is_so(capsys):
    """docs/spacy.md"""
    page = (Path(__file__).parents[1] / "docs" / "spacy.md").read_text()
    settings, blocks = re.findall(r"```ini\n(.*?)```", page, re.DOTALL), re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(settings) == 2 and len(blocks) == 1
    for text in settings:
        opt = resolved(text.replace("training.optimizer", "optimizer"))
        assert isinstance(opt, fastlr.thinc.Optimizer)
    assert opt.learn_rate == schedules.cosine(0.001, steps=20000).warmup(250)(0)
    exec(compile(blocks[0], "spacy.md", "exec"), {})
    assert float(re.search(r"'SKY': ([\d.e-]+)", capsys.readouterr().out)[1]) > 0.5
