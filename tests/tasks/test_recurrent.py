"""Normalizers on a state that is fed back: cells, and what an unbounded gain does there."""

import numpy as np
import pytest
import torch
from torch import nn

from rn_rl import CodeLengthProbe
from rn_rl.errors import UserError
from rn_rl.normalization import phase_norms
from rn_rl.tasks import FedBackNorm, NormGRUCell, NormLSTMCell, NormRNNCell
from rn_rl.tasks.recurrent import Recurrent, RecurrentNet, Setting, as_sequence, collapsed

CELLS = {NormRNNCell: nn.RNNCell, NormLSTMCell: nn.LSTMCell, NormGRUCell: nn.GRUCell}


def hidden(state):
    return state[0] if isinstance(state, tuple) else state


def unroll(cell, steps, start=None, inputs=None):
    states, state = [], start
    for t in range(steps):
        x = torch.randn(16, 4) if inputs is None else inputs[t]
        state = cell(x, state, t)
        states.append(hidden(state))
    return states


@pytest.mark.parametrize("kind", CELLS)
def test_without_a_normalizer_a_cell_is_torchs(kind):
    torch.manual_seed(0)
    ours = kind(4, 6, steps=3)
    theirs = CELLS[kind](4, 6)
    theirs.load_state_dict(ours.cell.state_dict())
    inputs, state = torch.randn(3, 16, 4), None
    found = unroll(ours, 3, inputs=inputs)
    for t in range(3):
        state = theirs(inputs[t], state)
        assert torch.equal(found[t], hidden(state))


@pytest.mark.parametrize("kind", CELLS)
def test_the_normalized_state_is_the_one_that_is_fed_back(kind):
    torch.manual_seed(0)
    cell = kind(4, 6, "gain(c=2)", steps=2)
    inputs = torch.randn(2, 16, 4)
    first, second = unroll(cell, 2, inputs=inputs)
    state = cell.cell(inputs[0])
    assert torch.equal(first, 2 * hidden(state))
    fed = (2 * state[0], state[1]) if isinstance(state, tuple) else 2 * state
    assert torch.equal(second, 2 * hidden(cell.cell(inputs[1], fed)))


def test_before_tanh_the_gain_is_inside_it():
    torch.manual_seed(0)
    cell = NormRNNCell(4, 6, "gain(c=2)", steps=1, place="before")
    x, h = torch.randn(5, 4), torch.randn(5, 6)
    assert torch.allclose(cell(x, h), (2 * torch.atanh(cell.cell(x, h))).tanh(), atol=1e-5)


def test_each_time_step_has_its_own_state_unless_it_is_shared():
    torch.manual_seed(0)
    own, shared = NormRNNCell(4, 6, "rn", steps=3), NormRNNCell(4, 6, "rn", sharing="shared")
    for cell in (own, shared):
        for _ in range(4):
            cell.train()
            unroll(cell, 3)
            cell.eval()
    assert len(phase_norms(own)) == 3 == len(own.norm.gains())
    assert len({float(norm.running_state[1]) for norm in phase_norms(own).values()}) == 3
    (one,) = phase_norms(shared).values()
    elements = [float(norm.running_state[2]) for norm in phase_norms(own).values()]
    assert float(one.running_state[2]) == sum(elements)
    assert shared.norm.gains() == [pytest.approx(float(one.gain))]
    unroll(shared, 50)  # any length


