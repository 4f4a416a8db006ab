"""History: what is recorded is kept, read back to the bit, and survives a crash at any byte; nothing bad is recorded."""
import contextlib
import io
import json
import math
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import fastlr
from fastlr import History, schedules

ODD = [0.1, 1 / 3, 1e-300, 5e-324, -0.0, 1e308, math.nan, math.inf, -math.inf, 2.0**53 + 2, 7.0]


def a_history(**options):
    history = History(**options)
    for t, x in enumerate(ODD, start=1):
        history.record(loss=x, lr=0.1)
        if t % 3 == 0:
            history.record(val_loss=x * 2)
    return history


def content(history):
    """Every name's t and bits."""
    return {name: (history.t(name).tolist(), history[name].tobytes()) for name in history.names}


# recording


def test_each_name_has_its_own_series():
    history = a_history()
    assert history.names == ("loss", "lr", "val_loss")
    np.testing.assert_array_equal(history["loss"], ODD)
    assert history.t("loss").tolist() == list(range(1, 12)) and history.t("val_loss").tolist() == [3, 6, 9]
    assert len(history) == 11 and history.latest == 11 and "loss" in history and "x" not in history
    with pytest.raises(ValueError, match="read-only"):
        history["loss"][0] = 1
    assert [row["t"] for row in history.rows()] == list(range(1, 12))
    assert list(history.rows())[2] == {"t": 3, "loss": 1e-300, "lr": 0.1, "val_loss": 2e-300}


def test_an_optimizer_gives_t_rate_and_norm():
    w, v = np.ones(3), np.ones(2)
    opt = fastlr.SGD([{"params": w, "lr": schedules.inverse_time(1.0, decay=1.0)},
                      {"params": v, "lr": 0.5}], clip_norm=100.0)
    history = History()
    for _ in range(3):
        opt.step([np.full(3, 2.0), np.zeros(2)])
        history.record(loss=1.0, opt=opt)
    assert history.t("lr").tolist() == [1, 2, 3]
    np.testing.assert_array_equal(history["lr"], [1, 1 / 2, 1 / 3])        # of the update that is done, t - 1
    np.testing.assert_array_equal(history["lr.1"], [0.5] * 3)
    np.testing.assert_allclose(history["grad_norm"], math.sqrt(12), rtol=1e-15)
    history.record({"lr": 9.0, "acc/train": 0.5}, opt=opt, t=4)
    assert history["lr"][-1] == 9.0 and history["acc/train"].tolist() == [0.5] and history.latest == 4


def test_wrapped_optimizers_are_optimizers():
    w = np.ones(3)
    opt = fastlr.Lookahead(fastlr.Adam(w, lr=0.1))
    opt.step(np.ones(3))
    history = History()
    history.record(loss=1.0, opt=opt)
    assert history["lr"].tolist() == [0.1] and history.latest == opt.t


def test_what_is_one_number():
    history = History()
    history.record(a=np.float32(0.5), b=np.array(2), c=np.array([[3.0]]), d=True, e=4)
    assert [history[name][0] for name in "abcde"] == [0.5, 2, 3, 1, 4]


