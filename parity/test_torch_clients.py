"""Libraries that train models of torch: the same losses with an optimizer of `fastlr.torch` as with torch's own."""
import importlib.util
import re
import warnings
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

import fastlr.torch  # noqa: E402

mse = torch.nn.functional.mse_loss


def needs(name):
    return pytest.mark.skipif(importlib.util.find_spec(name) is None, reason=f"{name} is not installed")


@pytest.fixture(autouse=True)
def of_the_clients():
    """Their warnings are theirs; one thread, as tests run side by side."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    torch.set_num_threads(before)


def network():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1))


def table(rows=64):
    x = torch.randn(rows, 4, generator=torch.Generator().manual_seed(1))
    return x, x.sum(dim=1, keepdim=True)


def same(losses, rtol=1e-5):
    """The losses of both optimizers, which fall."""
    ours, theirs = losses
    assert len(ours) == len(theirs) >= 4 and ours[-1] < ours[0]
    torch.testing.assert_close(torch.tensor(ours), torch.tensor(theirs), rtol=rtol, atol=1e-6)


BOTH = (fastlr.torch, torch.optim)


@needs("stable_baselines3")
def test_ppo_of_stable_baselines3():
    """(It gives torch's own Adam this eps by itself.)"""
    from stable_baselines3 import PPO

    found = []
    for module in BOTH:
        model = PPO("MlpPolicy", "CartPole-v1", n_steps=64, batch_size=32, n_epochs=2, seed=0, device="cpu",
                    policy_kwargs={"optimizer_class": module.Adam, "optimizer_kwargs": {"eps": 1e-5}})
        model.learn(256)
        assert type(model.policy.optimizer) is module.Adam and model.num_timesteps == 256
        found.append(torch.cat([param.detach().flatten() for param in model.policy.parameters()]))
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)


@needs("stable_baselines3")
def test_ppo_is_saved_and_loaded(tmp_path):
    from stable_baselines3 import PPO

    model = PPO("MlpPolicy", "CartPole-v1", n_steps=64, batch_size=32, n_epochs=1, seed=0, device="cpu",
                policy_kwargs={"optimizer_class": fastlr.torch.Adam})
    model.learn(64)
    model.save(tmp_path / "model")
    again = PPO.load(tmp_path / "model", device="cpu")
    assert type(again.policy.optimizer) is fastlr.torch.Adam
    for ours, theirs in zip(model.policy.optimizer.state.values(), again.policy.optimizer.state.values(), strict=True):
        assert all(torch.equal(ours[name], theirs[name]) for name in ("exp_avg", "exp_avg_sq", "step"))


@needs("transformers")
@needs("accelerate")
def test_trainer_of_transformers(tmp_path):
    from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments, get_constant_schedule_with_warmup

    losses = []
    for module in BOTH:
        torch.manual_seed(0)
        model = GPT2LMHeadModel(GPT2Config(vocab_size=32, n_positions=16, n_embd=16, n_layer=1, n_head=2, bos_token_id=0,
                                           eos_token_id=0, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0))
        tokens = torch.arange(16)[None, :] + torch.arange(32)[:, None]
        data = [{"input_ids": row % 32, "labels": row % 32} for row in tokens]
        opt = module.AdamW(model.parameters(), lr=1e-2)
        trainer = Trainer(
            model=model, train_dataset=data, optimizers=(opt, get_constant_schedule_with_warmup(opt, 2)),
            args=TrainingArguments(output_dir=str(tmp_path), max_steps=8, per_device_train_batch_size=8, logging_steps=1,
                                   report_to=[], use_cpu=True, save_strategy="no", disable_tqdm=True, seed=0))
        trainer.train()
        losses.append([row["loss"] for row in trainer.state.log_history if "loss" in row])
    same(losses, rtol=1e-3)            # (the Trainer's log is rounded)


