"""Stages: what is put in is found, what is not is not, in series and in networks that learn."""

import numpy as np
import pytest
import torch
from torch import nn

from rn_rl.errors import UserError
from rn_rl.probe import CodeLengthProbe, ProbeLog, decoded_bits, find_stages, probed, recurring
from rn_rl.probe.measures import baseline, explained_code
from rn_rl.probe.records import checked_record

STEPS, CONTRAST, SWAP = 900, 300, 600


def learned(seed, *, events, frozen=False, steps=STEPS):
    """The record and the losses of a classifier whose input contrast and labels may change."""
    torch.manual_seed(seed)
    data = torch.Generator().manual_seed(1000 + seed)
    prototypes = torch.randn(10, 784, generator=data)
    net = nn.Sequential(
        nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10)
    )
    optimizer = torch.optim.Adam(net.parameters(), lr=0.0 if frozen else 1e-3)
    losses = []
    with probed(net, optimizer) as log:
        for step in range(steps):
            labels = torch.randint(10, (64,), generator=data)
            noise = torch.randn(64, 784, generator=data)
            x = (0.3 * prototypes[labels] + noise).clamp(min=0)
            if events and step >= CONTRAST:
                x = 1.5 * x
            if events and step >= SWAP:
                labels = torch.where(labels < 2, 1 - labels, labels)
            loss = nn.functional.cross_entropy(net(x), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
    return log.arrays(), np.array(losses)


def jump(series, at, before=50, after=5):
    """Jump of a series in standard deviations of the rows before."""
    old = series[at - before : at]
    return abs(series[at : at + after].mean() - old.mean()) / old.std()


@pytest.mark.slow
def test_a_change_of_contrast_is_found_and_a_swap_of_labels_is_not_claimed():
    found = false = 0
    for seed in range(10):
        arrays, _ = learned(seed, events=True)
        rows = [stage.row for stage in find_stages(arrays["residual"])]
        found += any(abs(row - CONTRAST) <= 20 for row in rows)
        assert not any(abs(row - SWAP) <= 20 for row in rows), rows
        false += sum(abs(row - CONTRAST) > 20 for row in rows)
    assert found >= 9 and false <= 5


@pytest.mark.slow
def test_a_training_without_an_event_has_at_most_half_a_stage():
    counts = [len(find_stages(learned(seed, events=False)[0]["residual"])) for seed in range(10)]
    assert sum(counts) <= 5, counts


def test_the_contrast_is_found_in_one_training_and_the_loss_does_not_show_it():
    arrays, losses = learned(0, events=True, steps=400)
    [stage] = find_stages(arrays["residual"])
    assert abs(stage.row - CONTRAST) <= 20
    residual = arrays["residual"][:, 0]
    assert jump(residual, CONTRAST) > 4 > 3 > jump(losses, CONTRAST)


def test_a_frozen_network_on_stationary_data_has_residual_zero_and_no_stage():
    """The residual's expectation is 0 up to terms of 1 / t: the history is estimated too."""
    arrays, _ = learned(1, events=False, frozen=True, steps=300)
    assert find_stages(arrays["residual"]) == []
    late = arrays["residual"][100:]
    for column in late.T.astype(float):
        blocks = column.reshape(10, 20).mean(1)  # neighbours share their history
        assert abs(blocks.mean()) <= 3 * blocks.std(ddof=1) / np.sqrt(len(blocks))


def test_the_two_number_formula_explains_gaussian_activity():
    net, rng = nn.Identity(), np.random.default_rng(0)
    with CodeLengthProbe(net, layers="all") as probe:
        log = ProbeLog()
        for t in range(200):
            scale, mean = 1 + 0.3 * rng.random(), 0.5 * rng.random() + (t > 100)
            net(torch.randn(64, 200) * scale + mean)
            probe.end_phase()
            log.append(t, probe.readings())
    found = {name: log.arrays()[name][1:, 0] for name in ("shift", "ratio", "residual")}
    expected = explained_code(found["shift"], found["ratio"])
    assert np.abs(expected - found["residual"]).max() < 0.05 < found["residual"].std()


def test_a_jump_is_found_at_its_row_and_a_drift_is_not():
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(600, 3))
    stepped = noise.copy()
    stepped[400:, 1] += 6
    assert [(s.row, s.columns) for s in find_stages(stepped)] == [(400, (1,))]
    drifting = noise + 10 * np.sin(np.linspace(0, 3, 600))[:, None]
    assert find_stages(drifting) == []


def test_series_without_a_change_rarely_have_a_stage():
    rng = np.random.default_rng(1)
    found = 0
    for seed in range(20):
        line = np.zeros(300)
        for t in range(1, 300):  # autocorrelated
            line[t] = 0.7 * line[t - 1] + rng.normal()
        found += len(find_stages(line, seed=seed, resamples=100))
    assert found <= 5  # P(more than 5 of 20 at 5% each) is 0.0003