@pytest.mark.parametrize("arguments, error, words", [
    (({"loss": "0.3"},), TypeError, "History.record: loss must be one number, got '0.3'"),
    (({"loss": None},), TypeError, "loss must be one number, got None"),
    (({"loss": np.zeros(3)},), TypeError, r"loss must be one number, got shape \(3,\)"),
    (({"loss": 1j},), TypeError, "must be one number, got 1j"),
    (({1: 2.0},), TypeError, "a name must be text, got 1"),
    (({"": 2.0},), ValueError, "a name must be printable text other than 't'"),
    (({"a\nb": 2.0},), ValueError, "a name must be printable text"),
    (({},), ValueError, "nothing to record"),
    ((0.5,), TypeError, r"numbers need names, as in record\(loss=0.3\) or a dict, got float"),
    (({"loss": 1.0}, {"t": 1.5}), TypeError, "t must be an integer, got 1.5"),
    (({"loss": 1.0}, {"t": -1}), ValueError, "t must be from 0 up, got -1"),
    (({"loss": 1.0}, {"t": 2**63}), ValueError, r"t must be from 0 to 2\*\*63 - 1, got 9223372036854775808"),
    (({"loss": 1.0}, {"t": 2**70}), ValueError, r"t must be from 0 to 2\*\*63 - 1, got 1180591620717411303424"),
    (({"loss": 1.0}, {"t": 11}), ValueError, r"t must be above 11, where loss was recorded last, got t=11; history.rewind\(11\)"),
    (({"new": 1.0}, {"t": 5}), ValueError, "t must not fall, got t=5 after t=11 was recorded"),
    (({"loss": 1.0}, {"opt": 3}), TypeError, "opt must be an optimizer of fastlr or torch, got int"),
])
def test_bad_records_record_nothing(tmp_path, arguments, error, words):
    history = a_history(path=tmp_path / "run.jsonl")
    before, text = content(history), (tmp_path / "run.jsonl").read_bytes()
    values, options = (*arguments, {})[:2]
    with pytest.raises(error, match=words):
        history.record({"other": 1.0, **values} if values and isinstance(values, dict) else values, **options)
    assert content(history) == before and (tmp_path / "run.jsonl").read_bytes() == text
    history.close()


def test_rewinding_removes_later_rows():
    history = a_history()
    history.rewind(7)
    assert history.latest == 6 and history.t("val_loss").tolist() == [3, 6] and len(history["loss"]) == 6
    history.record(loss=5.0)
    assert history.t("loss").tolist() == [1, 2, 3, 4, 5, 6, 7]
    history.rewind(0)
    assert history.names == () and len(history) == 0


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
@pytest.mark.parametrize("at", [0, 1, 4, 7, 11, 12, 50])
def test_rewinding_rewinds_the_file_too(tmp_path, kind, at):
    """Once, the file kept the removed rows, and a later t restored them."""
    path = tmp_path / f"run.{kind}"
    with a_history(path=path) as history:
        history.rewind(at)
        assert content(getattr(History, f"from_{kind}")(path)) == content(history)
        history.record(t=20, loss=-1.0, other=2.0)
        assert content(getattr(History, f"from_{kind}")(path)) == content(history)
    with History(path) as again:
        assert content(again) == content(history) and len(again["loss"]) == len(history["loss"])
    assert os.listdir(tmp_path) == [f"run.{kind}"]


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_rewinding_a_file_with_a_fall_of_t_in_it(tmp_path, kind):
    path = tmp_path / f"run.{kind}"
    rows = [(1, 0.1), (2, 0.2), (3, 0.3), (4, 0.4), (3, 1.3), (5, 1.5)]
    path.write_text("".join(f'{{"t": {t}, "loss": {x}}}\n' for t, x in rows) if kind == "jsonl"
                    else "t,loss\n" + "".join(f"{t},{x}\n" for t, x in rows))
    with History(path) as history:
        assert history["loss"].tolist() == [0.1, 0.2, 1.3, 1.5]
        history.rewind(5)
        assert history["loss"].tolist() == [0.1, 0.2, 1.3]
    assert content(getattr(History, f"from_{kind}")(path)) == content(history)