@needs("lightning")
def test_the_example_of_the_page_of_callbacks_runs(tmp_path, monkeypatch):
    """docs/callbacks.md"""
    page = (Path(__file__).parents[1] / "docs" / "callbacks.md").read_text()
    (block,) = re.findall(r"```python\n(import lightning\n.*?)```", page, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "page"}
    exec(compile(block, "callbacks.md", "exec"), names)
    assert names["callback"].history.t("loss").tolist() == list(range(1, 41))
    assert names["callback"].history.t("val_loss").tolist() == [8, 16, 24, 32, 40]


@needs("lightning")
def test_trainer_of_lightning(tmp_path):
    import lightning

    class Module(lightning.LightningModule):
        def __init__(self, make):
            super().__init__()
            self.net, self.make, self.losses = network(), make, []

        def training_step(self, batch):
            loss = mse(self.net(batch[0]), batch[1])
            self.losses.append(loss.item())
            return loss

        def configure_optimizers(self):
            opt = self.make(self.parameters(), lr=1e-2)
            return {"optimizer": opt, "lr_scheduler": torch.optim.lr_scheduler.ExponentialLR(opt, 0.9)}

    losses = []
    for module in BOTH:
        data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*table()), batch_size=16)
        trained = Module(module.AdamW)
        trainer = lightning.Trainer(max_epochs=3, accelerator="cpu", logger=False, enable_progress_bar=False,
                                    enable_model_summary=False, default_root_dir=str(tmp_path), gradient_clip_val=1.0)
        trainer.fit(trained, data)
        trainer.save_checkpoint(tmp_path / "checkpoint")
        state = torch.load(tmp_path / "checkpoint", weights_only=True)["optimizer_states"][0]["state"]
        assert float(state[0]["step"]) == 12
        losses.append(trained.losses)
    same(losses)


def lit(lightning, plateau=None, scheduled=False):
    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net, self.losses, self.rates = network(), [], []

        def training_step(self, batch):
            loss = mse(self.net(batch[0]), batch[1])
            self.losses.append(loss.item())
            return loss

        def on_before_optimizer_step(self, optimizer):
            self.rates.append(optimizer.param_groups[0]["lr"])

        def validation_step(self, batch):
            self.log("val_loss", mse(self.net(batch[0]), batch[1]))

        def configure_optimizers(self):
            opt = fastlr.torch.SGD(self.parameters(), lr=0.08)
            if not scheduled:
                return opt
            scheduler = plateau.to_torch(opt) if plateau else torch.optim.lr_scheduler.ExponentialLR(opt, 0.9)
            return {"optimizer": opt, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    return Module()


def fit_lit(lightning, module, callback, folder, epochs, resume=None, **more):
    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*table()), batch_size=16)
    trainer = lightning.Trainer(max_epochs=epochs, accelerator="cpu", logger=False, enable_progress_bar=False,
                                enable_model_summary=False, default_root_dir=str(folder), callbacks=[callback], **more)
    trainer.fit(module, data, data, ckpt_path=resume)
    return trainer


def never_better():
    """A plateau of which every metric after the first is a reduction."""
    return fastlr.Plateau(0.08, factor=0.5, patience=0, threshold=1e9, threshold_mode="absolute")


