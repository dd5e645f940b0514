"""What strangers get: the doors, the wheel, the documents."""

import json
import os
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

import rn_rl

ROOT = Path(__file__).parents[1]


def test_the_doors_lead_to_their_rooms():
    for door in ("agents", "policies", "zoo_configs"):
        assert (ROOT / door).is_symlink()
        assert (ROOT / door).resolve() == ROOT / "rn_rl" / door


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Folder with the source distribution and the wheel that is built from it."""
    folder = tmp_path_factory.mktemp("built")
    copy = folder / "source"
    files = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    ).stdout.decode()
    for name in filter(None, files.split("\0")):
        source, target = ROOT / name, copy / name
        if source.is_file() and not source.is_symlink():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(source.read_bytes())
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder / "dist")]
    subprocess.run([*build, str(copy)], check=True, capture_output=True)
    return folder / "dist"


def test_the_wheel_holds_everything(built):
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        packed = set(wheel.namelist())
    package = ROOT / "rn_rl"
    wanted = {
        str(p.relative_to(ROOT))
        for p in package.rglob("*")
        if p.suffix in (".py", ".yml", ".json", ".jinja", ".css", ".typed")
        and "__pycache__" not in p.parts
    }
    assert wanted <= packed
    assert {name.split("/")[0] for name in packed} == {
        "rn_rl",
        f"rn_rl-{rn_rl.__version__}.dist-info",
    }


def test_an_index_would_take_both(built):
    check = [sys.executable, "-m", "twine", "check", "--strict", *map(str, built.iterdir())]
    done = subprocess.run(check, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout.count("PASSED") == 2, done.stdout + done.stderr


def test_the_wheel_works_outside_the_checkout(built, tmp_path):
    """An environment that has our dependencies, but of us the wheel alone."""
    environment = tmp_path / "environment"
    venv.create(environment, with_pip=False)
    python = environment / ("Scripts" if sys.platform == "win32" else "bin") / "python"

    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run(*command: str) -> str:
        done = subprocess.run(
            [str(python), *command],
            cwd=tmp_path,
            env=clean,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    (site,) = run("-c", "import site; print(site.getsitepackages()[0])").splitlines()
    # packages of this environment; its own .pth files, such as that of an editable rn_rl, are not read
    (Path(site) / "dependencies.pth").write_text("\n".join(sysconfig_paths()))
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        wheel.extractall(site)
    assert Path(run("-c", "import rn_rl; print(rn_rl.__file__)")).is_relative_to(site)
    assert run("-m", "rn_rl", "--version").strip().endswith(rn_rl.__version__)
    commands = (  # one process: each imports PyTorch
        "train --algo dqn --env CartPole-v1 --norm ln --timesteps 300 --eval-episodes 1 --quiet",
        "evaluate runs/ln/dqn/CartPole-v1_1 --json",
        "report runs",
    )
    mains = "; ".join(f"assert main({command.split()}) == 0" for command in commands)
    printed = run("-c", f"from rn_rl.cli import main; {mains}")
    assert len(json.loads(printed[: printed.rindex("}") + 1])["returns"]) == 100
    assert "CartPole-v1" in (tmp_path / "report.html").read_text()


def sysconfig_paths() -> list[str]:
    """Folders of installed packages of the running environment."""
    return sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})


def test_every_dependency_is_pinned():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pins = {
        line.split("==")[0].lower().replace("_", "-")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
    }
    extras = project["optional-dependencies"].values()
    for requirement in project["dependencies"] + [r for extra in extras for r in extra]:
        name = requirement.split(">")[0].split("[")[0].lower().replace("_", "-")
        assert name in pins | {"rn-rl"}, name
    assert "torch==2.13.0" in (ROOT / "constraints.txt").read_text().splitlines()