def test_a_file_that_cannot_be_written_again_loses_nothing(tmp_path, monkeypatch):
    with a_history(path=tmp_path / "run.csv") as history:
        before, text = content(history), (tmp_path / "run.csv").read_bytes()

        def full(*_):
            raise OSError(28, "No space left on device")
        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            history.rewind(3)
        with pytest.raises(OSError, match="No space left"):
            history.record(new=1.0)                 # a further column: the file is written anew
        assert content(history) == before and (tmp_path / "run.csv").read_bytes() == text
        monkeypatch.undo()
        history.record(loss=5.0, new=1.0)
    assert content(History.from_csv(tmp_path / "run.csv")) == content(history)


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
@pytest.mark.parametrize("space", [0, 1, 9, 15])
def test_a_full_disk_tears_no_row(tmp_path, kind, space):
    """A record that does not fit is an OSError, in the file and in memory as if it had not been made."""
    resource = pytest.importorskip("resource")
    path = tmp_path / f"run.{kind}"
    with History(path) as history:
        history.record(loss=0.123, t=1)
        before, text = content(history), path.read_bytes()
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(text) + space, hard))
        try:
            with pytest.raises(OSError):
                history.record(loss=0.98765432198765, t=2)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert content(history) == before and path.read_bytes() == text
        history.record(loss=0.5, t=2)
    assert content(getattr(History, f"from_{kind}")(path)) == content(history) and history["loss"].tolist() == [0.123, 0.5]


def test_a_torn_row_that_cannot_be_cut_off_at_once_is_cut_before_the_next(tmp_path):
    path = tmp_path / "run.jsonl"
    with History(path) as history:
        history.record(loss=1.0)
        whole = history._file.file

        class Failing:
            """Writes 5 bytes, then fails; truncates only once it may."""

            broken = True

            def fileno(self):
                return whole.fileno()

            def write(self, data):
                if self.broken and len(data) < 20:
                    raise OSError(28, "No space left on device")
                return whole.write(data[:5] if self.broken else data)

            def truncate(self, size):
                if self.broken:
                    raise OSError(5, "Input/output error")
                return whole.truncate(size)

            def close(self):
                whole.close()
        history._file.file = failing = Failing()
        with pytest.raises(OSError, match="No space left"):
            history.record(loss=2.0)
        failing.broken = False
        history.record(loss=3.0)
    assert History.from_jsonl(path)["loss"].tolist() == [1, 3]


@pytest.mark.parametrize("n", [15, 16, 17, 31, 33, 100, 1000, 4097])
def test_a_limit_keeps_first_latest_and_evenly_spaced(n):
    history = History(limit=16)
    for t in range(1, n + 1):
        history.record(loss=float(t) ** 2)
        kept = history.t("loss")
        assert len(kept) <= 16 and kept[0] == 1 and kept[-1] == t
    kept = history.t("loss")
    np.testing.assert_array_equal(history["loss"], kept.astype(float) ** 2)
    gaps = np.diff(kept)
    assert len(kept) >= min(n, 8) and (gaps[:-1] == gaps[0]).all() and gaps[-1] <= gaps[0]


@pytest.mark.parametrize("limit, error", [(15, ValueError), (2.5, TypeError), (True, TypeError)])
def test_bad_limits(limit, error):
    with pytest.raises(error, match="History: limit must be"):
        History(limit=limit)


def test_an_unknown_name_says_what_there_is():
    with pytest.raises(KeyError, match="no 'acc' was recorded, but loss, lr, val_loss"):
        a_history()["acc"]


# files


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_files_are_read_back_to_the_bit(tmp_path, kind):
    history, path = a_history(), tmp_path / f"run.{kind}"
    getattr(history, f"to_{kind}")(path)
    again = getattr(History, f"from_{kind}")(path)
    assert content(again) == content(history)
    with History(path) as gone_on:
        assert content(gone_on) == content(history)
    assert sorted(os.listdir(tmp_path)) == [f"run.{kind}"]


@pytest.mark.parametrize("names", [["loss "], [" loss", "loss"], ["loss ", "a,b", 'say "x"'], ["  "], ["t ", "loss"]])
@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_names_with_blanks_at_their_ends(tmp_path, kind, names):
    path = tmp_path / f"run.{kind}"
    with History(path) as history:
        for k, name in enumerate(names):
            history.record({name: 1.5 + k})
            history.record({name: 2.5 + k})
    history.to_csv(tmp_path / "b.csv")
    with History(path) as gone_on:
        assert content(gone_on) == content(history) == content(History.from_csv(tmp_path / "b.csv"))
        gone_on.record(dict.fromkeys(names, 9.0))
    assert content(getattr(History, f"from_{kind}")(path)) == content(gone_on)


