"""The command line: what users type, and that their mistakes cost one line."""

import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import get_args, get_type_hints

import numpy as np
import pytest
from imageio_ffmpeg import get_ffmpeg_exe

import rn_rl
from benchmarks.__main__ import main as benchmark
from rn_rl.cli import COMMANDS, main, parse, subcommands
from rn_rl.commands.help import EXAMPLES, flag_of, flags_of, sections_of
from rn_rl.commands.mistakes import whole_number

ROOT = Path(__file__).parents[2]
STOPPED_WHILE_LOADING = """
import sys
class Stop:
    def find_spec(self, name, *_):
        if name == "torch":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Stop())
import runpy
sys.argv = ["rn-rl", "norms"]
runpy.run_module("rn_rl", run_name="__main__")
"""


@pytest.mark.parametrize("line", [line for lines in EXAMPLES.values() for line in lines])
def test_an_example_of_the_help_parses(line):
    words = line.replace("--grid study.yml", "--algo ppo --env CartPole-v1").split()
    assert parse(subcommands(COMMANDS), words, "rn-rl", None) is not None


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_a_command_fits_80_columns_and_has_examples(command, capsys):
    with pytest.raises(SystemExit):
        main([command, "--help"])
    printed = capsys.readouterr().out
    assert ("Examples:\n  rn-rl " + command in printed) == (command in EXAMPLES)
    lines = printed.splitlines()
    assert max(len(line) for line in lines if not line.startswith("  rn-rl")) <= 100


SECTIONS = ["training", "evaluation", "records", "machine"]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_with_many_options_has_sections(command):
    config, _ = COMMANDS[command]
    sections = sections_of(config)
    options = [flag for flag in flags_of(config) if flag not in ("--help", "--version")]
    assert len(options) < 10 or all(flag in sections for flag in options)


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
@pytest.mark.parametrize(
    ("command", "sections"),
    [
        ("train", ["agent", *SECTIONS, "continuing"]),
        ("compare", ["what is compared", *SECTIONS, "decision", "grid, jobs and report"]),
        ("tune", ["what is tuned", *SECTIONS, "search"]),
        ("report", ["decision", "page"]),
        ("reproduce", ["study", "runs", "files", "machine"]),
        ("task", ["arms and runs", "files and machine"]),
        ("evaluate", ["evaluation", "environments"]),
    ],
)
def test_the_help_of_a_long_command_has_sections(command, sections, encoding):
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "COLUMNS": "80"}
    typed = [sys.executable, "-m", "rn_rl", command, "--help"]
    done = subprocess.run(typed, env=environment, capture_output=True, check=True)
    lines = done.stdout.decode(encoding).splitlines()
    rules = [line for line in lines if line.startswith(("├─ ", " - "))]
    assert [line.strip("├─┤ -") for line in rules] == sections
    assert {len(line) for line in rules} == {80}
    assert all(lines[lines.index(line) + 1][1:].startswith(" --") for line in rules)


def test_the_help_of_all_commands_has_a_sentence_of_each(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    printed = capsys.readouterr().out
    assert "Examples" not in printed and "Trainings that OUT" not in printed
    assert all(f"• {command} " in printed for command in COMMANDS)


@pytest.mark.parametrize("typed", ["--version", "train --version", "report runs --version"])
def test_version(typed, capsys):
    assert main(typed.split()) == 0
    assert capsys.readouterr().out == f"rn-rl {rn_rl.__version__}\n"


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_the_help_lists_the_version(encoding):
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "COLUMNS": "80"}
    typed = [sys.executable, "-m", "rn_rl", "--help"]
    done = subprocess.run(typed, env=environment, capture_output=True, check=True)
    lines = done.stdout.decode(encoding).splitlines()
    place = next(i for i, line in enumerate(lines) if "-h, --help" in line)
    assert lines[place + 1][2:].split("  ")[0] == "--version"
    assert len(lines[place + 1]) == len(lines[place]) == 80


