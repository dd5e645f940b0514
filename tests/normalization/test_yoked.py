"""Yoked normalizers replay in another network, phase by phase, the gains of a run with rn."""

import copy
import pickle
from pathlib import PureWindowsPath

import numpy as np
import pytest
import torch
from torch import nn

from rn_rl.errors import UserError
from rn_rl.normalization import (
    canonical_spec,
    check_recordings,
    make_normalizers,
    phase_norms,
    specs,
)

FEATURES = 8
PHASES = 9


def network(norm):
    """Two hidden layers with the normalizers of the spec."""
    return nn.Sequential(
        nn.Linear(FEATURES, FEATURES),
        *make_normalizers(norm, FEATURES, index=0),
        nn.Tanh(),
        nn.Linear(FEATURES, FEATURES),
        *make_normalizers(norm, FEATURES, index=1),
    ).eval()


def gains(net):
    return np.array([norm.gain.item() for norm in phase_norms(net).values()])


def write(folder, **arrays):
    """Write a recording as training does: one row for each rollout, written at its start."""
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "code_length.npz", **arrays)
    return folder


@pytest.fixture
def recorded(tmp_path, moving, learn_phase):
    """A run folder and the gains that rn had after 0, 1, ... commits, ``(PHASES + 1, 2)``."""
    net = network("rn")
    rows = [gains(net)]
    for x in moving(PHASES):
        learn_phase(net, x.astype(np.float32))
        rows.append(gains(net))
    rows = np.array(rows)
    write(tmp_path, gains=rows, timesteps=np.arange(len(rows)) * 64)
    assert (abs(rows[3:] - 1) > 0.05).all() and (rows[3:, 0] != rows[3:, 1]).all()
    return tmp_path, rows


def replayed(run, phases, moving, learn_phase):
    """Gains of a yoked network on other data, before and after each phase."""
    net = network(f"yoked({run})")
    yield gains(net)
    for x in moving(phases, seed=1):
        learn_phase(net, 5 * x.astype(np.float32), batches=2)
        yield gains(net)


@pytest.mark.parametrize("given", ["folder", "file"])
def test_the_gains_of_a_run_come_back_and_the_last_ones_stay(given, recorded, moving, learn_phase):
    run, rows = recorded
    run = run / "code_length.npz" if given == "file" else run
    found = list(replayed(run, PHASES + 3, moving, learn_phase))
    np.testing.assert_array_equal(found, np.concatenate([rows, np.repeat(rows[-1:], 3, 0)]))


def test_output_is_the_input_times_the_recorded_gain(recorded, learn_phase):
    run, rows = recorded
    [norm] = make_normalizers(f"yoked({run})", FEATURES, index=1)
    x = np.random.default_rng(0).normal(size=(4, FEATURES))
    for t in range(PHASES):
        for training in (True, False):
            y = copy.deepcopy(norm).train(training)(torch.from_numpy(x))
            np.testing.assert_allclose(y, x * rows[t, 1], rtol=1e-12)
        learn_phase(norm, x)


@pytest.mark.parametrize(
    ("learning_starts", "starts"), [(0, 1), (63, 1), (64, 2), (200, 4), (10**6, 10)]
)
def test_rollouts_that_only_filled_the_memory_are_no_phases(
    learning_starts, starts, tmp_path, moving, learn_phase
):
    rows = np.random.default_rng(0).random((10, 2)) + 1
    rows[:starts] = rows[0]  # no commit came before them
    timesteps = np.arange(10) * 64
    write(tmp_path, gains=rows, timesteps=timesteps, learning_starts=np.array(learning_starts))
    expected = np.concatenate([rows[:1], rows[starts:]])
    found = list(replayed(tmp_path, len(expected) - 1, moving, learn_phase))
    np.testing.assert_array_equal(found, expected)


def test_a_copy_in_the_middle_goes_on(recorded, learn_phase):
    run, rows = recorded
    [norm] = make_normalizers(f"yoked({run})", FEATURES)
    x = np.ones((2, FEATURES))
    learn_phase(norm, x)
    [loaded] = make_normalizers(f"yoked({run})", FEATURES)
    loaded.load_state_dict(norm.state_dict())
    for copied in (copy.deepcopy(norm), pickle.loads(pickle.dumps(norm)), loaded):
        learn_phase(copied, x)
        assert copied.gain.item() == rows[2, 0]
    assert norm.gain.item() == rows[1, 0]


def test_a_run_with_fewer_layers_is_refused(recorded):
    run, _ = recorded
    with pytest.raises(UserError, match="no gain for hidden layer 3: the recording has 2; yoke to"):
        make_normalizers(f"yoked({run})", FEATURES, index=2)


NAMES = {
    "simba": (
        [
            "features_extractor.norms.0.0",
            "q_net.0.blocks.0.branch.1",
            "q_net.0.norm.1",
        ],
        [1, 2],
    ),
    "convolutions": (["features_extractor.trunk.1", "features_extractor.head.1"], [1]),
    "spectral": (["q_net.0.parametrizations.weight.0", "q_net.1", "q_net.4"], [1, 2]),
    "behind an LSTM": (["mlp_extractor.policy_net.0", "mlp_extractor.policy_net.2"], [0, 1]),
    "LSTM": (["mlp_extractor.policy_net.0", "lstm_actor.norm.1"], [0]),
    "popart": (["mlp_extractor.policy_net.1", "value_net"], [0]),
    "two of a layer": (["q_net.1", "q_net.2", "q_net.5", "q_net.6"], "q_net.1 and q_net.2"),
    "popart of Q": (["critic.qf0.1", "critic.qf0.3"], "critic.qf0.1 and critic.qf0.3"),
    "popart of blocks": (["q_net.0.norm.0", "q_net.1"], "q_net.0.norm.0 and q_net.1"),
    "no hidden layer": (["value_net"], "no gain for hidden layer 1: the recording has 0"),
}


