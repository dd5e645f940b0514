"""Figures and tables for a paper: literal colours, fonts, sizes, colour vision, LaTeX."""

import itertools
import re
import shutil
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import matplotlib.colors
import matplotlib.image
import matplotlib.text
import numpy as np
import pytest

from rn_rl.analysis import drawing, paper, plots
from rn_rl.analysis.latex import escape
from rn_rl.analysis.tables import Estimate
from rn_rl.cli import main
from tests.analysis.test_report import fill, summary_of

ROOT = Path(__file__).parents[2]
NORMS = {"none": 100, "ln": 180, "ln+rn(half_life=2000)": 101}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    fill(root, NORMS, seeds=4, evaluations=6)
    fill(root, {"none": 100, "ln": 110}, seeds=4, env="LunarLander-v3", evaluations=6)
    return root


@pytest.fixture(scope="module")
def summary(root):
    return summary_of(root)


@pytest.fixture(scope="module")
def folder(root):
    """Files of ``report --figures pdf,svg,png --tex``."""
    page = root / "page.html"
    assert main(["report", str(root), "--out", str(page), "--figures", "pdf,svg", "--tex"]) == 0
    return page.with_name("page-paper")


# Machado, Oliveira and Fernandes (2009), severity 1, for linear RGB
DEUTERANOPIA = np.array(
    [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]]
)
XYZ = np.array(
    [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.072175],
        [0.0193339, 0.119192, 0.9503041],
    ]
)


def lab_seen(color):
    """CIELAB of a colour as a deuteranope sees it."""
    c = np.array(matplotlib.colors.to_rgb(color))
    linear = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
    x, y, z = XYZ @ np.clip(DEUTERANOPIA @ linear, 0, 1) / [0.95047, 1, 1.08883]
    x, y, z = (np.cbrt(v) if v > 216 / 24389 else (24389 / 27 * v + 16) / 116 for v in (x, y, z))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def page_colors(dark):
    """The eight colours of a page's normalizers, in light or dark mode."""
    light, night = drawing.css().split("@media")
    return re.findall(r"--s\d: (#\w{6});", night if dark else light)


@pytest.mark.parametrize("where", ["paper", "light", "dark"])
def test_eight_normalizers_differ_for_a_deuteranope_or_by_their_dashes(where):
    colors = drawing.OKABE_ITO if where == "paper" else page_colors(where == "dark")
    assert len(colors) == len(drawing.SERIES) == 8
    palette = drawing.Palette([f"n{i}" for i in range(8)], colors)
    alike = 0
    for one, other in itertools.combinations(palette.looks, 2):
        mine, theirs = palette[one], palette[other]
        seen = np.linalg.norm(lab_seen(mine["color"]) - lab_seen(theirs["color"]))
        alike += seen < 15
        assert seen >= 15 or mine["linestyle"] != theirs["linestyle"], (one, other, seen)
    assert alike == 0 or where != "paper"
    # orange and olive, which the simulation shows as one colour
    assert np.linalg.norm(lab_seen("#d55e00") - lab_seen("#a39200")) < 5


def test_thirty_two_normalizers_have_looks_of_their_own():
    palette = drawing.Palette([f"n{i}" for i in range(32)])
    assert len({(color, str(dash)) for color, dash, _ in palette.looks.values()}) == 32
    assert palette["a published result"]["linestyle"] == "solid"


def test_every_text_has_at_least_seven_points_and_a_place_in_the_figure(summary):
    for each in paper.paper_figures(summary):
        for width in paper.WIDTHS.values():
            with drawing.style(paper.STYLE):
                figure = each.draw(width)
                figure.draw_without_rendering()
            assert figure.get_size_inches()[0] == pytest.approx(width)
            texts = [t for t in figure.findobj(matplotlib.text.Text) if t.get_text()]
            assert texts and min(t.get_fontsize() for t in texts) >= 7
            drawn = figure.get_tightbbox()
            height = figure.get_size_inches()[1]
            told = f"{each.name}: {drawn} in {width} by {height}"
            assert min(drawn.x0, drawn.y0) > -0.02, told
            assert drawn.x1 < width + 0.02 and drawn.y1 < height + 0.02, told


def test_a_plot_by_itself_has_literal_colours_and_a_background():
    """As of ``rn-rl reproduce`` and ``task``: programs other than browsers know no CSS variables."""
    rng = np.random.default_rng(0)
    arms = {name: rng.normal(100, 5, (4, 8)) for name in ("none", "ln")}
    rows = [(name, Estimate(100.0, 95.0, 105.0)) for name in arms]
    text = plots.training(rows, arms, 1000, "a study")
    root = ElementTree.fromstring(text)
    page = root[0]
    assert page.tag.endswith("rect") and page.get("fill") == "#ffffff"
    assert (page.get("width"), page.get("height")) == ("100%", "100%")
    assert "var(" not in text and "--" not in re.sub("<!--.*?-->", "", text)
    assert not re.search("#0102[0-9a-f]{2}", text)
    colors = set(re.findall("stroke: (#[0-9a-f]{6})", text))
    assert {"#3b424a", "#0072b2"} <= colors  # the first two of light mode


