"""Strokes, their files, and the mixture density against torch's distributions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from rn_rl import CodeLengthProbe
from rn_rl.errors import UserError
from rn_rl.tasks.handwriting.files import read_lines, read_strokes
from rn_rl.tasks.handwriting.mixture import Mixture, outputs
from rn_rl.tasks.handwriting.network import HandwritingNetwork
from rn_rl.tasks.handwriting.strokes import offsets, resample, strokes_of, write_lines
from rn_rl.tasks.handwriting.task import Handwriting, load, split
from rn_rl.tasks.seeding import seed_torch


def test_strokes_and_offsets_are_one_another():
    strokes = [np.array([[0.0, 0], [1, 2], [3, 2]]), np.array([[4.0, 1], [4, 0]])]
    sequence = offsets(strokes)
    assert sequence.tolist() == [[1, 2, 0], [2, 0, 1], [1, -1, 0], [0, -1, 1]]
    back = strokes_of(sequence)
    assert [stroke.tolist() for stroke in back] == [stroke.tolist() for stroke in strokes]


def test_points_are_at_equal_distances():
    corner = np.array([[0.0, 0], [1, 0], [1, 1]])
    points = resample(corner, 0.26)
    assert len(points) == 9
    np.testing.assert_allclose(points[[0, 4, 8]], corner)
    np.testing.assert_allclose(np.hypot(*np.diff(points, axis=0).T), 0.25)


def test_lines_are_written_as_the_page_says():
    lines = write_lines(40, 120, np.random.default_rng(0))
    assert lines.shape == (40, 120, 3) and lines.dtype == np.float32
    assert set(np.unique(lines[..., 2])) == {0, 1}
    assert 0.02 < lines[..., 2].mean() < 0.12, "share of points after which the pen is lifted"
    drawn = lines[..., 2][:, :-1] == 0
    steps = np.hypot(*lines[:, 1:, :2][drawn].T)
    assert abs(np.median(steps) - 0.08) < 0.01, "distance of two points of a stroke, in em"
    width = np.ptp(np.cumsum(lines[..., 0], 1), axis=1)
    height = np.ptp(np.cumsum(lines[..., 1], 1), axis=1)
    assert np.median(width / height) > 1, "letters stand beside each other"
    assert (lines == write_lines(40, 120, np.random.default_rng(0))).all()
    assert (lines != write_lines(40, 120, np.random.default_rng(1))).any()


def test_density_is_that_of_torchs_distributions():
    output = torch.randn(4, 5, outputs(3), dtype=torch.float64)
    points = torch.randn(4, 5, 3, dtype=torch.float64)
    points[..., 2] = (points[..., 2] > 0).double()
    mixture = Mixture.of(output)
    sigma, rho = mixture.log_sigmas.exp(), mixture.correlations
    covariance = torch.diag_embed(sigma.square())
    covariance[..., 0, 1] = covariance[..., 1, 0] = rho * sigma.prod(-1)
    each = MultivariateNormal(mixture.means, covariance)
    offset = MixtureSameFamily(Categorical(logits=mixture.log_weights), each)
    pen = torch.distributions.Bernoulli(logits=mixture.pen)
    expected = -offset.log_prob(points[..., :2]) - pen.log_prob(points[..., 2])
    torch.testing.assert_close(mixture.negative_log_likelihood(points), expected)


def test_samples_have_the_moments_of_the_mixture():
    output = torch.tensor([0.3, 0.5, -0.5, 2, -1, 1, 0.5, -0.5, 0.1, 0.2, -0.3, 1.0, -2.0])
    mixture = Mixture.of(output.expand(40_000, -1))
    points = mixture.sample(1.0, torch.Generator().manual_seed(0)).double()
    weights, means = mixture.log_weights[0].exp().double(), mixture.means[0].double()
    sigma, rho = mixture.log_sigmas[0].exp().double(), mixture.correlations[0].double()
    mean = weights @ means
    second = torch.diag_embed(sigma.square())
    second[:, 0, 1] = second[:, 1, 0] = rho * sigma.prod(-1)
    second = (weights[:, None, None] * (second + means[:, :, None] * means[:, None])).sum(0)
    torch.testing.assert_close(points[:, :2].mean(0), mean, atol=0.03, rtol=0)
    torch.testing.assert_close(
        torch.cov(points[:, :2].T), second - torch.outer(mean, mean), atol=0.06, rtol=0
    )
    assert abs(points[:, 2].mean() - torch.sigmoid(torch.tensor(0.3))) < 0.01
    cold = mixture.sample(0.01, torch.Generator().manual_seed(0))
    assert cold[:, :2].std(0).max() < 0.2 and cold[:, 2].mean() == 1


def test_extreme_outputs_give_finite_densities_and_gradients():
    output = torch.tensor([[1e4] * 13, [-1e4] * 13], requires_grad=True)
    loss = Mixture.of(output).negative_log_likelihood(torch.ones(2, 3)).sum()
    loss.backward()
    assert loss.isfinite() and output.grad.isfinite().all()


@torch.no_grad()
def test_a_point_is_predicted_from_those_before_it():
    seed_torch(0)
    net = HandwritingNetwork("ln", points=6, hidden=8).eval()
    lines = torch.randn(2, 6, 3)
    changed = lines.clone()
    changed[0, 3] += 1
    before, after = net(lines), net(changed)
    same = (before.means == after.means).flatten(2).all(-1)
    assert same.tolist() == [[True] * 4 + [False] * 2, [True] * 6]


def test_training_lowers_the_nats():
    train, _ = load(0, None, toy=True)
    seed_torch(0)
    net = HandwritingNetwork("ln+rn", train.shape[1])
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        losses.append(net(train).negative_log_likelihood(train).mean())
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < losses[0] - 2
    lines = net.eval().sample(3, 0.5, torch.Generator().manual_seed(0))
    assert lines.shape == (3, 6, 3) and lines.isfinite().all()
    assert set(lines[..., 2].unique().tolist()) <= {0.0, 1.0}


def test_the_probe_attaches():
    net = HandwritingNetwork("rn", points=6, hidden=8)
    with CodeLengthProbe(net) as probe:
        net.train()(torch.randn(2, 6, 3))
        observed = set(probe.commit())
    assert {"output", *(f"cell.cell@{t}" for t in range(6))} <= observed  # by time step


IAM = """<?xml version="1.0" encoding="ISO-8859-1"?>
<WhiteboardCaptureSession>
  <WhiteboardDescription>
    <SensorLocation corner="top_left"/>
    <DiagonallyOppositeCoords x="6512" y="1376"/>
  </WhiteboardDescription>
  <StrokeSet>
    <Stroke colour="black" start_time="769.05" end_time="769.64">
      <Point x="1073" y="1058" time="769.05"/>
      <Point x="1072" y="1085" time="769.07"/>
      <Point x="1082" y="1105" time="769.08"/>
    </Stroke>
    <Stroke colour="black" start_time="769.70" end_time="769.90">
      <Point x="1176" y="1157" time="769.70"/>
      <Point x="1190" y="1158" time="769.71"/>
    </Stroke>
  </StrokeSet>
