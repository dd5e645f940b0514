"""The page, files and sentences of ``rn-rl probe``, from records with a known change."""

import io
import json
import os
import re
import shutil
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.text import Text
from rich.console import Console, ConsoleDimensions

from rn_rl.analysis import drawing, paper
from rn_rl.analysis.probe_page import write_page
from rn_rl.analysis.probe_plots import (
    FIGURES,
    PAGE,
    PAPER,
    layer_pairs,
    left_out,
    measures,
    online_layers,
    online_minus_target,
    residuals,
    target_pairs,
    time_steps,
    write_figures,
)
from rn_rl.analysis.probes import ProbedArm, ProbedRun, read_arms
from rn_rl.commands.probe import probe_table, run_probe, watch, watch_table
from rn_rl.errors import UserError
from rn_rl.experiment.evaluation.config import ProbeConfig
from rn_rl.experiment.runs.folder import Run
from rn_rl.experiment.runs.io import write_npz, write_yaml
from rn_rl.probe import ProbeLog, ProbeRecord, Readings
from rn_rl.probe.measures import baseline, explained_code
from rn_rl.probe.records import checked_record
from tests.factories import made_up_run

COLUMNS = ["q_net.0", "q_net.2", "lstm_actor@0", "lstm_actor@1", "q_net_target.0", "q_net_target.2"]
ROWS = 240


def recorded(root, seed, norm="rn", change=1.5):
    """A run whose layers change at 60% of it, and whose return follows the shift of the mean."""
    rng = np.random.default_rng(seed)
    returns = rng.normal(100, 1, (40, 2)) + np.linspace(0, 50, 40)[:, None]
    run = made_up_run(root, norm, seed, returns)
    episodes = "".join(f"{x},1250,{9.0 * i}\n" for i, x in enumerate(returns.mean(1)))
    (run.folder / "0.monitor.csv").write_text(f'#{{"t_start": 0}}\nr,l,t\n{episodes}')
    steps = np.arange(1, ROWS + 1) * 50_000 // ROWS
    residual = 0.05 * rng.normal(size=(ROWS, len(COLUMNS)))
    residual[ROWS * 6 // 10 :] += change
    residual[:, 4:] = residual[:, :2] + 0.01
    base = np.array([baseline(t + 1) for t in range(ROWS)])[:, None]
    shift = np.abs(rng.normal(size=residual.shape))
    found = {"code": residual + base, "residual": residual, "shift": shift, "ratio": 1 + shift}
    found["dead"] = found["dormant"] = np.full(residual.shape, 0.25)
    write_npz(
        run.probe_file,
        format=np.array(1),
        columns=np.array(COLUMNS),
        timesteps=steps,
        **{name: table.astype(np.float32) for name, table in found.items()},
    )
    return run


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    for seed in range(3):
        recorded(root, seed)
    recorded(root, 0, norm="none", change=0.0)
    return root


def test_the_page_has_the_curves_and_the_stage_that_was_put_in(runs, tmp_path, capsys):
    out = tmp_path / "probe.html"
    run_probe(ProbeConfig((runs,), out=out))
    page, shown = out.read_text(), " ".join(capsys.readouterr().out.split())
    assert "Stages of the residual: at 60% of the training (3 of 3 seeds)." in shown
    assert "No stage of the residual beats chance in most seeds (1 in all)" in shown
    assert page.count("<svg") == 12 and "prefers-color-scheme: dark" in page
    assert 'name="viewport"' in page and "http:" not in re.sub(r"http://www\.w3\.org", "", page)
    assert "lstm_actor@1" in page and "#0102" not in page
    table = (tmp_path / "probe-figures.csv").read_text()
    assert "3 of 3 seeds" in table and "residual explained by m and v" in table


def test_json_has_every_column_of_every_run(runs, tmp_path, capsys):
    run_probe(ProbeConfig((runs,), json=True))
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["layer"] for row in rows] == 4 * COLUMNS
    assert all(len(row["timesteps"]) == len(row["code"]) == 100 for row in rows)