@pytest.mark.parametrize(
    "series", [np.zeros(300), np.full(300, np.nan), np.arange(20.0), np.empty((0, 2))]
)
def test_series_that_cannot_have_a_stage_have_none(series):
    assert find_stages(series) == []


def test_stages_recur_if_most_seeds_have_them_at_about_the_same_place():
    found = recurring([[0.30, 0.7], [0.33], [0.31, 0.9], []])
    assert [(s.position, s.seeds, s.of) for s in found] == [(0.31, 3, 4)]
    assert recurring([[0.1], [0.5]]) == [] == recurring([])


def test_the_baseline_is_what_stationary_data_reach():
    assert baseline(1) == baseline(2) == 1
    assert baseline(5) == pytest.approx(np.log(4 + np.e - 1))
    half = 2 ** (-1 / 3)
    assert baseline(500, half) == pytest.approx(-np.log(1 - half))


def test_a_record_has_at_most_so_many_rows_and_continues():
    net = nn.Linear(3, 2)
    with CodeLengthProbe(net) as probe:
        log, other = ProbeLog(most_rows=10), ProbeLog(most_rows=10)
        for t in range(35):
            net(torch.randn(4, 3))
            probe.end_phase()
            log.append(t, probe.readings())
            other.append(t, probe.readings())
            if t == 17:
                stored, other = other.state(), ProbeLog(most_rows=10)
                other.restore(stored)
    arrays = log.arrays()
    assert arrays["timesteps"].tolist() == list(range(0, 35, 4))
    for name, values in other.arrays().items():
        np.testing.assert_array_equal(values, arrays[name])
    assert checked_record(arrays).columns == ["Linear"]


def test_decoded_bits_are_a_lower_bound():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 4000)
    clear = np.eye(4)[labels] + 0.1 * rng.normal(size=(4000, 4))
    found = decoded_bits(clear, labels)
    assert 1.95 < found.bits <= found.most <= 2 and found.most > 1.99
    nothing = decoded_bits(rng.normal(size=(4000, 4)), labels)
    assert abs(nothing.bits) < 0.01
    half = decoded_bits(clear[:, :1], labels)  # label 0 or not: 0.811 bits
    assert 0.6 < half.bits < 0.8113


def test_decoded_bits_never_exceed_the_entropy_of_the_held_out_labels():
    """With few samples the classes differ between the halves, and one can be missing in either."""
    rng = np.random.default_rng(0)
    clear = []
    for seed in range(100):
        labels = rng.integers(0, 2, 60)
        found = decoded_bits(labels[:, None] + 0.01 * rng.normal(size=(60, 1)), labels, seed=seed)
        assert found.bits <= found.most <= 1
        clear.append(found.bits)
    assert 0.9 < np.mean(clear) < 1
    labels = np.array([*[0, 1] * 20, 2, 3])  # classes that one half lacks count as errors
    rare = decoded_bits(np.eye(4)[labels], labels)
    assert np.isfinite(rare.bits) and rare.bits <= rare.most
    noise = [decoded_bits(rng.normal(size=(60, 3)), rng.integers(0, 2, 60)).bits for _ in range(50)]
    assert np.mean(noise) < 0


class Module:
    """A network in the manner of a LightningModule: its optimizer is made when the training begins."""

    def __init__(self):
        self.net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))

    def configure_optimizers(self):
        return torch.optim.SGD(self.net.parameters(), lr=0.1)

    def training_step(self, batch):
        return self.net(batch).square().mean()


class ProbeLayers:
    """A callback with the names of Lightning's hooks."""

    def on_fit_start(self, module):
        self.record = probed(module.net, phase=2)

    def on_train_batch_end(self, module):
        self.record.step()

    def on_fit_end(self, module):
        self.record.close()


def test_a_loop_whose_optimizer_is_made_later():
    module, callback = Module(), ProbeLayers()
    callback.on_fit_start(module)
    optimizer = module.configure_optimizers()
    for _ in range(6):
        optimizer.zero_grad()
        module.training_step(torch.randn(16, 4)).backward()
        optimizer.step()
        callback.on_train_batch_end(module)
    callback.on_fit_end(module)
    assert callback.record.arrays()["timesteps"].tolist() == [2, 4, 6]
    assert not module.net[0]._forward_hooks

    with probed(module.net) as record:
        record.follow(optimizer)
        for _ in range(3):
            module.training_step(torch.randn(16, 4)).backward()
            optimizer.step()
    optimizer.step()
    assert record.arrays()["timesteps"].tolist() == [1, 2, 3]
    assert np.isfinite(record.arrays()["residual"]).all()
    with pytest.raises(UserError, match=r"phase=0\.5: expected a whole number"):
        probed(module.net, phase=0.5)