def test_blanks_about_the_names_of_others_are_left_out(tmp_path):
    (tmp_path / "a.csv").write_text("t , loss ,  val_loss\n1, 2.5, 3\n")
    assert History.from_csv(tmp_path / "a.csv").names == ("loss", "val_loss")


@pytest.mark.parametrize("name, words", [
    ("limit", "unknown attribute 'limit'"), ("latst", r"unknown attribute 'latst' \(did you mean 'latest'\?\)"),
    ("loss", r"numbers are recorded by history.record\(loss=...\)"),
])
def test_an_attribute_that_does_nothing_is_refused(name, words):
    history = a_history()
    with pytest.raises(AttributeError, match=f"History: .*{words}"):
        setattr(history, name, 3)

    class Mine(History):
        pass

    mine = Mine()
    mine.note = "a subclass may have its own"
    mine.record(loss=1.0)
    assert mine.note and mine["loss"].tolist() == [1.0]


def test_json_lines_are_standard_json(tmp_path):
    a_history().to_jsonl(tmp_path / "run.jsonl")

    def refuse(word):
        raise AssertionError(f"{word} is not JSON")
    for line in (tmp_path / "run.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=refuse)


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_log_torn_at_any_byte_goes_on(tmp_path, kind):
    """Whatever prefix of the file a crash leaves: the records whose lines ended are there, and the run goes on."""
    path = tmp_path / f"run.{kind}"
    with History(path) as history:
        for t in range(1, 5):
            history.record(loss=t / 3, lr=0.1)
        history.record(val_loss=2.5)
    data = path.read_bytes()
    for end in range(len(data) + 1):
        path.write_bytes(data[:end])
        whole = data[:end].count(b"\n") - (kind == "csv")
        if kind == "jsonl" and data[end:end + 1] == b"\n":      # an object that closes is whole without its line's end
            whole += 1
        whole = max(whole, 0)
        read = getattr(History, f"from_{kind}")(path)
        with History(path) as history:
            assert content(history) == content(read)
            assert (len(history["loss"]) if "loss" in history else 0) == min(whole, 4), data[:end]
            assert ("val_loss" in history) == (whole == 5)
            history.record(t=50, loss=9.0, extra=1.0)
        with History(path) as again:
            assert again["loss"][-1] == 9.0 and len(again["loss"]) == min(whole, 4) + 1 and again["extra"].tolist() == [1.0]


def test_a_killed_run_leaves_every_record(tmp_path, environment):
    program = ("import fastlr, sys, time\n"
               "h = fastlr.History(sys.argv[1])\n"
               "for i in range(50): h.record(loss=i / 7)\n"
               "print('done', flush=True); time.sleep(60)")
    path = tmp_path / "run.jsonl"
    with subprocess.Popen([sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE, env=environment) as run:
        assert run.stdout.readline() == b"done\n"
        run.send_signal(signal.SIGKILL)
    np.testing.assert_array_equal(History.from_jsonl(path)["loss"], np.arange(50) / 7)


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_t_that_falls_in_a_file_is_a_resumed_run(tmp_path, kind):
    path = tmp_path / f"run.{kind}"
    with History(path) as history:
        for t in range(1, 11):
            history.record(loss=float(t), val_loss=0.0)
    with History(path) as history:                    # the checkpoint was of update 6
        with pytest.raises(ValueError, match=r"history.rewind\(7\)"):
            history.record(t=7, loss=-7.0)
        history.rewind(7)
        history.record(t=7, loss=-7.0)
        assert history["loss"].tolist() == [1, 2, 3, 4, 5, 6, -7]
    assert content(getattr(History, f"from_{kind}")(path)) == content(history)


def test_a_csv_of_others_is_read(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"\xef\xbb\xbfepoch,loss\r\n0,2.5\r\n1,\r\n2,1e-3\r\n")
    history = History.from_csv(tmp_path / "a.csv")
    assert history["loss"].tolist() == [2.5, 1e-3] and history.t("loss").tolist() == [1, 3]
    with History(tmp_path / "a.csv") as history, pytest.raises(ValueError, match="has no column t"):
        history.record(loss=1.0)


@pytest.mark.parametrize("name, text, words", [
    ("a.csv", "t,loss\n1,x\n2,3\n", "a.csv: line 2: 'loss': expected a number, got 'x'; leave columns of text out$"),
    ("a.csv", "t,loss\n1,2,3\n", "a.csv: line 2: expected 2 entries separated by commas, got 3"),
    ("a.csv", "t,t\n1,2\n", "a.csv: line 1: expected different names"),
    ("a.csv", "t,loss\n1.5,2\n", "line 2: 't': expected an integer from 0 up, got '1.5'"),
    ("a.jsonl", '{"t": 1, "loss": 2}\n{"t": 2, "lo\n{"t": 3}\n', "a.jsonl: line 2: expected a JSON object"),
    ("a.jsonl", "[1]\n", "a.jsonl: line 1: expected a JSON object, got"),
    ("a.jsonl", '{"loss": [1]}\n', r"line 1: 'loss': expected a number, got '\[1\]'"),
    ("a.jsonl", '{"t": -1, "loss": 1}\n', "'t': expected an integer from 0 up, got '-1'"),
    ("a.csv", f"t,loss\n{2**70},1\n", "'t': expected an integer from 0 to 2.*63 - 1, got '1180591620717411303424'"),
    ("a.txt", "", "path must end in .jsonl or .csv"),
])
def test_bad_files_are_one_clear_line(tmp_path, name, text, words):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=words):
        History(tmp_path / name)


def test_what_is_not_text_is_one_clear_line(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"\xff\xfe\x00\n")
    with pytest.raises(ValueError, match="a.csv: not text in UTF-8"):
        History.from_csv(tmp_path / "a.csv")


def test_an_old_file_stays_where_the_new_one_cannot_be_written(tmp_path):
    path = tmp_path / "run.csv"
    a_history().to_csv(path)
    before = path.read_bytes()

    class Broken(History):
        def rows(self):
            yield from list(super().rows())[:2]
            raise KeyboardInterrupt
    broken = Broken()
    broken.record(loss=1.0)
    with pytest.raises(KeyboardInterrupt):
        broken.to_csv(path)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["run.csv"]


# showing


def test_sparklines_take_medians_and_mark_what_is_not_finite():
    history = History.from_rows({"loss": x} for x in [8.0, 7, 6, 5, 4, 3, 2, 1])
    assert history.sparkline() == "█▇▆▅▄▃▂▁" and history.sparkline(width=2) == "█▁"
    assert History.from_rows([{"loss": 1.0}, {"loss": math.nan}, {"loss": 2.0}]).sparkline() == "▁×█"
    assert History.from_rows([{"loss": -1.5e308}, {"loss": 1.5e308}]).sparkline() == "▁█"
    assert History.from_rows([{"loss": 1e308}, {"loss": 1.5e308}]).sparkline(width=1) == "▁"
    assert "1 updates" in repr(History.from_rows([{"loss": math.inf}]))
    with pytest.raises(ValueError, match="width must be an integer from 1 up, got 0"):
        history.sparkline(width=0)


def test_plots_show_losses_and_rate():
    figure = pytest.importorskip("matplotlib.figure").Figure()
    ax = figure.subplots()
    history = History.from_rows({"loss": 0.9**t, "lr": 0.1, **({"val_loss": 0.9**t + 1} if t % 5 == 0 else {})}
                                for t in range(50))
    assert history.plot(ax) is ax and ax.get_yscale() == "log"
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["loss", "val_loss", "lr"]
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), history["loss"])
    assert figure.axes[1].get_ylabel() == "learning rate"
    with pytest.raises(ValueError, match="nothing to draw"):
        History().plot(ax)