</WhiteboardCaptureSession>
"""


def test_iam_strokes(tmp_path):
    path = tmp_path / "a" / "a01-000u-01.xml"
    path.parent.mkdir()
    path.write_text(IAM, "latin-1")
    first, second = read_strokes(path)
    assert first.tolist() == [[1073, -1058], [1072, -1085], [1082, -1105]]
    assert len(second) == 2
    lines = read_lines(tmp_path, points=2).sequences  # 4 offsets are 2 sequences
    expected = np.array([[-1, -27, 0], [10, -20, 1], [94, -52, 0], [14, -1, 1]], float)
    expected[:, :2] /= 100  # the height of the line
    np.testing.assert_allclose(lines.reshape(4, 3), expected, rtol=1e-6)


BOMB = '<!DOCTYPE a [<!ENTITY b "c"><!ENTITY d "&b;&b;">]><a><Stroke><Point x="&d;" y="1"/></Stroke></a>'
OUTSIDE = '<!DOCTYPE a SYSTEM "file:///etc/passwd"><a><Stroke><Point x="1" y="1"/></Stroke></a>'


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no element found"),
        (IAM[:500], "expected a whole XML file"),
        ("<a/>", "no Stroke with a Point"),
        (IAM.replace('x="1072"', 'x="left"'), "line 10: a Point with"),
        (IAM.replace('x="1072"', 'x="nan"'), "line 10: a Point with"),
        (IAM.replace('x="1072" ', ""), "line 10: a Point with"),
        ('<a><Point x="1" y="1"/></a>', "outside a Stroke"),
        (BOMB, "declares the document type"),
        (OUTSIDE, "declares the document type"),
        (IAM.replace("ISO-8859-1", "foo-1"), "unknown encoding: foo-1; expected a whole XML file"),
    ],
)
def test_what_is_wrong_with_a_stroke_file_is_said_in_one_line(tmp_path, text, says):
    path = tmp_path / "line.xml"
    path.write_text(text, "latin-1")
    with pytest.raises(UserError, match=says) as error:
        read_strokes(path)
    assert "\n" not in str(error.value) and str(path) in str(error.value)


def stroke_files(folder, counts, points=6, scale=1.0):
    """Files of as many sequences of ``points`` points as ``counts`` says, all different."""
    rng, begin = np.random.default_rng(0), IAM[: IAM.index("    <Stroke ")]
    folder.mkdir(parents=True, exist_ok=True)
    for number, count in enumerate(counts):
        place = scale * np.cumsum(rng.normal(size=(count * points + 1, 2)), 0)
        text = "".join(f'<Point x="{x:.4f}" y="{y:.4f}"/>' for x, y in place)
        text = f"{begin}<Stroke>{text}</Stroke></StrokeSet></WhiteboardCaptureSession>"
        (folder / f"{number:03}.xml").write_text(text)
    return folder


def test_lines_of_a_file_are_all_for_training_or_all_for_testing(tmp_path):
    folder = stroke_files(tmp_path / "iam", [3, 1, 2, 4, 1, 3, 2, 1, 5])
    files = read_lines(folder, 6).files
    assert np.bincount(files).tolist() == [3, 1, 2, 4, 1, 3, 2, 1, 5]
    seen = set()
    for seed in range(20):
        test, train = split(files, 4, np.random.default_rng(seed))
        assert not set(files[test]) & set(files[train]) and len(train)
        assert len(test) >= 4 and set(test) | set(train) == set(range(22))
        seen |= set(files[test])
    assert seen == set(range(9))
    lengths = set(map(len, split(np.repeat([0, 1], [2, 20]), 4, np.random.default_rng(0))))
    assert lengths == {2, 20}, "one file is left for training"
    train, test = load(0, folder, toy=True)
    assert train.shape == (8, 6, 3) and test.shape == (4, 6, 3)


def test_a_single_file_is_split_by_sequence(tmp_path):
    stroke_files(tmp_path, [11])
    train, test = load(0, tmp_path, toy=True)
    assert len(train) == 8 and len(test) == 2
    assert "11 sequences of 1 file, " in Handwriting().protocol(tmp_path, toy=True)


def test_the_protocol_tells_strokes_by_content_and_has_their_numbers(tmp_path):
    """Four files, then forty: the results of both were mixed."""
    few = Handwriting().protocol(stroke_files(tmp_path / "a/iam", [3] * 4), toy=True)
    read_lines.cache_clear()
    many = Handwriting().protocol(stroke_files(tmp_path / "a/iam", [3] * 40), toy=True)
    moved = Handwriting().protocol(stroke_files(tmp_path / "b/iam", [3] * 40), toy=True)
    assert few != many == moved
    assert "strokes (12 sequences of 4 files, iam, digest " in few
    assert "120 sequences of 40 files" in many and "400 sequences" not in many
    assert "at most 8 of them for training" in many


def test_folders_without_lines(tmp_path):
    with pytest.raises(UserError, match="No such file"):
        read_strokes(tmp_path / "none.xml")
    with pytest.raises(UserError, match=r"no \.xml file with 5 points"):
        read_lines(tmp_path, 5)
    (tmp_path / "short.xml").write_text(IAM)
    with pytest.raises(UserError, match=r"no \.xml file with 5 points"):
        read_lines(tmp_path, 5)
    begin, end = IAM.index("    <Stroke "), IAM.index("  </StrokeSet>")
    (tmp_path / "longer.xml").write_text(IAM[:begin] + 3 * IAM[begin:end] + IAM[end:])
    with pytest.raises(UserError, match="2 sequences, expected at least 10"):
        load(0, tmp_path, toy=True)
