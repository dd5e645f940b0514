"""Reports: figures, sentences, bad runs, and the page in a real browser."""

import base64
import csv
import hashlib
import json
import re
import shutil
import subprocess
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from rn_rl.analysis.summary import summarize
from rn_rl.analysis.tables import Estimate
from rn_rl.cli import main
from rn_rl.experiment.runs.io import write_yaml
from rn_rl.experiment.runs.records import find_runs, read_records
from tests.factories import made_up_run

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


def fill(root, norms, seeds=12, env="CartPole-v1", evaluations=10, **kwargs):
    """Write runs with these mean last returns by normalizer; standard deviation over seeds 10."""
    rng = np.random.default_rng(1)
    runs = {}
    for norm, level in norms.items():
        for seed in range(seeds):
            rise = np.linspace(0.2, 1, evaluations)[:, None]
            returns = rise * (level + 10 * rng.normal()) + rng.normal(size=(evaluations, 5))
            runs[norm, seed] = made_up_run(root, norm, seed, returns, env=env, **kwargs)
    return runs


def summary_of(root, **kwargs):
    records, problems = read_records(find_runs(root))
    return summarize(records, problems, **kwargs)


def test_what_differs_is_told_apart_and_what_does_not_is_not(tmp_path):
    fill(tmp_path, {"none": 100, "ln": 180, "rn": 40, "rln": 101})
    summary = summary_of(tmp_path)
    verdicts = {each.norm: each.verdict for each in summary.comparisons}
    assert verdicts == {"ln": "better", "rn": "worse", "rln": "cannot tell"}
    told = {each.norm: each.sentence(3) for each in summary.comparisons}
    assert re.fullmatch(
        r"ln beats none with dqn on CartPole-v1: probability of improvement 1\.00 \[1\.00, 1\.00\], 12 "
        r"seeds; p = [\d.e-]+ after correction for 3 comparisons; by the area under the evaluation "
        r"curve 1\.00 \[1\.00, 1\.00\]\.",
        told["ln"],
    )
    assert told["rn"].startswith("rn is worse than none with dqn on CartPole-v1: ")
    assert told["rln"].startswith("Cannot tell rln from none with dqn on CartPole-v1: ")


@pytest.mark.parametrize(
    ("endpoint", "verdict", "other"),
    [
        ("last", "cannot tell", "area under the evaluation curve 1.00"),
        ("area", "better", "return of the last policy"),
    ],
)
def test_one_endpoint_decides_and_the_other_is_shown(tmp_path, endpoint, verdict, other):
    """``ln`` learns sooner and ends the same; one run was not evaluated to its end."""
    rng = np.random.default_rng(2)
    for norm, early in (("none", 0.2), ("ln", 0.9)):
        for seed in range(12):
            end = 100 + 10 * rng.normal()
            rise = np.array([early, early, 1.0])[:, None]
            made_up_run(tmp_path, norm, seed, rise * end + rng.normal(size=(3, 5)))
    cut = made_up_run(tmp_path, "ln", 12, np.full((3, 5), 100.0))
    cut.evaluations_file.unlink()
    cut.final_file.write_text('{"timesteps": 50000, "mean_return": 100, "episodes": 20}')
    page = tmp_path / "page.html"
    assert main(["report", str(tmp_path), "--out", str(page), "--endpoint", endpoint]) == 0
    summary = summary_of(tmp_path, endpoint=endpoint)
    [found] = summary.comparisons
    assert found.verdict == verdict and found.runs == ((13, 12) if endpoint == "last" else (12, 12))
    assert f"; by the {other}" in found.sentence(1)
    note = "ln: 1 of 13 runs have no complete curve, so no area"
    assert any(note in each for each in summary.notes) == (endpoint == "area")
    assert found.sentence(1) in page.with_suffix(".md").read_text()


