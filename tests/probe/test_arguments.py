"""Arguments that a probe takes, and those that it refuses in one line."""

import numpy as np
import pytest
import torch
from torch import nn

from rn_rl import CodeLengthProbe
from rn_rl.agents import ProbeCallback
from rn_rl.errors import UserError
from rn_rl.probe import decoded_bits, find_stages, probed


def network():
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))


def seen(net, layers):
    with CodeLengthProbe(net, layers=layers) as probe:
        return [site.name for site in probe.sites]


@pytest.mark.parametrize("layers", ["0", ["0"], {"0"}, {"0": 1}.keys(), iter(["0"]), ("0", "0")])
def test_layers_are_any_names(layers):
    assert seen(network(), layers) == ["0"]


class Tied(nn.Module):
    """A layer with two names."""

    def __init__(self):
        super().__init__()
        self.enc = nn.Linear(4, 4)
        self.dec = self.enc

    def forward(self, x):
        return self.dec(self.enc(x))


def test_a_shared_layer_is_known_by_each_of_its_names():
    net = Tied()
    assert seen(net, ["dec"]) == ["dec"] and seen(net, ["dec", "enc"]) == seen(net, None) == ["enc"]
    with CodeLengthProbe(net, layers="dec") as probe:
        net(torch.randn(3, 4))
        assert list(probe.commit()) == ["dec"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"layers": nn.Linear},
            r"layers=<class .*Linear'>: expected names.*isinstance\(module, nn\.L",
        ),
        ({"layers": 0}, "layers=0: expected names of layers, 'all', or a function"),
        ({"layers": [0]}, r"layers: 0 is no name; expected some as in named_modules\(\)"),
        ({"layers": [nn.Linear]}, "layers: <class .*Linear'> is no name"),
        ({"layers": nn.Sequential(nn.Linear(2, 2))}, r"layers: Linear\(.*\) is no name"),
        ({"half_life": "10"}, "half_life='10': expected a number of phases above 0, or None"),
        ({"measures": ["code", 3]}, "measures: 3 is no name; expected some of code, moments, dead"),
        ({"measures": 5}, "measures=5: expected some of code, moments"),
        ({"modes": ()}, r"modes=\(\): expected at least one of train, eval"),
        ({"modes": 1}, "modes=1: expected some of train, eval"),
        (
            {"reference": np.zeros((3, 4))},
            "reference of type ndarray: expected a tensor, or a function",
        ),
        ({"reference": (torch.zeros(3, 4),)}, "reference of type tuple: expected a tensor, or"),
    ],
)
def test_other_arguments_are_refused_in_one_line(arguments, message):
    net = network()
    with pytest.raises(UserError, match=message) as error:
        CodeLengthProbe(net, **arguments)
    assert "\n" not in str(error.value) and not net[0]._forward_hooks


def test_what_is_no_network_is_named():
    with pytest.raises(UserError, match=r"network of type list: expected a torch\.nn\.Module"):
        CodeLengthProbe([network()])


def test_numbers_of_numpy_are_half_lives():
    with CodeLengthProbe(network(), np.float32(3)) as probe:
        assert probe.decay == pytest.approx(2 ** (-1 / 3))


@pytest.mark.parametrize("measures", [("code", "dead"), ("code", "step")])
def test_lazy_layers_are_observed_once_they_have_weights(measures):
    net = nn.Sequential(nn.LazyLinear(8), nn.ReLU(), nn.LazyLinear(2))
    with CodeLengthProbe(net, measures=measures) as probe:
        optimizer, steps = None, []
        for _ in range(3):
            loss = net(torch.randn(32, 4)).square().mean()
            optimizer = optimizer or torch.optim.SGD(net.parameters(), lr=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            assert list(probe.commit()) == ["0", "2"]
            steps.append(probe.readings().values.get("step"))
    if "step" in measures:  # the weights of the first phase are the first that are known
        assert np.isnan(steps[0]).all() and all((step > 0).all() for step in steps[1:])


# torch.jit.script says that it is deprecated
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_scripted_parts_are_left_out():
    net = nn.Sequential(torch.jit.script(network()), nn.Linear(2, 2))
    with CodeLengthProbe(net) as probe:
        net(torch.randn(3, 4))
        assert list(probe.commit()) == ["1"]
    with pytest.raises(UserError, match=r"layer '0' was made by torch\.jit\.script"):
        CodeLengthProbe(net, layers=["0"])
    for scripted in (net[0], nn.Sequential(net[0])):
        with pytest.raises(
            UserError, match=r"no layer to observe.*torch\.jit\.script take no hooks"
        ):
            CodeLengthProbe(scripted)


def test_bits_are_decoded_from_tensors_with_a_gradient():
    x = torch.randn(200, 3, requires_grad=True)
    labels = (x[:, 0] > 0).long()
    found = decoded_bits(x, labels)
    assert found == decoded_bits(x.detach().numpy(), labels.numpy()) and found.bits > 0.5
    assert decoded_bits(x.bfloat16(), labels).bits > 0.5


def test_activity_that_is_not_finite_has_no_bits():
    x = np.random.default_rng(0).normal(size=(20, 3))
    x[3, 1] = np.nan
    with pytest.raises(UserError, match="activity of 1 of 20 samples is not finite"):
        decoded_bits(x, np.arange(20) % 2)


def test_series_of_three_axes_have_no_stages():
    with pytest.raises(UserError, match=r"series of shape \(50, 2, 2\): expected \(rows,\) or"):
        find_stages(np.zeros((50, 2, 2)))


def test_what_is_no_optimizer_is_named_and_leaves_no_hooks():
    net = network()
    with pytest.raises(UserError, match=r"optimizer of type str: expected a torch\.optim\.Optim"):
        probed(net, "adam")
    assert not net[0]._forward_hooks


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"measures": ["cod"]}, "unknown measure 'cod'"),
        ({"measures": 5}, "measures=5: expected some of"),
        ({"half_life": 0}, "half_life=0: expected a number of phases above 0"),
        ({"every": 0}, "every=0: expected at least 1"),
    ],
)
def test_the_callback_refuses_arguments_before_it_is_used(arguments, message):
    with pytest.raises(UserError, match=message):
        ProbeCallback(**arguments)
