"""Modules of the user's own whose code fails when it is imported."""

from __future__ import annotations

import pytest

from rn_rl.cli import main

TRAIN = "train --timesteps 10 --eval-freq 0 --device cpu"


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("raise RuntimeError('two\\nlines')", "RuntimeError: two"),
        ("import sys; sys.exit(3)", "SystemExit: 3"),
        ("assert False", "AssertionError: AssertionError"),
        ("def broken(:", "SyntaxError"),
        ("import no_such_package", "No module named 'no_such_package'"),
    ],
)
@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("environment", "--algo dqn --env MODULE:Name-v0"),
        ("algorithm", "--algo MODULE:Class --env CartPole-v1"),
        ("normalizer", "--algo dqn --norm MODULE:Class --env CartPole-v1"),
        ("env_wrapper", "--algo dqn --env CartPole-v1 --set env_wrapper=MODULE:Class"),
    ],
)
def test_a_module_that_fails_is_one_line(kind, words, code, reason, tmp_path, monkeypatch, capsys):
    (tmp_path / "failing_module.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    typed = words.replace("MODULE", "failing_module").split()
    assert main([*TRAIN.split(), *typed, "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and reason in error
    assert kind in error and "cannot import 'failing_module'" in error
    assert not (tmp_path / "run").exists()