def test_equivalence_within_a_margin_differs_from_cannot_tell(tmp_path):
    fill(tmp_path, {"none": 100, "ln": 180, "rn": 101, "logt": 115}, seeds=20)
    verdicts = {}
    for margin in (3, 40, 200):
        summary = summary_of(tmp_path, margin=margin)
        verdicts[margin] = {each.norm: each.verdict for each in summary.comparisons}
    assert verdicts[3] == {"ln": "better", "rn": "cannot tell", "logt": "better"}
    assert verdicts[40] == {"ln": "better", "rn": "equivalent", "logt": "better"}
    assert verdicts[200] == verdicts[40]
    told = {each.norm: each for each in summary_of(tmp_path, margin=40).comparisons}
    assert told["logt"].within_margin and not told["ln"].within_margin
    sentence = told["rn"].sentence(3)
    assert sentence.startswith("rn is equivalent to none with dqn on CartPole-v1: ")
    assert re.search(
        r"difference of means -?[\d.]+ \[-[\d.]+, [\d.]+\] \(90%\), margin 40\.0;", sentence
    )
    page = tmp_path / "page.html"
    assert main(["report", str(tmp_path), "--out", str(page), "--equivalence", "40"]) == 0
    with (tmp_path / "page-figures.csv").open() as stream:
        names = {row["figure"] for row in csv.DictReader(stream)}
    within = "p of equivalence to none within 40"
    assert {"mean minus that of none", within, f"{within}, corrected"} <= names
    assert "two one-sided Welch tests" in page.read_text()


def test_few_seeds_are_exploratory_and_one_is_an_anecdote(tmp_path):
    fill(tmp_path / "few", {"none": 100, "ln": 180}, seeds=4)
    sentence = summary_of(tmp_path / "few").sentences()[0]
    assert sentence.startswith("Exploratory (fewer than 10 seeds): ")
    fill(tmp_path / "one", {"none": 100, "ln": 180}, seeds=1)
    summary = summary_of(tmp_path / "one")
    assert summary.sentences()[0].startswith("One seed is an anecdote. Cannot tell")
    assert any("one seed, so no interval" in note for note in summary.notes)


def test_three_seeds_that_do_not_overlap_prove_nothing(tmp_path):
    """The bootstrap interval is [1, 1] then, which would claim certainty."""
    fill(tmp_path, {"none": 100, "ln": 400}, seeds=3)
    comparison = summary_of(tmp_path).comparisons[0]
    assert comparison.improvement == Estimate(1.0, 1.0, 1.0)
    assert comparison.verdict == "cannot tell"


def test_figures_of_an_arm(tmp_path):
    returns = [100.0, 200.0, 490.0, 500.0]
    for seed, last in enumerate(returns):
        made_up_run(tmp_path, "none", seed, np.array([[0.0, 0.0], [last - 1, last + 1]]))
    arm = summary_of(tmp_path).tasks[0].arms["none"]
    found = arm.figures
    assert found["last return, mean"].value == pytest.approx(322.5)
    assert found["last return, IQM"].value == pytest.approx(345)
    assert found["area under curve, IQM"].value == pytest.approx(172.5)
    assert found["reached threshold"].value == 0.5
    assert found["steps to threshold, median"].value == 50_000
    assert found["spread of runs"].value == pytest.approx(np.std(returns, ddof=1))
    scores = [(x - 22) / (475 - 22) for x in returns]
    gap = 1 - np.mean(np.minimum(scores, 1))
    assert found["optimality gap"].value == pytest.approx(gap)
    assert (found["worst run"].value, found["best run"].value) == (100, 500)


def test_a_threshold_that_most_never_reach(tmp_path):
    for seed, last in enumerate([100.0] * 7 + [490.0] * 2):
        made_up_run(tmp_path, "none", seed, np.full((2, 2), last))
    found = summary_of(tmp_path).tasks[0].arms["none"].figures["steps to threshold, median"]
    assert str(found) == "never [25,000, never]"