@pytest.mark.parametrize("path", sorted((ROOT / "results").rglob("*.svg")), ids=lambda p: p.stem)
def test_the_recorded_plots_need_no_browser(path):
    text = path.read_text()
    assert "var(" not in text and ElementTree.fromstring(text)[0].get("fill") == "#ffffff"


def test_files_at_both_widths_with_literal_colours(folder):
    names = ["curves", "returns", "forest", "profiles"]
    names += ["curves-dqn-on-CartPole-v1", "curves-dqn-on-LunarLander-v3"]
    expected = {f"{n}-{w}.{s}" for n in names for w in ("single", "double") for s in ("pdf", "svg")}
    expected |= {"tables.tex", "figures.tex", "paper.tex"}
    assert {path.name for path in folder.iterdir()} == expected
    for path in folder.glob("*.svg"):
        text = path.read_text()
        assert "var(--" not in text and "<text" not in text
        assert not re.search("#0102[0-9a-f]{2}", text)  # placeholders of a page
        if path.name.startswith("curves"):
            assert drawing.OKABE_ITO[1] in text


@pytest.mark.skipif(shutil.which("pdffonts") is None, reason="no pdffonts: poppler-utils")
def test_fonts_are_embedded_and_truetype(folder):
    for path in sorted(folder.glob("*.pdf")):
        told = subprocess.run(["pdffonts", path], capture_output=True, text=True, check=True)
        fonts = told.stdout.splitlines()[2:]
        assert fonts and all("TrueType" in font and " yes yes " in font for font in fonts)


@pytest.mark.skipif(shutil.which("rsvg-convert") is None, reason="no rsvg-convert: librsvg2-bin")
def test_an_svg_shows_its_curves_outside_a_browser(folder, tmp_path):
    png = tmp_path / "curves.png"
    command = ["rsvg-convert", "-z", "4", folder / "curves-single.svg", "-o", png]
    subprocess.run(command, check=True)
    pixels = matplotlib.image.imread(png)[..., :3].reshape(-1, 3)
    for color in drawing.OKABE_ITO[:3]:
        near = np.abs(pixels - matplotlib.colors.to_rgb(color)).max(1) < 0.02
        assert near.sum() > 50, color


def test_the_same_runs_give_the_same_files(summary, folder, tmp_path):
    [forest] = [each for each in paper.paper_figures(summary) if each.name == "forest"]
    for suffix in ("pdf", "svg"):
        with drawing.style(paper.STYLE):
            paper.save(
                paper.laid_out(forest, paper.WIDTHS["single"]), tmp_path / f"forest.{suffix}"
            )
        again = (tmp_path / f"forest.{suffix}").read_bytes()
        assert again == (folder / f"forest-single.{suffix}").read_bytes()


def test_the_latex_has_the_numbers_of_the_report(summary, folder):
    tables, figures = ((folder / f"{name}.tex").read_text() for name in ("tables", "figures"))
    for task in summary.tasks:
        assert task.name in tables
        for norm, arm in task.arms.items():
            last = str(arm.figures["last return, IQM"])
            assert re.search(
                rf"^(\\textbf{{)?{re.escape(escape(norm))}}}? & 4 & {re.escape(last)} & ",
                tables,
                re.MULTILINE,
            )
    for each in summary.comparisons:
        assert f"{each.improvement} & {each.corrected:.2g} & {each.verdict}" in tables
    for text in (tables, figures, (folder / "paper.tex").read_text()):
        opened = re.findall(r"\\begin{(.*?)}", text)
        assert sorted(opened) == sorted(re.findall(r"\\end{(.*?)}", text)) and opened
        bare = re.sub(r"(?<!\\)%.*", "", text)
        assert not re.search(r"(?<!\\)[#~^]", bare)
    for name in re.findall(r"\\includegraphics\[.*?\]{(.*?)}", figures):
        assert (folder / f"{name}.pdf").is_file()
    rows = [line for line in tables.splitlines() if line.endswith(r"\\") and "multicol" not in line]
    assert len({line.count(" & ") for line in rows}) == 2  # of the two tables


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex: texlive-latex-base")
def test_the_document_compiles(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "tex")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    done = subprocess.run(command, cwd=tmp_path / "tex", capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Overfull" not in done.stdout, done.stdout[-4000:]


def test_text_is_printed_by_latex_as_it_is():
    assert escape("a_b 50% & {x} #1 \\ ~^$ é \u2014 \u5b66") == (
        r"a\_b 50\% \& \{x\} \#1 \textbackslash{} \textasciitilde{}\textasciicircum{}\$ "
        r"é --- \textbackslash{}u5b66"
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("jpg", "unknown format of --figures 'jpg'. Did you mean 'png'? (known: pdf, svg, png)"),
        (",", "--figures ',': expected one or more of pdf, svg, png"),
    ],
)
def test_a_wrong_format_is_one_line(root, capsys, given, message):
    assert main(["report", str(root), "--figures", given]) == 2
    assert message in capsys.readouterr().err