def test_figures_of_an_arm_are_those_of_its_records(runs):
    arms = {arm.name: arm for arm in read_arms([runs])}
    arm: ProbedArm = arms["rn dqn CartPole-v1"]
    assert arm.last("dead", "q_net.0").value == pytest.approx(0.25)
    assert arm.last("residual", "q_net.0").value == pytest.approx(1.5, abs=0.02)
    assert [run.seed for run in arm.runs] == [0, 1, 2]
    assert abs(arm.correlation("shift", "q_net.0").value) < 0.5
    assert arm.explained("q_net.0").value < 0.5  # m and v are noise here


def test_figures_for_a_paper(runs, tmp_path):
    """As those of ``rn-rl report --figures``: literal colours, two widths, and text that can be read."""
    [arm] = read_arms([runs / "rn"])
    for name, (draw, _) in FIGURES.items():
        files = write_figures(name, arm, tmp_path / name, ["svg"])
        assert [path.name for path in files] == [f"{name}-single.svg", f"{name}-double.svg"]
        for path, inches in zip(files, (3.25, 6.75), strict=True):
            text = path.read_text()
            assert "var(" not in text and "#0102" not in text and "<text" not in text
            width = float(re.search(r'<svg [^>]*width="([\d.]+)pt"', text)[1])
            assert width == pytest.approx(72 * inches)
        for canvas in PAPER.values():
            with drawing.style(paper.STYLE):
                figure = draw(arm, canvas)
                figure.draw_without_rendering()
                texts = [t for t in figure.findobj(Text) if t.get_text() and t.get_visible()]
                assert min(t.get_fontsize() for t in texts) >= 7
                box = figure.get_tightbbox()
                assert box.x0 >= -0.03 and box.x1 <= canvas.width + 0.03  # inches
                heights = [axes.get_position().height for axes in figure.axes if axes.get_visible()]
                assert min(heights) * figure.get_figheight() > 0.7