@needs("lightning")
@pytest.mark.parametrize("accumulated", [1, 2])
def test_the_callback_of_lightning_records_updates(tmp_path, accumulated):
    import lightning

    module, callback = lit(lightning), fastlr.callbacks.lightning_callback()
    fit_lit(lightning, module, callback, tmp_path, 3, accumulate_grad_batches=accumulated)
    history, updates = callback.history, 12 // accumulated
    assert history.t("loss").tolist() == list(range(1, updates + 1))
    means = torch.tensor(module.losses, dtype=torch.float64).reshape(updates, accumulated).mean(dim=1)
    torch.testing.assert_close(torch.tensor(history["loss"].copy()), means, rtol=1e-6, atol=0)
    assert history["lr"].tolist() == module.rates == [0.08] * updates
    assert history.t("val_loss").tolist() == [k * updates // 3 for k in (1, 2, 3)]


@needs("lightning")
@pytest.mark.parametrize("scheduled", [False, True])
def test_a_plateau_lowers_the_rate_of_lightning_and_stops_it(tmp_path, scheduled):
    import lightning

    plateau = never_better()
    module = lit(lightning, plateau, scheduled)
    callback = fastlr.callbacks.lightning_callback(plateau=plateau, stop=3)
    fit_lit(lightning, module, callback, tmp_path, 9)
    assert module.rates == [0.08] * 8 + [0.04] * 4 + [0.02] * 4
    assert callback.history["lr"].tolist() == module.rates


@needs("lightning")
def test_a_checkpoint_of_lightning_has_the_callback(tmp_path):
    import lightning

    def callback(history):
        return fastlr.callbacks.lightning_callback(history, plateau=never_better())

    whole = callback(fastlr.History())
    fit_lit(lightning, lit(lightning), whole, tmp_path, 4)
    first = callback(fastlr.History())
    fit_lit(lightning, lit(lightning), first, tmp_path, 2).save_checkpoint(tmp_path / "checkpoint")
    first.history.record(loss=9.0, t=11)                  # (what was recorded after the checkpoint is forgotten)
    again = callback(first.history)
    fit_lit(lightning, lit(lightning), again, tmp_path, 4, resume=tmp_path / "checkpoint")
    for name in ("loss", "lr", "val_loss"):
        assert again.history[name].tolist() == whole.history[name].tolist(), name
    assert again.recorder.reductions == 3


@needs("lightning")
def test_a_scheduler_that_a_plateau_cannot_drive_is_refused(tmp_path):
    import lightning

    callback = fastlr.callbacks.lightning_callback(plateau=never_better())
    with pytest.raises(ValueError, match=r"lightning_callback: ExponentialLR sets the rate.*return plateau\.to_torch"):
        fit_lit(lightning, lit(lightning, scheduled=True), callback, tmp_path, 1)


@needs("accelerate")
def test_accelerate():
    from accelerate import Accelerator

    losses = []
    for module in BOTH:
        accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
        data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*table()), batch_size=16)
        model = network()
        model, opt, data = accelerator.prepare(model, module.SGD(model.parameters(), lr=0.05, momentum=0.9), data)
        found = []
        for _ in range(3):
            for x, y in data:
                with accelerator.accumulate(model):
                    loss = mse(model(x), y)
                    accelerator.backward(loss)
                    if accelerator.sync_gradients:
                        accelerator.clip_grad_norm_(model.parameters(), 1.0)
                    opt.step()
                    opt.zero_grad()
                found.append(loss.item())
        losses.append(found)
    same(losses)


@needs("skorch")
def test_skorch():
    import skorch

    losses = []
    for module in BOTH:
        x, y = (part.numpy() for part in table())
        torch.manual_seed(0)
        net = skorch.NeuralNetRegressor(network, optimizer=module.Adam, optimizer__betas=(0.8, 0.99), lr=1e-2,
                                        max_epochs=5, batch_size=16, train_split=None, verbose=0,
                                        iterator_train__shuffle=False)
        net.fit(x, y)
        losses.append(net.history[:, "train_loss"])
    same(losses)


@needs("skorch")
def test_skorch_searches_and_restores_a_checkpoint(tmp_path):
    import skorch

    x, y = (part.numpy() for part in table())
    net = skorch.NeuralNetRegressor(network, optimizer=fastlr.torch.AdamW, lr=1e-2, max_epochs=2, train_split=None,
                                    verbose=0)
    net.set_params(optimizer__weight_decay=0.1)
    net.fit(x, y)
    assert net.optimizer_.param_groups[0]["weight_decay"] == 0.1
    net.save_params(f_optimizer=str(tmp_path / "optimizer.pt"))
    before = [state["exp_avg"].clone() for state in net.optimizer_.state.values()]
    net.partial_fit(x, y)
    net.load_params(f_optimizer=str(tmp_path / "optimizer.pt"))
    assert all(torch.equal(was, state["exp_avg"])
               for was, state in zip(before, net.optimizer_.state.values(), strict=True))