def test_a_half_life_bounds_the_gain_of_every_step():
    torch.manual_seed(0)
    cell = NormGRUCell(4, 6, "rn(half_life=8)", steps=2)
    for _ in range(80):
        cell.train()
        unroll(cell, 2)
        cell.eval()
    bound = -np.log(1 - 2 ** (-1 / 8))
    assert all(gain == pytest.approx(bound, abs=0.2) for gain in cell.norm.gains())


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: FedBackNorm("rn", 6), "expected the number of time steps"),
        (lambda: FedBackNorm("rn", 6, steps=0), "expected the number of time steps"),
        (lambda: FedBackNorm("rn", 6, 2, "both"), "expected 'step' or 'shared'"),
        (lambda: FedBackNorm("rn", 6, 2)(torch.ones(1, 6), 2), "time step 2: expected 0 to 1"),
        (lambda: FedBackNorm("wn", 6, 2), "it needs one"),
        (lambda: NormRNNCell(4, 6, steps=2, place="inside"), "expected 'after' or 'before'"),
    ],
)
def test_mistakes_say_what_was_expected(make, told):
    with pytest.raises(UserError, match=told):
        make()


def test_any_network_can_feed_back_a_normalized_state():
    torch.manual_seed(0)
    norm, layer = FedBackNorm("ln+rn", 6, steps=4), nn.Linear(10, 6)
    h = torch.zeros(16, 6)
    for t in range(4):
        h = norm(layer(torch.cat((torch.randn(16, 4), h), 1)).relu(), t)
    h.sum().backward()
    assert layer.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("text", Recurrent.known_settings)
def test_every_setting_trains(text):
    found = Recurrent().train_one("rn", text, 0, data=None, toy=True, commit_every=1)
    gains = np.array(found.curves["gain"])
    assert gains.shape == (2, 1 if "shared" in text else Setting.of(text).steps)
    assert (gains[-1] > 1).all()
    assert found.metrics["error"] == found.metrics["error_1"] == found.metrics["error_all"]


def test_the_same_seed_gives_the_same_bits_and_all_arms_the_same_weights():
    task, setting = Recurrent(), Recurrent.settings[0]
    runs = [
        task.train_one("ln+rn", setting, 1, data=None, toy=True, commit_every=None)
        for _ in range(2)
    ]
    assert runs[0] == runs[1]
    nets = [RecurrentNet(784, 8, norm, Setting.of(setting), 4) for norm in ("none", "ln+rn")]
    for name, value in nets[0].state_dict().items():
        assert torch.equal(value, nets[1].state_dict()[name])


def test_rows_are_the_image_from_top_to_bottom():
    image = np.arange(28 * 28).reshape(1, 28, 28) % 251
    setting = Setting.of("rows/after/step")
    whole = as_sequence(image, Setting.of("same/after/step"))
    bands = as_sequence(image, setting)
    assert whole.shape == (1, 5, 784) and bands.shape == (1, 7, 112)
    assert torch.equal(bands.flatten(1), whole[:, 3])
    with pytest.raises(UserError, match="expected a multiple of 7"):
        as_sequence(np.zeros((1, 30, 30)), setting)


def test_a_collapse_is_an_error_that_grew_or_a_loss_that_is_not_finite():
    assert collapsed([50, 10, 30], [2, 1, 1]) and collapsed([50, 10, 12], [2, 1, float("nan")])
    assert not collapsed([50, 10, 19], [2, 1, 1])


def test_the_probe_attaches():
    net = RecurrentNet(784, 8, "rn", Setting.of(Recurrent.settings[0]), 0)
    with CodeLengthProbe(net) as probe:
        net(torch.randn(4, 5, 784))
        assert probe.commit()


@pytest.mark.slow
def test_an_unbounded_gain_committed_at_every_step_collapses_and_a_bounded_one_does_not():
    """The whole default training: 20 epochs of 4,000 images."""
    found = {
        arm: Recurrent().train_one(arm, "same/after/step", 0, data=None, toy=False, commit_every=1)
        for arm in ("rn", "rn(half_life=8)")
    }
    assert found["rn"].metrics["collapsed"] == 1
    assert found["rn"].metrics["error"] > 25
    assert found["rn(half_life=8)"].metrics["collapsed"] == 0
    assert found["rn(half_life=8)"].metrics["error"] < 12
    assert found["rn"].metrics["gain"] > 2 * found["rn(half_life=8)"].metrics["gain"]