@pytest.mark.slow
def test_a_record_by_itself_and_the_watch(runs, tmp_path, capsys):
    file = next(runs.glob("rn/*/*_1/probe.npz"))
    run_probe(ProbeConfig((file,), out=tmp_path / "one.html", figures="pdf,svg,png"))
    page = (tmp_path / "one.html").read_text()
    assert "Probe of probe" in page
    for suffix, first in (("pdf", b"%PDF"), ("png", b"\x89PNG"), ("svg", b"<?xml")):
        files = [path.read_bytes() for path in tmp_path.glob(f"*.{suffix}")]
        assert len(files) == 2 * page.count("<svg")
        assert all(each.startswith(first) and b"#0102" not in each for each in files)
    capsys.readouterr()
    run_probe(ProbeConfig((file.parent,), watch=True))
    assert "q_net.2" in capsys.readouterr().out
    watch(None, file)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"format": np.array(9)}, "its format is 9, expected 1"),
        ({"timesteps": np.zeros(ROWS, int)}, "its timesteps do not rise"),
        ({"timesteps": np.arange(ROWS) - 5}, "its timesteps do not rise from 0 or above"),
        (
            {"timesteps": np.arange(ROWS).astype("datetime64[s]")},
            r"its timesteps are datetime64\[s\]",
        ),
        ({"stride": np.array(0)}, "its stride is 0, expected a whole number of at least 1"),
        (
            {"residual": np.zeros((ROWS, 6), int)},
            "residual is of int64, expected floating-point numbers",
        ),
        ({"residual": np.zeros((3, 2), np.float32)}, r"residual has shape \(3, 2\), expected"),
        ({"columns": np.array(["a"] * 6)}, "its columns are not different names"),
        ({"code": None}, "it has no array 'code'"),
        (b"nothing", r"probe.npz is damaged \(it is no npz file\)"),
        (0.5, "probe.npz is damaged"),
    ],
)
def test_a_damaged_record_is_one_line(tmp_path, changed, message):
    file = recorded(tmp_path, 0).probe_file
    if isinstance(changed, dict):
        with np.load(file) as stored:
            arrays = {**{name: stored[name] for name in stored.files}, **changed}
        write_npz(file, **{name: value for name, value in arrays.items() if value is not None})
    else:
        whole = file.read_bytes()
        file.write_bytes(changed if isinstance(changed, bytes) else whole[: len(whole) // 2])
    with pytest.raises(UserError, match=message) as error:
        run_probe(ProbeConfig((file.parent,), out=tmp_path / "p.html"))
    assert "\n" not in str(error.value) and "is damaged" in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"figures": "pdf,gif"}, "--figures pdf,gif: expected some of pdf,svg,png"),
        ({"watch": True}, "--watch follows one run: expected one, got 4"),
        ({"watch": True, "json": True}, "--watch --json: --watch draws in the terminal"),
        ({"runs": ()}, "RUN is missing"),
        (
            {"json": True, "figures": "pdf"},
            "--json --figures pdf: --json prints and writes no page",
        ),
        ({"json": True, "out": "a.html"}, "--json --out a.html: --json prints and writes no page"),
        (
            {"watch": True, "out": "a.html", "figures": "pdf"},
            "--watch --figures pdf --out a.html: --w",
        ),
    ],
)
def test_options_out_of_range_are_named(runs, tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    given = {"runs": (runs,), **options}
    if "out" in given:
        given["out"] = type(tmp_path)(given["out"])
    with pytest.raises(UserError, match=message) as error:
        run_probe(ProbeConfig(**given))
    assert "\n" not in str(error.value)


def test_options_of_a_page_are_refused_for_a_run_without_one(tmp_path, capsys):
    run = made_up_run(tmp_path, "rn", 0, np.ones((4, 2)))
    for options, message in (
        (
            {"out": tmp_path / "p.html"},
            r"--out .*p\.html: run .* has no probe\.npz.*leave it out, or rec",
        ),
        ({"figures": "pdf"}, r"--figures pdf: run .* has no probe\.npz, so its gains are printed"),
    ):
        with pytest.raises(UserError, match=message):
            run_probe(ProbeConfig((run.folder,), **options))
    run_probe(ProbeConfig((run.folder,)))
    assert "gain of each layer" in capsys.readouterr().out


def test_a_run_without_a_probe_says_how_to_record_one(tmp_path):
    run = made_up_run(tmp_path, "none", 0, np.ones((4, 2)))
    made_up_run(tmp_path, "none", 1, np.ones((4, 2)))
    with pytest.raises(UserError, match=r"nor a probe\.npz: record one with 'rn-rl train --pr"):
        run_probe(ProbeConfig((run.folder,), out=tmp_path / "p.html"))
    with pytest.raises(UserError, match=r"none of 2 has a probe\.npz.*record one with"):
        run_probe(ProbeConfig((tmp_path,), out=tmp_path / "p.html"))
    with pytest.raises(UserError, match="no such folder"):
        run_probe(ProbeConfig((tmp_path / "nothing",), out=tmp_path / "p.html"))
    with pytest.raises(UserError, match=r"nothing\.npz: no such file"):
        run_probe(ProbeConfig((tmp_path / "nothing.npz",), out=tmp_path / "p.html"))


def arm_of(*columns, more=()):
    table = np.linspace(0, 1, 5)[:, None] * np.ones(len(columns))
    values = {name: table for name in ("code", "residual", *more)}
    record = ProbeRecord(list(columns), np.arange(1.0, 6), values)
    nothing = np.empty(0)
    return ProbedArm("none ppo X", [ProbedRun("run", "a", 0, 5.0, record, nothing, nothing)])


ON_POLICY = (
    "mlp_extractor.policy_net.0",
    "mlp_extractor.policy_net.1.in",
    "mlp_extractor.policy_net.1.out",
    "mlp_extractor.policy_net.2",
    "mlp_extractor.value_net.0",
    "mlp_extractor.value_net.2",
    "action_net",
    "value_net",
)


def test_only_layers_that_follow_each_other_and_targets_that_exist_are_compared():
    arm = arm_of(*ON_POLICY)
    pairs = [(f"mlp_extractor.{n}_net.0", f"mlp_extractor.{n}_net.2") for n in ("policy", "value")]
    assert layer_pairs(arm) == pairs
    assert target_pairs(arm) == [] and online_minus_target(arm, PAGE) is None
    heads = arm_of("actor.latent_pi.0", "actor.mu", "actor.log_std", "q.0", "q_target.0", "q.2")
    assert layer_pairs(heads) == [("q.0", "q.2")] and target_pairs(heads) == [("q.0", "q_target.0")]


def test_names_of_layers_are_folded_and_no_number_is_cut_at_80_columns():
    console = Console(width=80, file=io.StringIO())
    console.print(probe_table(arm_of(*ON_POLICY), 80))
    shown = console.file.getvalue()
    assert "…" not in shown and max(map(len, shown.splitlines())) <= 80
    long = [f"features_extractor.blocks.{i}.linear" for i in range(40)]
    for columns, size, rows in ((ON_POLICY, (60, 30), 30), (long, (80, 24), 20)):
        table = watch_table("run", arm_of(*columns).runs[0].record, ConsoleDimensions(*size))
        narrow = Console(width=size[0], file=io.StringIO())
        narrow.print(table)
        live = narrow.file.getvalue()
        assert "…" not in live and len(live.splitlines()) <= size[1] and table.row_count <= rows
        curves = [len(re.findall("[▁▂▃▄▅▆▇█]", line)) for line in live.splitlines()]
        assert max(curves) >= 12  # the curves are what it is for


def test_what_a_page_leaves_out_is_said(tmp_path):
    steps = [f"lstm@{t}" for t in range(32)]
    arm = arm_of(*(f"net.{i}" for i in range(14)), *steps)
    assert left_out(arm, "residual") == " The first 12 of 14 layers are drawn."
    assert left_out(arm, "layers") == " The first 12 of 13 pairs are drawn."
    assert left_out(arm, "steps").startswith(" Steps 0, 1, 2, 4, 8, 16, 31 are drawn;")
    assert left_out(arm_of("net.0", "lstm@0"), "steps") == ""
    page = tmp_path / "p.html"
    write_page([arm], page, ())
    text = page.read_text()
    assert "The first 12 of 14 layers are drawn." in text
    assert "The first 40 of 46 rows are shown; the CSV file has all." in text
    assert len(time_steps(arm, PAGE).axes) == 2  # code length and residual


def with_settings(run, **hyperparameters):
    """Change hyperparameters of a made-up run."""
    spec = run.read_spec()
    changed = {**spec.hyperparameters, **hyperparameters}
    write_yaml(run.spec_file, vars(replace(spec, hyperparameters=changed)))
    return run


def test_runs_that_differ_in_a_hyperparameter_are_arms_of_their_own(tmp_path):
    for seed in range(2):
        recorded(tmp_path / "a", seed)
        with_settings(recorded(tmp_path / "b", seed), learning_rate=1e-2)
    recorded(tmp_path / "c", 0, norm="ln")
    arms = {arm.name: arm for arm in read_arms([tmp_path])}
    assert {name: len(arm.runs) for name, arm in arms.items()} == {
        "rn dqn CartPole-v1 (learning_rate 0.001)": 2,
        "rn dqn CartPole-v1 (learning_rate 0.01)": 2,
        "ln dqn CartPole-v1": 1,
    }
    written = write_page(list(arms.values()), tmp_path / "p.html", ["svg"])
    assert len(set(written)) == len(written) and all(path.is_file() for path in written)


def test_a_run_that_is_given_twice_counts_once(tmp_path, monkeypatch):
    run = recorded(tmp_path / "runs", 0)
    recorded(tmp_path / "runs", 1)
    monkeypatch.chdir(tmp_path)
    here = type(tmp_path)("runs")
    os.symlink(tmp_path / "runs", tmp_path / "link")
    given = [here, tmp_path / "runs", tmp_path / "link", run.folder, run.probe_file]
    [arm] = read_arms(given)
    assert [each.seed for each in arm.runs] == [0, 1] and arm.notes == []
    # a copy is another folder, of the same training: the longer one counts
    longer = Run(tmp_path / "copy")
    shutil.copytree(run.folder, longer.folder)
    with np.load(run.probe_file) as stored:
        arrays = dict(stored)
    arrays["timesteps"] = arrays["timesteps"] + 1
    write_npz(longer.probe_file, **arrays)
    [arm] = read_arms([here, longer.folder])
    assert arm.runs[0].name == str(longer.folder) and len(arm.runs) == 2
    assert arm.notes == ["1 run left out: repeats another one with its seed."]


def test_files_of_one_name_are_named_by_their_paths(tmp_path):
    files = [tmp_path / part for part in ("a/probe.npz", "b/probe.npz", "b/other.npz")]
    for seed, file in enumerate(files):
        file.parent.mkdir(exist_ok=True)
        shutil.copy(recorded(tmp_path / "runs", seed).probe_file, file)
    arms = read_arms([*files, files[0]])
    assert [arm.name for arm in arms] == [str(files[0]), str(files[1]), "other"]
    assert [len(arm.runs) for arm in arms] == [1, 1, 1]


def diverged(file, row, columns=slice(None)):
    """Replace what a record has from a row on by NaN."""
    with np.load(file) as stored:
        arrays = dict(stored)
    for name in ("code", "residual", "shift", "ratio", "dead", "dormant"):
        arrays[name][row:, columns] = np.nan
    write_npz(file, **arrays)


def test_what_a_run_did_before_it_diverged_is_not_its_end(tmp_path):
    for seed in range(3):
        recorded(tmp_path, seed)
    diverged(next(tmp_path.glob("rn/*/*_3/probe.npz")), ROWS * 8 // 10)
    [arm] = read_arms([tmp_path])
    steps, rows = arm.curve("residual", "q_net.0")
    last = 50_000 * 0.8
    assert np.isnan(rows[2, steps > last]).all() and np.isfinite(rows[2, steps < last - 500]).all()
    assert np.isfinite(rows[:2]).all()
    told = " ".join(arm.sentences())
    assert "1 of 3 runs end without numbers" in told and "1 of 3" not in "".join(arm.notes)
    alone = ProbedArm("one", [arm.runs[2]])
    assert np.isnan(alone.last("residual", "q_net.0").value)
    for width in (80, 100):
        shown = io.StringIO()
        Console(width=width, file=shown).print(probe_table(alone, width))
        assert re.search(r"q_net\.0 .* - .*[▁-█] +$", shown.getvalue(), re.MULTILINE)
    watched = io.StringIO()
    Console(width=100, file=watched).print(
        watch_table("run", arm.runs[2].record, ConsoleDimensions(100, 30))
    )
    assert re.search(r"q_net\.0 +- +[▁-█]+ +$", watched.getvalue(), re.MULTILINE)


def test_what_shift_and_ratio_explain_is_computed_with_the_decay_of_the_record(tmp_path):
    decay, rng = 0.5, np.random.default_rng(0)
    shift, ratio = (np.abs(rng.normal(size=(200, 1))) for _ in range(2))
    residual = explained_code(shift, ratio, decay)
    log = {
        "format": np.array(1),
        "columns": np.array(["0"]),
        "timesteps": np.arange(200),
        "code": residual,
        "residual": residual,
        "shift": shift,
        "ratio": ratio,
    }
    found = {}
    for name, more in (("with", {"decay": np.array(decay)}), ("without", {})):
        write_npz(tmp_path / f"{name}.npz", **log, **more)
        [arm] = read_arms([tmp_path / f"{name}.npz"])
        found[name] = arm.explained("0").value
    assert found["with"] == pytest.approx(1) and found["without"] < 0.9


def test_runs_whose_record_has_no_rows_are_left_out(tmp_path, capsys):
    recorded(tmp_path, 0)
    empty = recorded(tmp_path, 1)
    for arrays in (
        ProbeLog().arrays(),
        {"format": 1, "columns": np.array([], str), "timesteps": []},
    ):
        write_npz(empty.probe_file, **{name: np.asarray(value) for name, value in arrays.items()})
        [arm] = read_arms([tmp_path])
        assert len(arm.runs) == 1
        assert arm.notes == ["1 run left out: no rows yet."]
        for paths in ((empty.folder,), (empty.probe_file,)):
            with pytest.raises(
                UserError, match=r"probe\.npz has no rows: the training has not ended"
            ):
                run_probe(ProbeConfig(paths, out=tmp_path / "p.html"))
    other = tmp_path / "other.npz"
    shutil.copy(empty.probe_file, other)
    with pytest.raises(UserError, match=r"none of 2 has a probe\.npz with rows"):
        run_probe(ProbeConfig((empty.folder, other), out=tmp_path / "p.html"))


def test_a_record_without_rows_is_waited_for(tmp_path, capsys):
    run = recorded(tmp_path, 0)
    run.final_file.unlink(missing_ok=True)
    whole = run.probe_file.read_bytes()
    write_npz(run.probe_file, **ProbeLog().arrays())

    def train():
        time.sleep(0.3)
        temporary = run.folder / "later.npz"
        temporary.write_bytes(whole)
        temporary.replace(run.probe_file)

    training = threading.Thread(target=train)
    training.start()
    watch(run, run.probe_file, seconds=0.05)
    training.join()
    assert "q_net.2" in capsys.readouterr().out
    write_npz(run.probe_file, **ProbeLog().arrays())
    run.final_file.write_text("{}")
    with pytest.raises(UserError, match=r"probe\.npz has no rows"):
        watch(run, run.probe_file)


def test_layers_named_as_the_ends_of_a_normalizer_are_layers():
    arm = arm_of("0.fc", "0.out", "1.in", "1.out", "2.0", "block.in", "block.1")
    shown = ["0.fc", "0.out", "1.out", "2.0", "block.in", "block.1"]
    assert online_layers(arm) == shown
    text = io.StringIO()
    Console(width=80, file=text).print(probe_table(arm, 80))
    assert "0.out" in text.getvalue() and "1.out" not in text.getvalue()
    assert layer_pairs(arm_of("a.1.out", "a.2", "a.10.in", "a.10.out", "a.11")) == [("a.2", "a.11")]


def test_layers_whose_names_begin_with_an_underscore_are_in_the_legend():
    figure = residuals(arm_of("_enc", "_dec", "head"), PAGE)
    texts = [text.get_text().strip() for text in figure.legends[0].get_texts()]
    assert texts == ["_enc", "_dec", "head", "stationary data"]


def numbered(axes):
    """True if the axis of time has numbers that are shown."""
    axes.figure.draw_without_rendering()
    return any(t.get_visible() and t.get_text() for t in axes.get_xticklabels())


@pytest.mark.parametrize("returns", [False, True])
def test_the_lowest_panel_has_numbers_and_none_is_blank(returns, runs):
    [arm] = read_arms([runs / "rn"]) if returns else [arm_of("0", "2")]
    figure = residuals(arm, PAGE)
    assert len(figure.axes) == 2 + returns and all(axes.get_visible() for axes in figure.axes)
    assert [numbered(axes) for axes in figure.axes] == [False] * (1 + returns) + [True]


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_the_lowest_panel_of_each_column_has_numbers(count):
    names = ("shift", "ratio", "dead", "dormant", "rank")[:count]
    figure = measures(arm_of("0", "2", more=names), PAGE)
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert len(shown) == count
    assert [numbered(axes) for axes in shown] == [i + 2 >= count for i in range(count)]
    assert [bool(axes.get_xlabel()) for axes in shown] == [i + 2 >= count for i in range(count)]


def test_a_constant_measure_has_no_correlation_whatever_its_rounding():
    """A rank of 1 that float32 rounds by a bit does not follow the return, and ties have no rank."""
    rng = np.random.default_rng(0)
    steps = np.arange(1, 401)
    returns = np.cumsum(rng.normal(size=400))
    flat = (1 + 6e-8 * rng.integers(-1, 2, 400))[:, None]
    stepped = np.floor(returns)[:, None] * (1 + 6e-8 * rng.integers(-1, 2, (400, 1)))
    values = {"residual": flat, "code": flat, "rank": flat, "shift": stepped, "ratio": flat}
    run = ProbedRun("run", "arm", 0, 400, ProbeRecord(["a"], steps, values), steps, returns)
    assert np.isnan(run.correlation("rank", "a")) and np.isnan(run.correlation("residual", "a"))
    assert np.isnan(run.explained("a"))
    exact = {**values, "shift": np.floor(returns)[:, None]}
    same = ProbedRun("run", "arm", 0, 400, ProbeRecord(["a"], steps, exact), steps, returns)
    assert run.correlation("shift", "a") == same.correlation("shift", "a") > 0.9


@pytest.mark.parametrize("half_life", [None, 100.0])
def test_gaussian_activity_is_explained_in_a_thinned_record_too(half_life):
    """The formula of m and v, with the mass that decays over the phases between two rows as well."""
    decay = 1.0 if half_life is None else 2 ** (-1 / half_life)
    phases = np.arange(4000)
    shift = 0.5 + 0.5 * np.sin(phases / 300)
    ratio = 1 + 0.3 * np.cos(phases / 170)
    residual = explained_code(shift, ratio, decay)
    log = ProbeLog(most_rows=1001)
    for t in phases:
        row = {
            "residual": residual[t],
            "shift": shift[t],
            "ratio": ratio[t],
            "code": residual[t] + 5,
        }
        row = {name: np.full((1, 1), value) for name, value in row.items()}
        readings = Readings(["a"], row)
        readings.decay = decay
        log.append(int(t), readings)
    record = checked_record(log.arrays())
    assert record.stride == 4 and record.decay == pytest.approx(decay)
    nothing = np.empty(0)
    run = ProbedRun("run", "arm", 0, 4000, record, nothing, nothing)
    assert run.explained("a") > 0.995


def test_a_record_without_returns_is_not_said_to_lack_stages_of_them(tmp_path):
    run = recorded(tmp_path / "runs", 0)
    alone = tmp_path / "alone.npz"
    shutil.copy(run.probe_file, alone)
    [arm], [file] = read_arms([run.folder]), read_arms([alone])
    assert "of the return" in " ".join(arm.sentences())
    assert "of the return" not in " ".join(file.sentences())


def test_a_probed_run_without_a_record_yet_is_not_told_to_use_probe(tmp_path, capsys):
    run = recorded(tmp_path, 0)
    run.probe_file.unlink()
    spec = run.read_spec()
    write_yaml(run.spec_file, vars(replace(spec, probe=True)))
    run_probe(ProbeConfig((run.folder,)))
    shown = capsys.readouterr().out
    assert "although it was trained with --probe" in " ".join(shown.split())
    with pytest.raises(UserError, match="although it was trained with --probe") as error:
        read_arms([run.folder])
    assert "record one" not in shown + str(error.value)