def test_bad_runs_are_named_and_never_dropped_in_silence(tmp_path):
    runs = fill(tmp_path, {"none": 100, "ln": 110})
    folder = {seed: runs["ln", seed].folder for seed in range(9)}
    (folder[0] / "run.yaml").unlink()
    (folder[1] / "run.yaml").write_text("algo: dqn\n")
    (folder[2] / "evaluations.npz").write_bytes(b"PK\x03\x04half")
    (folder[3] / "evaluations.npz").unlink()
    stored = dict(np.load(folder[4] / "evaluations.npz"))
    np.savez(folder[4] / "evaluations.npz", **{k: v[:5] for k, v in stored.items()})
    for seed, where in ((5, -1), (6, 2)):
        stored = dict(np.load(folder[seed] / "evaluations.npz"))
        stored["results"][where, 0] = np.nan
        np.savez(folder[seed] / "evaluations.npz", **stored)
    shutil.copytree(folder[7], folder[7].with_name("CartPole-v1_99"))
    (folder[8] / "code_length.npz").write_bytes(b"")
    summary = summary_of(tmp_path)
    told = {p.run: (p.counted, p.what) for p in summary.problems}
    for name, counted, what in (
        (folder[0], False, "no run.yaml in it"),
        (folder[1], False, "run.yaml cannot be read"),
        (folder[2], False, "not finished: evaluations.npz is damaged"),
        (folder[3], False, "not finished: no evaluation was recorded"),
        (folder[4], False, "not finished: the last evaluation is of timestep 25,000 of 50,000"),
        (folder[6], True, "1 of 10 evaluations have a return that is not finite"),
        (folder[7].with_name("CartPole-v1_99"), False, "the same training, with the same seed, as"),
        (folder[8], True, "code_length.npz is damaged"),
    ):
        assert told[str(name)][0] is counted
        assert what in told[str(name)][1]
    worst = [p.what for p in summary.problems if p.run == str(folder[5])]
    assert any("the return of the last policy is nan: counted as the worst" in w for w in worst)
    arms = summary.tasks[0].arms
    assert (len(arms["none"].runs), len(arms["ln"].runs)) == (12, 7)
    nan_run = next(i for i, run in enumerate(arms["ln"].runs) if run.run.folder == folder[5])
    every = [run.returns[np.isfinite(run.returns)] for arm in arms.values() for run in arm.runs]
    assert arms["ln"].last[nan_run] == min(22, np.concatenate(every).min())  # 22: at random
    assert np.isfinite(arms["ln"].areas).all()
    assert any("numbers of seeds differ: none 12, ln 7" in note for note in summary.notes)


def test_mixed_settings_and_environments_are_tasks_of_their_own(tmp_path):
    fill(tmp_path, {"none": 100, "ln": 110}, seeds=3)
    fill(tmp_path, {"none": 100}, seeds=3, timesteps=20_000)
    fill(tmp_path, {"none": 1, "ln": 2}, seeds=3, env="Acrobot-v1")
    summary = summary_of(tmp_path)
    names = ["dqn on Acrobot-v1", "dqn on CartPole-v1 (timesteps 50000)"]
    names.append("dqn on CartPole-v1 (timesteps 20000)")
    assert sorted(task.name for task in summary.tasks) == sorted(names)
    assert len(summary.comparisons) == 2
    assert any(note.startswith("dqn on Acrobot-v1: no known scale") for note in summary.notes)


def test_runs_of_unequal_length_are_compared_where_both_are(tmp_path):
    made_up_run(tmp_path, "none", 0, np.arange(10.0)[:, None] + np.zeros((10, 2)))
    made_up_run(tmp_path, "none", 1, np.arange(0, 10, 2.0)[:, None] + np.zeros((5, 2)))
    summary = summary_of(tmp_path)
    steps, rows = summary.tasks[0].arms["none"].curves
    assert steps.tolist() == [10_000, 20_000, 30_000, 40_000, 50_000]
    np.testing.assert_allclose(rows, [[1, 3, 5, 7, 9], [0, 2, 4, 6, 8]])
    assert any("runs were evaluated at different timesteps" in note for note in summary.notes)


