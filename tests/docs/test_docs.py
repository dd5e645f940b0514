"""The documentation: it builds without a warning, examples run, commands parse, links resolve."""

import csv
import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import mannwhitneyu

from rn_rl import cli

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
ENGINE = ROOT / "rn_rl" / "engine" / "README.md"
NOTEBOOKS = sorted(DOCS.rglob("*.ipynb"))
PAGES = sorted(
    [*DOCS.rglob("*.md"), *NOTEBOOKS, ENGINE, ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
)
SKIP = "<!-- not run: "
"""A comment before a code block that takes long, followed by the reason."""


def name(page):
    return page.relative_to(ROOT).as_posix()


def text_of(page):
    """The Markdown of a page; of a notebook that of its cells, without outputs."""
    if page.suffix == ".md":
        return page.read_text()
    cells = [(cell["cell_type"], "".join(cell["source"])) for cell in cells_of(page)]
    return "\n\n".join(
        source
        if kind == "markdown"
        else f"```{'' if source[0] == '!' else 'python'}\n{source}\n```"
        for kind, source in cells
    )


def cells_of(notebook):
    return json.loads(notebook.read_text())["cells"]


def blocks(page, language):
    """The fenced blocks of a page, without those that a comment excepts."""
    text = re.sub(rf"{re.escape(SKIP)}[^>]+-->\n+```.*?\n```", "", text_of(page), flags=re.DOTALL)
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def commands(page):
    lines = [
        line.lstrip("!").split(" | ")[0]
        for block in blocks(page, "")
        for line in block.splitlines()
    ]
    return [line for line in lines if line.startswith("rn-rl ") and "--tyro-" not in line]


ELSEWHERE = ("README.md", "three-days.md")  # whose Python other tests run
WITH_PYTHON = [p for p in PAGES if blocks(p, "python") and p.name not in ELSEWHERE]
LINES = [(name(page), line) for page in PAGES for line in commands(page)]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The built site; a warning of MkDocs fails the build."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    env = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    return folder


def test_there_are_examples_to_check():
    assert len(WITH_PYTHON) >= 7 and len(LINES) >= 30


LEAVES = {"tune.md": "tuning/study.db", "track.md": "runs/wandb/offline-run-*/run-*.wandb"}
"""Files of an example whose commands print errors, and do not raise them."""


@pytest.mark.parametrize("page", WITH_PYTHON, ids=name)
def test_the_python_of_a_page_runs(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)  # some examples save a file
    monkeypatch.setenv("WANDB_MODE", "offline")  # is as it was again after the test
    monkeypatch.setenv("WANDB_SILENT", "true")
    names: dict = {"__name__": "docs_example"}
    for block in blocks(page, "python"):
        if "runs/report" not in block:  # made by a command that takes minutes: the slow test below
            exec(re.sub(r"learn\((100|4)_000", "learn(64", block), names)
    if page.name in LEAVES:
        assert list(tmp_path.glob(LEAVES[page.name]))
    if page.name == "tune.md":
        told = capsys.readouterr().out
        for norm in ("none", "ln"):
            assert f"\nppo CartPole-v1 {norm} 512 timesteps 2 " in f"\n{told}"


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=name)
def test_the_outputs_of_a_notebook_are_saved(notebook):
    code = [cell for cell in cells_of(notebook) if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell["outputs"]]
    assert all(output["output_type"] in ("stream", "display_data") for output in outputs)
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert notebook.stat().st_size < 200_000


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=name)
def test_a_notebook_runs(notebook, tmp_path):
    """Executed as a user would, in a process of its own; an error in a cell fails it."""
    script = (
        "import nbformat, nbclient, sys\n"
        "notebook = nbformat.read(sys.argv[1], 4)\n"
        "nbclient.NotebookClient(notebook, timeout=1800, kernel_name='python3').execute()\n"
        "nbformat.write(notebook, 'executed.ipynb')\n"
    )
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "MPLBACKEND": ""}
    command = [sys.executable, "-c", script, str(notebook)]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    executed = tmp_path / "executed.ipynb"
    for old, new in zip(cells_of(notebook), cells_of(executed), strict=True):
        kinds = [
            {output["output_type"] for output in cell.get("outputs", [])} for cell in (old, new)
        ]
        assert kinds[0] == kinds[1], "".join(old["source"])


@pytest.mark.parametrize(("page", "line"), LINES, ids=[f"{page}: {line}" for page, line in LINES])
def test_a_command_parses(page, line):
    assert (
        cli.parse(cli.subcommands(cli.COMMANDS), shlex.split(line)[1:], "rn-rl", None) is not None
    )


def test_a_mistyped_flag_would_be_found():
    with pytest.raises(cli.UserError):
        cli.parse(cli.subcommands(cli.COMMANDS), ["train", "--allgo", "ppo"], "rn-rl", None)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_resolve_in_the_repository(page):
    for link in re.findall(r"\]\(([^)#\s]+)", text_of(page)):
        if "://" not in link:
            assert (page.parent / link).exists(), link


def test_every_page_is_in_the_navigation():
    text = (ROOT / "mkdocs.yml").read_text()
    for page in (*DOCS.rglob("*.md"), *NOTEBOOKS):
        assert page.relative_to(DOCS).with_suffix(".md").as_posix() in text


def test_the_site_requests_nothing_from_other_hosts(site):
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 40
    for page in pages:
        for tag in re.findall(
            r"<(?:script|link|img|iframe|source|video)\b[^>]*>", page.read_text()
        ):
            assert not re.search(r"""(?:src|href)=["']?(?:https?:)?//""", tag), f"{page}: {tag}"
    for sheet in site.rglob("*.css"):
        assert not re.search(r"url\(\s*[\"']?(?:https?:)?//|@import", sheet.read_text()), sheet


