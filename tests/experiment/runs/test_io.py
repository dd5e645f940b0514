"""Files appear complete or not at all, also when several processes write the same one."""

from __future__ import annotations

import os

import pytest

from rn_rl.experiment.runs import io
from rn_rl.experiment.runs.io import atomic_write, replace_file


def test_two_writers_of_one_file_with_one_process_id_do_not_collide(tmp_path):
    path = tmp_path / "new folder" / "state.npz"
    with atomic_write(path) as first, atomic_write(path) as second:
        assert first != second and first.suffix == second.suffix == ".npz"
        assert first.parent == second.parent == path.parent
        first.write_text("first")
        second.write_text("second")
    assert path.read_text() == "first"  # the outer block ends last
    assert list(path.parent.iterdir()) == [path]


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), atomic_write(path) as temporary:
        temporary.write_text("half of a")
        raise ZeroDivisionError
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(("windows", "refusals", "works"), [(True, 3, True), (False, 1, False)])
def test_a_file_that_another_process_has_open_is_replaced_later_on_windows(
    tmp_path, monkeypatch, windows, refusals, works
):
    left = [PermissionError(13, "another process has it open")] * refusals
    replace = os.replace

    def refuse(source, target):
        if left:
            raise left.pop()
        replace(source, target)

    source, target = tmp_path / "new", tmp_path / "old"
    source.write_text("new")
    target.write_text("old")
    monkeypatch.setattr(io, "WINDOWS", windows)
    monkeypatch.setattr(io.os, "replace", refuse)
    if works:
        replace_file(source, target)
    else:
        with pytest.raises(PermissionError):
            replace_file(source, target)
    assert target.read_text() == ("new" if works else "old")