@pytest.mark.parametrize("of", NAMES)
def test_recorded_names_tell_the_hidden_layers_or_learning_is_refused(of, tmp_path):
    names, expected = NAMES[of]
    gains = np.tile(np.arange(len(names)) + 2.0, (2, 1))
    write(tmp_path, gains=gains, timesteps=np.arange(2), layers=np.array(names))
    if isinstance(expected, list):
        made = [make_normalizers(f"yoked({tmp_path})", 2, index=i)[0] for i in range(len(expected))]
        assert [norm.train()(torch.ones(1, 2))[0, 0].item() - 2 for norm in made] == expected
        return
    [norm] = make_normalizers(f"yoked({tmp_path})", 2)
    norm.eval()(torch.ones(1, 2))
    with pytest.raises(UserError, match=expected) as error:
        norm.train()(torch.ones(1, 2))
    assert "\n" not in str(error.value)


def test_without_the_recording_a_trained_agent_acts_and_cannot_learn(recorded, learn_phase):
    run, rows = recorded
    [norm] = make_normalizers(f"yoked({run})", FEATURES)
    x = np.ones((2, FEATURES))
    for _ in range(4):
        learn_phase(norm, x)
    norm.train()(torch.from_numpy(x))  # and one phase is pending
    (run / "code_length.npz").unlink()
    with pytest.warns(UserWarning, match=r"no recording .*; the agent can act, and cannot learn"):
        [loaded] = make_normalizers(f"yoked({run})", FEATURES)
    loaded.load_state_dict(norm.state_dict())
    loaded.eval()
    torch.testing.assert_close(loaded(torch.ones(1, 1)), torch.full((1, 1), rows[5, 0]).float())
    with pytest.raises(UserError, match=r"no recording .*; learning needs it"):
        loaded.train()(torch.ones(1, 1))
    assert loaded.eval().gain.item() == rows[5, 0]


@pytest.mark.parametrize(
    "path", [r"C:\runs\rn\dqn\CartPole-v1_1", r"..\rn + ln (old)", r"\\server\share\new"]
)
def test_a_path_of_windows_has_one_spelling_there(path, monkeypatch):
    monkeypatch.setattr(specs, "PurePath", PureWindowsPath)
    spelled = path.replace("\\", "/")
    for given in (path, rf"{path}\code_length.npz", f"'{path}'", f"run={path}", spelled):
        assert canonical_spec(f"ln+yoked({given})+rn") == f"ln+yoked({spelled})+rn"


def test_a_missing_recording_can_be_refused_before_the_start(tmp_path):
    with pytest.raises(UserError, match=r"no recording .*; give the folder of a run") as error:
        check_recordings(f"ln+yoked({tmp_path})")
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)


def bytes_of(content):
    return lambda file: file.write_bytes(content)


def array_alone(file):
    with file.open("wb") as stream:
        np.save(stream, np.ones((3, 2)))


def first_half(file):
    np.savez(file, gains=np.ones((3, 2)), timesteps=np.arange(3))
    file.write_bytes(file.read_bytes()[:200])


def arrays(**given):
    return lambda file: np.savez(file, **given)


GOOD, STEPS = np.ones((3, 2)), np.arange(3)
BROKEN = {
    "nothing in it": bytes_of(b""),
    "text": bytes_of(b"gains: 1 2 3"),
    "first half": first_half,
    "one array alone": array_alone,
    "a folder": lambda file: file.mkdir(),
    "no gains": arrays(timesteps=STEPS),
    "no timesteps": arrays(gains=GOOD),
    "no rows": arrays(gains=np.ones((0, 2)), timesteps=np.arange(0)),
    "no layers": arrays(gains=np.ones((3, 0)), timesteps=STEPS),
    "gains in one dimension": arrays(gains=np.ones(3), timesteps=STEPS),
    "one number": arrays(gains=np.array(1.0), timesteps=STEPS),
    "gains that are no numbers": arrays(gains=np.array([["a"], ["b"]]), timesteps=STEPS[:2]),
    "objects": arrays(gains=np.array([[None]], dtype=object), timesteps=STEPS[:1]),
    "NaN": arrays(gains=np.full((3, 2), np.nan), timesteps=STEPS),
    "another number of timesteps": arrays(gains=GOOD, timesteps=np.arange(5)),
    "names of other layers": arrays(gains=GOOD, timesteps=STEPS, layers=np.array(["q_net.1"])),
    "timesteps in two dimensions": arrays(gains=GOOD, timesteps=np.ones((3, 3))),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_recording_is_told_in_one_line(how, tmp_path):
    file = tmp_path / "code_length.npz"
    BROKEN[how](file)
    for ask in (lambda s: make_normalizers(s, FEATURES), check_recordings):
        with pytest.raises(UserError, match=r"is no recording of gains \(.+\); expected fin") as e:
            ask(f"yoked({tmp_path})")
        assert str(file) in str(e.value) and "\n" not in str(e.value)