@pytest.mark.parametrize(
    ("text", "value"),
    {
        "100000": 100_000,
        "1e5": 100_000,
        "2000.0": 2000,
        "1e18": 10**18,
        "9007199254740993": 2**53 + 1,
        "9007199254740993e0": 2**53 + 1,
        "-3": -3,
        **dict.fromkeys(["1.5", "1e5.0", "inf", "nan", "1e400", "", "0x10"]),
    }.items(),
)
def test_whole_numbers(text, value):
    if value is None:
        with pytest.raises(ValueError, match="expected a whole number, got"):
            whole_number(text)
    else:
        assert whole_number(text) == value and type(whole_number(text)) is int


def whole_options(config):
    """Options of a command whose values are whole numbers."""
    hints = get_type_hints(config)
    kinds = {name: set(get_args(kind)) or {kind} for name, kind in hints.items()}
    return [flag_of(name) for name, kind in kinds.items() if kind - {type(None)} == {int}]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_for_a_whole_number_takes_1e2_and_refuses_1_5(command, capsys):
    config, _ = COMMANDS[command]
    places = {"evaluate": ["run"], "video": ["run"], "export": ["run", "--to", "x"]}
    places |= {"reproduce": ["cartpole"], "task": ["recurrent"]}
    for flag in whole_options(config):
        typed = [command, *places.get(command, []), flag]
        parsed = parse(subcommands(COMMANDS), [*typed, "1e2"], "rn-rl", None, config)
        assert vars(parsed)[flag.strip("-").replace("-", "_")] == 100
        assert main([*typed, "1.5"]) == 2
        assert capsys.readouterr().err == f"rn-rl: error: {flag} 1.5: expected a whole number\n"
    assert len(whole_options(config)) >= {"train": 7, "compare": 8, "evaluate": 3}.get(command, 0)


