"""Starting the command line: help, version and mistakes are answered before heavy libraries load."""

import importlib
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import rn_rl
from rn_rl import cli
from rn_rl.reproduction import config, protocol

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "scipy", "matplotlib", "stable_baselines3", "gymnasium")


def python(code: str) -> str:
    """Standard output of a fresh interpreter."""
    command = [sys.executable, "-c", textwrap.dedent(code)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True).stdout


def loaded_by(arguments: list[str]) -> set[str]:
    """Top-level packages in memory after a command."""
    printed = python(f"""
        import sys
        from rn_rl.__main__ import main
        try:
            main({arguments!r})
        except SystemExit:
            pass
        print("loaded:", *{{name.split(".")[0] for name in sys.modules}})
    """)
    return set(printed.rpartition("loaded:")[2].split())


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["--version"], ["trian"], [], ["compare", "--help"], ["train", "--sed", "1"]],
    ids=lambda arguments: " ".join(arguments) or "nothing",
)
def test_help_version_and_mistakes_load_nothing_heavy(arguments):
    assert loaded_by(arguments).isdisjoint(HEAVY)


@pytest.mark.parametrize("command", ["norms", "zoo"])
def test_tables_load_no_sb3(command):
    assert loaded_by([command]).isdisjoint({"stable_baselines3", "sb3_contrib", "matplotlib"})


def test_the_library_itself_loads_neither_torch_nor_sb3():
    printed = python("import rn_rl, sys; print(*(name.split('.')[0] for name in sys.modules))")
    assert set(printed.split()).isdisjoint(HEAVY)


def test_help_costs_at_most_half_of_importing_sb3():
    def cpu_seconds(code: str) -> float:
        return float(python(f"{code}\nimport time; print('\\n', time.process_time())").split()[-1])

    help_code = "from rn_rl.__main__ import main\ntry: main(['--help'])\nexcept SystemExit: pass"
    assert cpu_seconds(help_code) <= 0.5 * cpu_seconds("import stable_baselines3")


def test_version_is_the_version(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"rn-rl {rn_rl.__version__}\n"


def test_a_new_command_is_one_file_and_one_row(tmp_path, monkeypatch, capsys):
    """The worked example of CONTRIBUTING.md."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    section = text.partition("## A new command")[2]
    blocks = [block.partition("\n```")[0] for block in section.split("```python\n")[1:]]
    (tmp_path / "seeds_example.py").write_text(blocks[0])
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("seeds_example")
    row = (module.SeedsConfig, "seeds_example:run_seeds")
    monkeypatch.setitem(cli.COMMANDS, "seeds", row)
    folder = tmp_path / "runs/ln/dqn/CartPole-v1_1"
    folder.mkdir(parents=True)
    (folder / "run.yaml").write_text("")
    assert cli.main(["seeds", "--runs", str(tmp_path / "runs")]) == 0
    assert capsys.readouterr().out == f"{folder}\n"


def test_flags_of_studies_are_the_studies():
    assert tuple(protocol.STUDIES) == config.STUDY_FLAGS
