"""What strangers get: the doors, the wheel, the documents."""

import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import rn_rl

ROOT = Path(__file__).parents[1]


def test_the_doors_lead_to_their_rooms():
    for door in ("agents", "policies", "zoo_configs"):
        assert (ROOT / door).is_symlink()
        assert (ROOT / door).resolve() == ROOT / "rn_rl" / door


def test_the_wheel_holds_everything(tmp_path):
    command = [
        sys.executable,
        "-m",
        "build",
        "--wheel",
        "--no-isolation",
        "--outdir",
        str(tmp_path),
    ]
    copy = tmp_path / "source"
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
    subprocess.run([*command, str(copy)], check=True, capture_output=True)
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
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
