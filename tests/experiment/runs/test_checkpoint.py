"""Checkpoint files of seed batches, and monitor files that are cut back to them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rn_rl.errors import UserError
from rn_rl.experiment.runs import checkpoint, monitors
from rn_rl.experiment.runs.arrays import put_array, take_array


def state(timesteps: int, **plain: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    return {"x": np.arange(3)}, {"counters": {"num_timesteps": timesteps}, **plain}


def test_monitor_files_keep_the_bytes_of_the_lines_before_the_checkpoint(tmp_path):
    run = tmp_path / "CartPole-v1_1"
    folder = run / "checkpoint"
    rows = [b'#{"t_start": 0.5}\n', b"r,l,t\r\n", b"1.0,5,0.1\r\n", b"2.0,6,0.2\r\n"]
    run.mkdir()
    (run / "0.monitor.csv").write_bytes(b"".join(rows[:3]))
    checkpoint.write_state(folder, *state(5, monitor_rows=monitors.monitor_rows(run)))
    assert checkpoint.read_plain(folder)["monitor_rows"] == {"0.monitor.csv": 3}
    (run / "0.monitor.csv").write_bytes(b"".join(rows))
    monitors.trim_monitors(folder)
    assert (run / "0.monitor.csv").read_bytes() == b"".join(rows[:3])
    assert sorted(path.name for path in run.iterdir()) == ["0.monitor.csv", "checkpoint"]


@pytest.mark.parametrize(("episodes", "reached"), [(None, False), (1, True), (2, False)])
def test_episodes_are_counted_without_the_header(tmp_path, episodes, reached):
    checkpoint.write_state(tmp_path, *state(5, monitor_rows={"0.monitor.csv": 3}))
    assert monitors.has_episodes(tmp_path, episodes) is reached


def test_a_checkpoint_that_is_missing_or_damaged_is_one_line(tmp_path):
    with pytest.raises(UserError, match="no checkpoint to continue from"):
        checkpoint.timesteps_done(tmp_path)
    checkpoint.write_state(tmp_path, *state(7))
    assert checkpoint.timesteps_done(tmp_path) == 7
    checkpoint.state_file(tmp_path).write_bytes(b"half")
    with pytest.raises(UserError, match=r"state\.npz is damaged"):
        checkpoint.timesteps_done(tmp_path)
    assert checkpoint.timesteps_in(checkpoint.state_file(tmp_path)) == -1


def test_arrays_and_dicts_of_arrays_come_back(tmp_path):
    arrays: dict[str, Any] = {}
    put_array(arrays, "one", [1, 2])
    put_array(arrays, "many", {"a": np.ones(2), "b:c": np.zeros(1)})
    put_array(arrays, "none", None)
    checkpoint.write_state(tmp_path, arrays, state(0)[1])
    with checkpoint.open_state(tmp_path) as stored:
        assert take_array(stored, "one").tolist() == [1, 2]
        assert take_array(stored, "many").keys() == {"a", "b:c"}
        assert take_array(stored, "none") is None