def test_equal_returns_give_a_report_and_no_verdict(tmp_path, capsys):
    for norm in ("none", "ln"):
        for seed in range(11):
            made_up_run(tmp_path, norm, seed, np.full((3, 2), 500.0))
    assert main(["report", str(tmp_path), "--out", str(tmp_path / "page.html")]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "Cannot tell ln from none" in said
    assert "both have the same return of the last policy in every run, 11 seeds" in said


@pytest.mark.parametrize("width", ["80", "44"])
def test_the_printed_tables_have_whole_names_and_figures(tmp_path, capsys, monkeypatch, width):
    norms = ["none", "ln+rn(half_life=2000)", "ln+rn(half_life=2001)"]
    fill(tmp_path, dict.fromkeys(norms, 1e5), seeds=3)
    monkeypatch.setenv("COLUMNS", width)
    assert main(["report", str(tmp_path), "--out", str(tmp_path / "page.html")]) == 0
    printed = capsys.readouterr().out
    table = printed[: printed.index("Exploratory")]
    assert all(f"\n{norm} " in table for norm in norms) and "…" not in table
    figure = summary_of(tmp_path).tasks[0].arms["none"].figures["last return, IQM"]
    assert (str(figure) in table) == (width == "80")
    assert max(map(len, table.splitlines())) <= int(width)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """Report on two environments, four normalizers, the published results and a bad run."""
    root = tmp_path_factory.mktemp("runs")
    norms = {"none": 100, "ln": 180, "rn": 40, "ln+rn(half_life=2000)": 101}
    fill(root, norms)
    fill(root, norms, env="LunarLander-v3", timesteps=100_000)
    made_up_run(root, "none", 99, np.zeros((1, 1)), timesteps=7).evaluations_file.unlink()
    out = root / "report" / "page.html"
    assert main(["report", str(root), "--zoo", "--out", str(out)]) == 0
    return out


def test_the_page_the_markdown_and_the_tables_say_the_same(page):
    markdown, html = page.with_suffix(".md").read_text(), page.read_text()
    figures = list(csv.DictReader(page.with_name("page-figures.csv").read_text().splitlines()))
    improvements = [r for r in figures if r["figure"] == "probability of improvement over none"]
    overall = [r for r in figures if r["figure"] == "score, probability of improvement"]
    assert (len(improvements), len(overall)) == (6, 3)  # on each task, and over both
    for row in improvements:
        shown = str(Estimate(*(float(row[name]) for name in ("value", "low", "high"))))
        assert f"probability of improvement {shown}" in markdown
        assert f"probability of improvement {shown}" in html
    runs = list(csv.DictReader(page.with_name("page-runs.csv").read_text().splitlines()))
    assert len(runs) == 2 * 4 * 12
    curves = list(csv.DictReader(page.with_name("page-curves.csv").read_text().splitlines()))
    assert len(curves) == 2 * 4 * 10
    for text in (html, markdown):
        assert "not finished: no evaluation was recorded" in text
        assert "LunarLander-v2, not LunarLander-v3" in text
        assert "154.4 ± 79.2" in text
    assert "http:" not in re.sub(r"http://www.w3.org/[\w/]+", "", html)  # nothing to fetch
    assert "https:" not in html
    [script] = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)  # the browser runs no other
    allowed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{allowed}'" in html and "default-src 'none';" in html
    assert html.count("<script") == 1


def test_the_page_is_the_same_twice(page, tmp_path):
    again = tmp_path / "page.html"
    assert main(["report", str(page.parent.parent), "--zoo", "--out", str(again)]) == 0
    assert again.read_text() == page.read_text()