@pytest.mark.parametrize(("low", "high"), [(0.61, 0.69), (0.11, 0.7), (0.02, 3), (1e-6, 2)])
def test_the_axes_of_a_plot_are_named_however_far_they_range(low, high):
    """Matplotlib names decades alone: between 0.61 and 0.69 there is none."""
    pyplot = pytest.importorskip("matplotlib.pyplot")
    pyplot.switch_backend("agg")
    history = History.from_rows({"loss": float(loss), "lr": 0.1} for loss in np.geomspace(high, low, 30))
    ax = history.plot()
    figure = ax.figure
    figure.canvas.draw()
    (bottom, top), named = ax.get_ylim(), []
    for place, text in zip(ax.get_yticks(), ax.get_yticklabels(), strict=True):
        if bottom <= place <= top:
            named.append(float(text.get_text()))
            assert named[-1] == pytest.approx(place, rel=1e-5)
    assert len(named) >= 2
    for axes in figure.axes:
        for label in (axes.xaxis.label, axes.yaxis.label):
            if label.get_text():
                box = label.get_window_extent()
                assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1, label
    pyplot.close(figure)


def test_without_a_terminal_lines_now_and_then(monkeypatch):
    now, file, history = [0.0], io.StringIO(), History()
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with history.live(every=10, file=file):
        for _ in range(25):
            history.record(loss=2.0)
            now[0] += 1
    history.record(loss=3.0)
    assert file.getvalue().splitlines() == [f"update {t}  loss 2" for t in (1, 11, 21, 25)]


