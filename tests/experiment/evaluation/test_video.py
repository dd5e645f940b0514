"""Videos of environments that render something unusual: a film, or one line and status 2."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from imageio_ffmpeg import get_ffmpeg_exe
from PIL import Image

from rn_rl.cli import main
from rn_rl.experiment.evaluation.video import (
    equal_sizes,
    gif_rate,
    render_without_screen,
    rgb_frame,
)
from tests import odd_envs

SIZES = {"FrameVaries": (38, 96), "FrameOdd": (32, 50), "FrameTiny": (2, 2)}
"""Height and width of films whose frames are not 64 x 96."""


@pytest.mark.filterwarnings("ignore:.*WARN")  # Gymnasium's checker says the same in its way
@pytest.mark.parametrize("name", odd_envs.FRAMES)
def test_a_film_or_one_line(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    typed = (
        f"train --algo dqn --env Odd{name}-v0 --timesteps 20 --eval-freq 0 --quiet --out {tmp_path}"
    )
    assert main(typed.split()) == 0
    capsys.readouterr()
    film = tmp_path / "film.mp4"
    run = tmp_path / f"none/dqn/Odd{name}-v0_1"
    status = main(["video", str(run), "--episodes", "1", "--out", str(film)])
    error, said = capsys.readouterr().err, odd_envs.FRAMES[name][1]
    if said is not None:
        assert status == 2 and error.count("\n") == 1, error
        assert said in error and f"environment Odd{name}-v0 cannot be recorded: " in error
        assert not film.exists()
        return
    assert status == 0, error
    read = [get_ffmpeg_exe(), "-i", str(film)]
    read += ["-pix_fmt", "rgb24", "-f", "rawvideo", "-"]
    done = subprocess.run(read, capture_output=True, check=True)
    height, width = SIZES.get(name, (64, 96))
    frames = np.frombuffer(done.stdout, np.uint8).reshape(-1, height, width, 3)
    assert f" {width}x{height}".encode() in done.stderr and b" 30 fps" in done.stderr
    assert len(frames) == 20
    if name != "FrameTiny":  # its color is an average over the film's chroma samples
        assert abs(frames[0, :16].astype(int) - 90).max() < 8  # below these rows it may be black


@pytest.mark.parametrize(("fps", "delay"), [(50, 30), (15, 70), (10, 100)])
def test_a_film_is_as_fast_as_the_environment(fps: int, delay: int, tmp_path: Path) -> None:
    """Also below VecNormalize, of which SB3 gives no metadata of the environment."""
    name = f"OddFps{fps}-v0"
    typed = f"train --algo dqn --env {name} --timesteps 20 --eval-freq 0 --quiet --out {tmp_path}"
    assert main([*typed.split(), "--set", "normalize=true"]) == 0
    run = str(tmp_path / f"none/dqn/{name}_1")
    for suffix in ("mp4", "gif"):
        film = str(tmp_path / f"film.{suffix}")
        assert main(["video", run, "--episodes", "3", "--out", film]) == 0
    read = [get_ffmpeg_exe(), "-i", str(tmp_path / "film.mp4")]
    told = subprocess.run(read, capture_output=True, check=False).stderr.decode()
    assert f" {fps} fps" in told
    with Image.open(tmp_path / "film.gif") as film:
        delays = []
        for frame in range(film.n_frames):  # type: ignore[attr-defined]
            film.seek(frame)
            delays.append(film.info["duration"])
    assert set(delays) == {delay}
    assert abs(sum(delays) / 1000 - 60 / fps) < 1.5 * delay / 1000  # three episodes of 20 frames


def test_the_rate_of_a_gif_is_one_that_it_can_store() -> None:
    for fps, stored in ((60, 100 / 3), (50, 100 / 3), (30, 100 / 3), (25, 25), (15, 100 / 7)):
        assert gif_rate(fps) == pytest.approx(stored, abs=1e-5)
        assert int(1000 / gif_rate(fps)) == round(1000 / stored)


def test_frames_are_rgb() -> None:
    gray = np.arange(6, dtype=np.uint8).reshape(2, 3)
    for rendered in (gray, gray[:, :, None], gray.astype(np.int32)):
        np.testing.assert_array_equal(rgb_frame(rendered, "X-v0"), np.stack([gray] * 3, 2))
    color = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    np.testing.assert_array_equal(rgb_frame([gray, color], "X-v0"), color[:, :, :3])


def test_frames_get_equal_even_sizes() -> None:
    frames = [np.full((h, w, 3), 9, np.uint8) for h, w in ((5, 2), (3, 4), (1, 1))]
    equal = equal_sizes(frames)
    assert [frame.shape for frame in equal] == [(4, 4, 3)] * 3
    assert [int((frame[:, :, 0] == 9).sum()) for frame in equal] == [8, 12, 1]


@pytest.mark.parametrize(
    ("given", "system", "expected"),
    [
        ({}, "linux", "egl"),
        ({"DISPLAY": ":0"}, "linux", None),
        ({"WAYLAND_DISPLAY": "wayland-0"}, "linux", None),
        ({"MUJOCO_GL": "osmesa"}, "linux", "osmesa"),
        ({}, "darwin", None),
    ],
)
def test_mujoco_renders_into_memory_where_there_is_no_screen(given, system, expected, monkeypatch):
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "MUJOCO_GL", "SDL_VIDEODRIVER"):
        monkeypatch.setenv(name, "")  # restored afterwards, also if it was not set
        monkeypatch.delenv(name)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "platform", system)
    render_without_screen()
    assert os.environ.get("MUJOCO_GL") == expected


@pytest.mark.skipif(find_spec("mujoco") is None, reason="needs the extra [mujoco]")
def test_a_film_of_mujoco_without_a_screen(tmp_path: Path) -> None:
    """In a process of its own, in which nothing has imported mujoco."""
    hidden = ("DISPLAY", "WAYLAND_DISPLAY", "MUJOCO_GL")
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    train = (
        "train --algo sac --env InvertedPendulum-v5 --timesteps 20 --eval-freq 0 --quiet --out ."
    )
    for words in (train, "video none/sac/InvertedPendulum-v5_1 --out film.mp4"):
        typed = [sys.executable, "-m", "rn_rl", *words.split()]
        done = subprocess.run(
            typed, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    assert (tmp_path / "film.mp4").stat().st_size > 1000