def test_links_of_the_site_resolve(site):
    found = 0
    for page in site.rglob("*.html"):
        if page.name == "404.html" or page.parent.name == "reports":
            continue  # the former has absolute links; the latter are reports, one file each
        for link in re.findall(r'(?:href|src)="([^"#?]+)', page.read_text()):
            if not re.match(r"[a-z]+:", link):
                assert (page.parent / link).exists(), f"{page.relative_to(site)}: {link}"
                found += 1
    assert found > 1000


def test_a_notebook_is_a_page_with_its_outputs(site):
    text = (site / "tutorials/layernorm.html").read_text()
    assert 'src="data:image/png;base64,' in text and "probability of improvement" in text
    assert 'href="layernorm.ipynb"' in text


def test_formulas_are_mathml(site):
    text = (site / "concepts/regularity.html").read_text()
    assert text.count("<math") > 10 and "arithmatex" not in text


EXAMPLES = {
    "clip.py",
    "qrdqn.py",
    "commit_cost.py",
    "seeds.py",
    "corridor.py",
    "dqn.py",
    "homeostatic.py",
    "ppo-ln.yml",
    "ppo-none.yml",
}
"""Files that a worked example has the reader write, or names without a folder."""


def test_files_named_in_pages_exist():
    """A path in code font is one of the repository, from its root or from a folder of the library."""
    bases = [ROOT, *(ROOT / "rn_rl" / room for room in ("", "experiment", "agents", "engine"))]
    pages = [ROOT / "CONTRIBUTING.md", ROOT / "README.md", ENGINE, *sorted(DOCS.rglob("*.md"))]
    named = 0
    for page in pages:
        for path in re.findall(
            r"`((?:[\w.-]+/)+[\w-]+\.(?:py|yml|json|jinja|css))`", page.read_text()
        ):
            if path.rpartition("/")[2] not in EXAMPLES:
                named += 1
                assert any((base / path).exists() for base in bases), f"{page.name}: {path}"
    assert named > 10


def figures(file):
    """The figures of a CSV file of a report: (normalizer, figure) to (value, low, high)."""
    with (ROOT / "results" / f"{file}-figures.csv").open() as lines:
        return {
            (row["normalizer"], row["figure"]): [
                float(row[k] or "nan") for k in ("value", "low", "high")
            ]
            for row in csv.DictReader(lines)
        }


@pytest.mark.parametrize("page", ["README.md", "docs/index.md", "results/findings.md"])
def test_the_numbers_of_the_findings_are_those_on_record(page):
    text = (ROOT / page).read_text()
    ppo, dqn = (figures(f"standard-lunarlander-{algo}") for algo in ("ppo", "dqn"))
    for norm in ("none", "ln"):
        mean, low, high = ppo[norm, "last return, IQM"]
        assert f"{mean:.0f} [{low:.0f}, {high:.0f}]" in text
        assert f"{ppo[norm, 'steps to threshold, median'][0]:,.0f}" in text
    rn, none, ln = (dqn[norm, "last return, IQM"] for norm in ("rn", "none", "ln"))
    assert f"{rn[0]:.0f} against {none[0]:.0f}" in text
    if page == "results/findings.md":
        assert f"{ln[0]:.0f} [{ln[1]:.0f}, {ln[2]:.0f}]" in text
    else:
        assert f"{ln[0]:.0f} against {none[0]:.0f}" in text

    with (ROOT / "results/redbluedoors.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    rn_runs, none_runs = (
        [float(row["last_50_episodes"]) for row in rows if row["arm"] == arm]
        for arm in ("rn", "none")
    )
    p = mannwhitneyu(rn_runs, none_runs).pvalue
    assert f"p = {p:.3f}" in text or f"{p:.3f} before" in text


def test_the_errors_on_digits_are_those_on_record():
    """The table of the page is that of the CSV file, in the order of its columns."""
    with (ROOT / "results/tasks/mnist/imbalanced.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    page = (ROOT / "docs/results/tasks.md").read_text()
    for arm in ("none", "ln", "rn-paper", "ln+rn-paper", "rn", "logt"):
        runs = [row for row in rows if row["arm"] == arm]
        assert len(runs) == 20
        some, every = (np.mean([float(r[k]) for r in runs]) for k in ("error_128", "error_all"))
        [line] = [text for text in page.splitlines() if text.startswith(f"| `{arm}` |")]
        told = [cell.split(" [")[0].strip(" *") for cell in line.split("|")[2:4]]
        assert told == [f"{some:.1f}", f"{every:.1f}"]


def test_the_picture_of_the_readme_is_of_the_report_on_record():
    spec = importlib.util.spec_from_file_location("picture", DOCS / "picture.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    report = (ROOT / "results/standard-lunarlander-ppo.html").read_text()
    picture = ROOT / "results/standard-lunarlander-ppo.svg"
    assert picture.read_text() == module.picture(report)


def test_speeds_in_the_readme_are_those_on_record():
    """Each row of the README's table is a row of the page of speeds, rounded."""
    table = (ROOT / "README.md").read_text().split("| speed relative to SB3 |")[1].split("\n\n")[0]
    said = re.findall(r"\| (\d+) \| ([\d.]+) \|$", table, re.MULTILINE)
    page = (ROOT / "docs/results/speed.md").read_text()
    recorded = re.findall(r"\| (\d+) \| [\d,]+ \| ([\d.]+) \| +\|$", page, re.MULTILINE)
    assert len(said) == 6
    for seeds, speed in said:
        digits = len(speed.partition(".")[2])
        assert any(seeds == s and speed == f"{float(r):.{digits}f}" for s, r in recorded), (
            seeds,
            speed,
        )