CARTPOLE = "train --algo dqn --env CartPole-v1"


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (f"{CARTPOLE} --norm rnn", "unknown normalizer 'rnn'. Did you mean 'rn'"),
        (f"{CARTPOLE} --norm rn(half_life=-1)", "half_life=-1"),
        (f"{CARTPOLE} --norm rn(halflife=3)", "rn takes (half_life)"),
        ("train --algo dqqn --env CartPole-v1", "unknown algorithm 'dqqn'. Did you mean 'dqn'"),
        ("train --algo dqn --env CartPole-v5", "Did you mean 'CartPole-v1'"),
        ("train --algo dqn --env LunarLander-v2", "use LunarLander-v3"),
        ("train --algo dqn --env Pendulum-v1", "dqn needs Discrete; use sac, td3,"),
        ("train --algo dqn --env Blackjack-v1", "env_wrapper=gymnasium.wrappers"),
        pytest.param(
            "train --algo ppo --env Ant-v5",
            'run `pip install "gymnasium[mujoco]"`',
            marks=pytest.mark.skipif(find_spec("mujoco") is not None, reason="mujoco is installed"),
        ),
        ("train --algo dqn", "--env is missing"),
        ("train --env CartPole-v1", "--algo is missing"),
        (f"{CARTPOLE} --timesteps -5", "--timesteps -5: expected at least 1"),
        (f"{CARTPOLE} --timesteps many", "--timesteps many: expected a whole number"),
        (f"{CARTPOLE} --timesteps 1.5", "--timesteps 1.5: expected a whole number"),
        (f"{CARTPOLE} --step-timeout long", "--step-timeout long: expected a number"),
        (f"{CARTPOLE} --timesteps", "--timesteps: a value is missing"),
        (f"{CARTPOLE} --lerning-rate 3", "--lerning-rate. Did you mean --set learning_rate=3?"),
        (f"{CARTPOLE} --batch-size=8", "--batch-size. Did you mean --set batch_size=8?"),
        (f"{CARTPOLE} --net-arch", "Did you mean --set policy_kwargs.net_arch=...?"),
        (f"{CARTPOLE} --timestep 3", "--timestep. Did you mean --timesteps?"),
        (f"{CARTPOLE} --grid study.yml", "--grid. It is an option of 'rn-rl compare'."),
        (f"{CARTPOLE} --norms none,ln", "--norms. Did you mean --norm?"),
        (f"{CARTPOLE} --xyzzy 3", "error: Unrecognized options: --xyzzy\n"),
        ("evaluate run --lerning-rate 3", "error: Unrecognized options: --lerning-rate\n"),
        ("train CartPole-v1", "'CartPole-v1' belongs to no option"),
        ("video run --stochastic maybe", "--stochastic maybe: expected one of False, None, True"),
        (f"{CARTPOLE} --n-envs 0", "--n-envs 0"),
        (f"{CARTPOLE} --seed -1", "--seed -1"),
        (f"{CARTPOLE} --device cuda:99", "--device cpu"),
        (f"{CARTPOLE} --device toaster", "device 'toaster'"),
        (f"{CARTPOLE} --out FILE/x", "cannot write there"),
        (f"{CARTPOLE} --env-kwargs foo=1", "unexpected keyword argument 'foo'"),
        (f"{CARTPOLE} --env-kwargs render_mode", "such as render_mode=rgb_array"),
        ("train --algo dqn --env os:", "expected a name, or module:Name-v0"),
        ("train --algo dqn --env :CartPole-v1", "expected a name, or module:Name-v0"),
        (f"{CARTPOLE} --set lerning_rate=1", "Did you mean 'learning_rate'"),
        (f"{CARTPOLE} --set learning_rate", "expected name=value"),
        (f"{CARTPOLE} --set learning_rate=fast", "expected a number"),
        (f"{CARTPOLE} --set learning_rate=lin_1_2", "expected a number, lin_NUMBER for one that"),
        (f"{CARTPOLE} --set learning_rate=lin_1_2_3", "lin_FROM_TO_SHARE for one that gets there"),
        (f"{CARTPOLE} --set learning_rate=lin_nan_1_0.5", "expected a number, lin_NUMBER"),
        (f"{CARTPOLE} --set learning_rate=lin_1_-1_0.5", "expected a number, lin_NUMBER"),
        (f"{CARTPOLE} --set gamma=2", "gamma=2: expected at most 1"),
        (f"{CARTPOLE} --set batch_size=0", "batch_size=0: expected at least 1"),
        (f"{CARTPOLE} --set policy=os.system", "expected a class from one of"),
        (f"{CARTPOLE} --set policy_kwargs.features=nature", "features='nature'"),
        (f"{CARTPOLE} --from no-such-run", "run no-such-run: no such folder"),
        (f"{CARTPOLE} --config best", "expected 'zoo' or 'paper'"),
        ("train --resume no-such-run", "run no-such-run: no such folder"),
        ("evaluate no-such-run", "run no-such-run: no such folder"),
        ("evaluate EMPTY", "no run.yaml"),
        ("evaluate BROKEN.zip", "is damaged or not an agent"),
        ("evaluate BROKEN", "is damaged or not an agent"),
        ("evaluate no-such-run.zip", "no such file"),
        ("video no-such-run", "run no-such-run: no such folder"),
        ("evaluat no-such-run", "unknown command 'evaluat'. Did you mean 'evaluate'"),
        ("--vrsion", "error: Unrecognized options: --vrsion. Did you mean --version?"),
        ("", "Missing subcommand"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(typed, said, tmp_path, capsys, broken_run):
    (tmp_path / "FILE").write_text("")
    (tmp_path / "EMPTY").mkdir()
    places = {
        "FILE/x": tmp_path / "FILE/x",
        "EMPTY": tmp_path / "EMPTY",
        "BROKEN": broken_run,
        "BROKEN.zip": broken_run / "best_model.zip",
    }
    arguments = [str(places.get(word, word)) for word in typed.split()]
    if arguments[:1] == ["train"] and not {"--out", "--resume"} & set(arguments):
        arguments += ["--out", str(tmp_path / "runs")]
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("rn-rl: error: ")
    assert printed.err.count("\n") == 1
    assert said in printed.err
    assert not (tmp_path / "runs").exists()


@pytest.fixture(scope="module")
def broken_run(tmp_path_factory, trained_run):
    """A run whose files were cut off in the middle."""
    folder = tmp_path_factory.mktemp("broken") / "CartPole-v1_1"
    shutil.copytree(trained_run, folder)
    for name in ("policy.safetensors", "best_model.zip"):
        whole = (trained_run / name).read_bytes()
        (folder / name).write_bytes(whole[: len(whole) // 2])
    return folder


@pytest.fixture(scope="module")
def trained_run(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs")
    typed = f"{CARTPOLE} --norm rn --timesteps 300 --eval-freq 150 --eval-episodes 1 --out"
    assert main([*typed.split(), str(out)]) == 0
    return out / "rn" / "dqn" / "CartPole-v1_1"


def test_train_shows_its_progress_and_what_to_do_next(tmp_path, capsys):
    assert main([*f"{CARTPOLE} --timesteps 300 --eval-freq 0 --out".split(), str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "steps/s" in printed and "100%" in printed and "rn-rl evaluate" in printed


def test_a_half_life_is_printed_beside_the_phases_to_come(tmp_path, capsys):
    typed = f"{CARTPOLE} --norm rn(half_life=50) --timesteps 30 --eval-freq 0 --out"
    assert main([*typed.split(), str(tmp_path)]) == 0
    assert "half-life 50 phases" in capsys.readouterr().out


def test_evaluate_prints_json_and_nothing_else(trained_run, capsys):
    capsys.readouterr()
    assert main(["evaluate", str(trained_run), "--episodes", "4", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["episodes"] == 4 and len(result["returns"]) == 4
    assert {"mean_return", "std_return", "ci_low", "ci_high", "mean_length"} <= set(result)


def test_evaluate_prints_a_table(trained_run, capsys):
    capsys.readouterr()
    assert main(["evaluate", str(trained_run), "--episodes", "4", "--stochastic"]) == 0
    assert "95% interval" in capsys.readouterr().out


@pytest.mark.parametrize("suffix", ["mp4", "gif"])
def test_video_is_a_film_in_which_something_moves(trained_run, tmp_path, suffix):
    clip = tmp_path / f"clip.{suffix}"
    assert main(["video", str(trained_run), "--out", str(clip), "--episodes", "1"]) == 0
    # moviepy's reader leaves its pipes open where ffmpeg ends before it is closed: read with ffmpeg
    read = [get_ffmpeg_exe(), "-v", "error", "-i", str(clip), "-vf", "scale=64:48"]
    read += ["-pix_fmt", "rgb24", "-f", "rawvideo", "-"]
    pixels = subprocess.run(read, capture_output=True, check=True).stdout
    frames = np.frombuffer(pixels, np.uint8).reshape(-1, 48, 64, 3)
    assert len(frames) >= 8
    assert frames[0].std() > 1 and (frames[0] != frames[-1]).any()


def test_norms_and_zoo_print_their_tables(capsys):
    assert main(["norms"]) == 0 and main(["zoo"]) == 0
    printed = capsys.readouterr().out
    assert "rln-paper" in printed and "RedBlueDoors" in printed and "154.4" in printed


def test_a_typo_in_the_name_of_a_benchmark_is_one_line(capsys):
    assert benchmark(["trian"]) == 2
    printed = capsys.readouterr().err
    assert "error: unknown command 'trian'. Did you mean 'train'" in printed
    assert printed.count("\n") == 1


def test_scripts_are_the_same_commands(tmp_path):
    words = {"train": "--norm", "evaluate": "--episodes", "record_video": "--out"}
    started = {
        word: subprocess.Popen(
            [sys.executable, str(ROOT / f"scripts/{script}.py"), "--help"],
            stdout=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
        )
        for script, word in words.items()
    }
    for word, process in started.items():
        assert word in process.communicate()[0]
        assert process.returncode == 0


def test_scripts_are_at_most_40_lines():
    for script in (ROOT / "scripts").glob("*.py"):
        assert len(script.read_text().splitlines()) <= 40


def test_ctrl_c_while_libraries_load_is_one_line():
    command = [sys.executable, "-c", STOPPED_WHILE_LOADING]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert (done.returncode, done.stderr) == (130, "rn-rl: stopped\n")