def browse(page, folder, *flags, width=1100, height=1400):
    """Return a screenshot of the page, and the messages of the browser's console."""
    picture = folder / f"page{width}{len(flags)}.png"
    quiet = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync"
    quiet += " --disable-background-networking --disable-component-update --hide-scrollbars"
    found = subprocess.run(
        [
            CHROMIUM,
            "--headless",
            *quiet.split(),
            f"--user-data-dir={folder / 'profile'}",
            "--enable-logging=stderr",
            f"--window-size={width},{height}",
            f"--screenshot={picture}",
            *flags,
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return matplotlib.image.imread(picture), [x for x in found.stderr.split("\n") if "CONSOLE" in x]


def test_the_verdict_is_a_table_on_top(page):
    markdown, html = page.with_suffix(".md").read_text(), page.read_text()
    assert "<h1>dqn on CartPole-v1 and dqn on LunarLander-v3</h1>" in html
    head = "| task | normalizer | verdict | last return, IQM | none | difference | P(better) | p |"
    assert (
        head in markdown and "Difference: of the interquartile means, none subtracted" in markdown
    )
    top = html[html.index("<h2>Verdict") : html.index("<figure")]
    rows = [
        [re.sub("<[^>]+>", "", cell) for cell in re.findall(r"<td.*?</td>", row)]
        for row in re.findall(r"<tr class.*?</tr>", top, re.DOTALL)
    ]
    assert [row[0] for row in rows] == ["CartPole-v1"] * 3 + ["LunarLander-v3"] * 3
    assert re.findall(r'<tr class="[\w ]*?( first)?">', top) == ["", "", "", " first", "", ""]
    found = {(row[0], row[1]): row for row in rows}
    assert [found["CartPole-v1", n][2] for n in ("ln", "rn")] == ["better", "worse"]
    figures = list(csv.DictReader(page.with_name("page-figures.csv").read_text().splitlines()))
    for row in figures:
        if row["figure"] == "last return, IQM" and row["normalizer"] == "ln":
            shown = str(Estimate(*(float(row[name]) for name in ("value", "low", "high"))))
            assert any(shown in cells for cells in rows if cells[1] == "ln")
        if row["figure"] == "last return, IQM, minus that of none":
            shown = str(Estimate(*(float(row[name]) for name in ("value", "low", "high"))))
            task = row["task"].removeprefix("dqn on ")
            assert found[task, row["normalizer"]][5].removeprefix("+") == shown
            assert shown in markdown
            assert (row["normalizer"] == "rn") == (float(row["high"]) < -20)
    differences = [row for row in figures if row["figure"].endswith("IQM, minus that of none")]
    assert len(differences) == 6
    assert "Caveats" in html and "To mind" not in html


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt-get install chromium")
def test_a_click_sorts_a_table(page, tmp_path):
    """Clicks, by a script that this test allows, on the column of returns: once, and once more."""
    probe = tmp_path / "probe.html"
    ask = (
        "<script>const head = document.querySelectorAll('.verdicts th')[3]; const seen = () => "
        "[...document.querySelectorAll('.verdicts td:nth-child(4)')].map(c => parseFloat(c.textContent));"
        "head.click(); const up = seen(); head.click(); console.error(up + '; ' + seen())</script></body>"
    )
    text = re.sub(r'<meta http-equiv="Content-Sec[^>]*>', "", page.read_text())
    probe.write_text(text.replace("</body>", ask))
    _, said = browse(probe, tmp_path)
    told = re.search(r'"(.*?; .*?)"', said[0])
    up, down = ([float(x) for x in part.split(",")] for part in told[1].split(";"))
    assert len(up) == 6 and up == sorted(up) and down == sorted(up, reverse=True)


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt-get install chromium")
def test_learning_curves_are_the_largest_pictures_and_the_verdicts_fit(page, tmp_path):
    probe = tmp_path / "probe.html"
    ask = (
        "<script>const sizes = [...document.querySelectorAll('figure svg')].map(picture => { const box = "
        "picture.getBoundingClientRect(); const name = picture.getAttribute('aria-label'); return "
        "name.split(' of ')[0] + '=' + Math.round(box.width) + 'x' + Math.round(box.height); });"
        "const table = document.querySelector('.verdicts'); sizes.push('table=' + table.scrollWidth + "
        "'x' + table.parentNode.clientWidth); console.error(sizes.join(' '))</script></body>"
    )
    text = re.sub(r'<meta http-equiv="Content-Sec[^>]*>', "", page.read_text())
    probe.write_text(text.replace("</body>", ask))
    _, said = browse(probe, tmp_path)
    found = re.findall(r"(\w[\w ]*)=(\d+)x(\d+)", said[0])
    areas: dict[str, set[int]] = {}
    for name, width, height in found:
        areas.setdefault(name.strip(), set()).add(int(width) * int(height))
    table = next((int(w), int(h)) for name, w, h in found if name.strip() == "table")
    assert table[0] <= table[1]  # no column of the verdicts is hidden
    curves = min(areas.pop("learning curves"))
    del areas["table"]
    assert "performance profiles" in areas and len(areas) >= 4
    assert max(max(each) for each in areas.values()) < 0.9 * curves
    assert max(areas["performance profiles"]) < 0.5 * curves


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt-get install chromium")
def test_the_page_in_a_browser_light_dark_and_on_a_phone(page, tmp_path):
    light, said = browse(page, tmp_path)
    assert said == []
    dark, said = browse(page, tmp_path, "--force-dark-mode")
    assert said == []
    assert light[0, 0, :3].min() > 0.95 and dark[0, 0, :3].max() < 0.2  # the page itself
    assert len(np.unique(light.reshape(-1, light.shape[2]), axis=0)) > 200  # pictures in colours
    # what is wider than a phone scrolls by itself; the page does not
    probe = tmp_path / "probe.html"
    ask = "<script>console.error(document.documentElement.scrollWidth)</script></body>"
    text = page.read_text().replace("</body>", ask)
    probe.write_text(text)
    _, said = browse(probe, tmp_path, width=500)
    assert "violates" in said[0]  # a script that is not ours does not run
    probe.write_text(re.sub(r'<meta http-equiv="Content-Sec[^>]*>', "", text))
    _, said = browse(probe, tmp_path, width=500)
    assert re.search(r'"500"', said[0])  # and the probe shows that errors would be seen


def test_a_nan_is_not_as_good_as_the_best(tmp_path):
    for norm in ("none", "ln"):
        for seed in range(12):
            returns = np.full((3, 2), 500.0)
            if (norm, seed) == ("ln", 3):
                returns[-1] = np.nan
            made_up_run(tmp_path, norm, seed, returns)
    summary = summary_of(tmp_path)
    assert summary.tasks[0].arms["ln"].last[3] == 22
    assert summary.comparisons[0].improvement.value < 0.5
    assert "the same in every run" not in summary.sentences()[0]


def test_steps_and_areas_are_of_each_runs_own_evaluations(tmp_path):
    """A run that was evaluated half as often does not change the figures of the others."""
    for seed in range(4):
        made_up_run(tmp_path, "none", seed, np.array([[480.0], [480.0], [10.0], [10.0]]))
    made_up_run(tmp_path, "none", 4, np.array([[480.0], [10.0]]))
    found = summary_of(tmp_path).tasks[0].arms["none"]
    assert found.steps.tolist() == [12_500] * 4 + [25_000]
    assert found.figures["reached threshold"].value == 1
    short = made_up_run(tmp_path, "ln", 0, np.full((4, 1), 100.0))
    stored = dict(np.load(short.evaluations_file))
    np.savez(short.evaluations_file, **{k: v[:1] for k, v in stored.items()})
    final = {"timesteps": 50_000, "mean_return": 100.0, "episodes": 5}
    short.final_file.write_text(json.dumps(final))
    summary = summary_of(tmp_path)
    assert np.isnan(summary.tasks[0].arms["ln"].areas).all()
    assert any("its evaluations end at timestep 12,500" in p.what for p in summary.problems)


def test_runs_without_a_common_evaluation_are_drawn_at_their_end(tmp_path):
    made_up_run(tmp_path, "none", 0, np.array([[5.0]]))
    made_up_run(tmp_path, "none", 1, np.arange(7.0)[:, None])
    steps, rows = summary_of(tmp_path).tasks[0].arms["none"].curves
    assert len(steps) == 1 and rows.shape == (2, 1)


@pytest.mark.parametrize("content", ["[]", "null", '{"timesteps": null}', "{", '{"timesteps": 1}'])
def test_any_final_json_is_named_and_costs_nothing_else(tmp_path, content):
    run = made_up_run(tmp_path, "none", 0, np.full((3, 2), 5.0))
    run.final_file.write_text(content)
    records, problems = read_records([run.folder])
    assert records[0].last_return == 5 and "final.json is damaged" in problems[0].what


@pytest.mark.parametrize(
    ("name", "value"), [("timesteps", "50k"), ("norm", None), ("seed", "x"), ("together", None)]
)
def test_a_run_yaml_with_a_wrong_value_is_named(tmp_path, name, value):
    run = made_up_run(tmp_path, "none", 0, np.full((3, 2), 5.0))
    write_yaml(run.spec_file, {**vars(run.read_spec()), name: value})
    records, problems = read_records([run.folder])
    assert not records and f"{name}: expected" in problems[0].what


@pytest.mark.parametrize("file", ["evaluations.npz", "code_length.npz"])
@pytest.mark.parametrize("damage", ["cut", "npy", "shape", "flipped"])
def test_any_damaged_array_file_is_named(tmp_path, file, damage):
    run = made_up_run(tmp_path, "rn", 0, np.full((3, 2), 5.0))
    path = run.folder / file
    whole = path.read_bytes()
    stored = dict(np.load(path))
    if damage == "cut":
        path.write_bytes(whole[: len(whole) // 2])
    elif damage == "npy":
        np.save(run.folder / "x.npy", np.zeros(3))
        (run.folder / "x.npy").replace(path)
    elif damage == "shape":
        np.savez(path, **{**stored, "timesteps": stored["timesteps"][::-1]})
    else:
        path.write_bytes(whole[:20] + bytes(b ^ 255 for b in whole[20:60]) + whole[60:])
    _, problems = read_records([run.folder])
    assert problems and file in problems[0].what


def test_brackets_of_a_path_are_no_markup(tmp_path, capsys):
    root = tmp_path / "runs [old] [/x] é"
    fill(root, {"none": 100, "ln": 110}, seeds=2)
    assert main(["report", str(root), "--out", str(root / "page.html")]) == 0
    assert f"report: {root}/page.html" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "runs nowhere: no such folder"),
        (["."], "no finished run among 0 folders"),
        ([], "RUNS"),
        ([".", "--out", "."], "--out .: expected the name of a page"),
        ([".", "--threshold", "inf"], "--threshold inf: expected a return"),
        ([".", "--endpoint", "best"], "--endpoint best: expected last or area"),
        (
            [".", "--equivalence", "0"],
            "--equivalence 0.0: expected a difference of returns above 0",
        ),
        ([".", "--episodes", "0"], "--episodes 0: expected at least 1"),
    ],
)
def test_bad_input(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["report", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_a_page_that_cannot_be_written(page, capsys):
    runs = str(page.parent.parent)
    assert main(["report", runs, "--out", f"{page}/page.html"]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_an_agent_from_elsewhere_joins(page, tmp_path, capsys):
    from stable_baselines3 import DQN
    from torch import nn

    model = DQN("MlpPolicy", "CartPole-v1", policy_kwargs={"net_arch": [256, 256]})
    folder = tmp_path / "dqn" / "CartPole-v1_1"
    folder.mkdir(parents=True)
    model.save(folder / "CartPole-v1.zip")
    out = tmp_path / "page.html"
    runs = str(page.parent.parent)
    assert main(["report", runs, "--out", str(out), "--agent", str(folder)]) == 0
    assert "one agent, so nothing about other seeds" in out.read_text()
    odd = DQN("MlpPolicy", "CartPole-v1", policy_kwargs={"net_arch": [7]})
    odd.save(folder / "CartPole-v1.zip")
    assert main(["report", runs, "--out", str(out), "--agent", str(folder)]) == 0
    odd = DQN("MlpPolicy", "CartPole-v1", policy_kwargs={"activation_fn": lambda: nn.Tanh()})
    odd.save(folder / "CartPole-v1.zip")
    capsys.readouterr()
    assert main(["report", runs, "--out", str(out), "--agent", str(folder)]) == 2
    assert "give --trust to open the pickle" in capsys.readouterr().err
    assert main(["report", runs, "--out", str(out), "--agent", str(folder), "--trust"]) == 0
    stray = tmp_path / "stray.zip"
    odd.save(stray)
    assert main(["report", runs, "--out", str(out), "--agent", str(stray)]) == 2
    assert "cannot tell which of CartPole-v1, LunarLander-v3 it is for" in capsys.readouterr().err


def test_the_returns_of_a_final_evaluation_go_before_those_of_the_training(tmp_path):
    run = made_up_run(tmp_path, "none", 0, np.full((3, 2), 5.0))
    final = {"timesteps": 50_000, "mean_return": 9.5, "episodes": 20}
    run.final_file.write_text(json.dumps(final))
    records, _ = read_records([run.folder])
    assert (records[0].last_return, records[0].episodes, records[0].held_out) == (9.5, 20, True)


def test_the_docs_show_the_recorded_comparison():
    root = Path(__file__).parents[2]
    block = (root / "docs/results/paper-settings.md").read_text().split("<!-- compare -->\n")[1]
    block = block.split("<!-- /compare -->")[0]
    recorded = (root / "results" / "compare.md").read_text()
    sentences = [line for line in block.splitlines() if line.startswith("- ")]
    assert sentences and all(line in recorded for line in sentences)
    figures = list(csv.DictReader((root / "results/compare-figures.csv").read_text().splitlines()))
    for line in [line for line in block.splitlines() if line.startswith("| dqn")]:
        task, norm, _, last, area, _ = [cell.strip() for cell in line.strip("|").split("|")]
        for name, shown in (("last return, IQM", last), ("area under curve, IQM", area)):
            row = next(
                r
                for r in figures
                if (r["task"], r["normalizer"], r["figure"]) == (task, norm, name)
            )
            found = Estimate(*(float(row[column]) for column in ("value", "low", "high")))
            assert str(found) == shown