def test_on_a_terminal_a_table_in_place():
    pytest.importorskip("rich")

    class Terminal(io.StringIO):
        def isatty(self):
            return True
    file, history = Terminal(), History()
    with contextlib.suppress(ZeroDivisionError), history.live(file=file):
        for t in range(30):
            history.record(loss=3.0 - t / 10, lr=0.25)
        raise ZeroDivisionError
    for word in ("update 30", "latest", "loss", "0.25", "█"):
        assert word in file.getvalue()
    assert "\x1b[?25h" in file.getvalue()                   # the cursor is back


def test_tensorboard_has_every_record(tmp_path):
    pytest.importorskip("tensorboardX")
    from tensorboardX.record_writer import masked_crc32c  # noqa: F401  (the package is whole)

    history = History()
    history.record(loss=0.5)
    history.to_tensorboard(tmp_path / "board")
    history.record(loss=0.25, lr=0.1)
    history.close()
    (file,) = (tmp_path / "board").iterdir()
    assert file.read_bytes().count(b"loss") == 2 and file.read_bytes().count(b"lr") == 1
    from tensorboardX.proto.event_pb2 import Event

    data, seen, at = file.read_bytes(), [], 0
    while at < len(data):                    # length (8 bytes), its checksum (4), the event, its checksum (4)
        size = int.from_bytes(data[at:at + 8], "little")
        event = Event.FromString(data[at + 12:at + 12 + size])
        seen += [(event.step, value.tag, round(value.simple_value, 6)) for value in event.summary.value]
        at += size + 16
    assert seen == [(1, "loss", 0.5), (2, "loss", 0.25), (2, "lr", 0.1)]


def test_followers_get_every_record_and_are_closed():
    received = []

    class Follower:
        def __call__(self, t, row):
            received.append((t, row))

        def close(self):
            received.append("closed")
    with History() as history:
        history.follow(Follower())
        history.record(loss=1.0)
    assert received == [(1, {"loss": 1.0}), "closed"]
    with pytest.raises(TypeError, match="expected a function of t and a dict, got int"):
        history.follow(3)


def test_recording_imports_nothing(environment):
    program = ("import sys, fastlr; assert 'fastlr.monitor' not in sys.modules\n"
               "h = fastlr.History(); [h.record(loss=1.0 / i) for i in range(1, 50)]; fastlr.diagnose(h); h.sparkline()\n"
               "print(sorted({'rich', 'matplotlib', 'tensorboardX', 'torch', 'scipy', 'sklearn'} & {*sys.modules}))")
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr
