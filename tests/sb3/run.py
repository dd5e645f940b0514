"""Run the tests of Stable-Baselines3 and sb3-contrib with Norm policies under the stock aliases.

``make test-sb3`` calls it. The tests are in the source distributions of the installed versions, which
are downloaded into a folder that git ignores. Stock policies run first, as the control: only tests that
they pass are counted. Each further run has one normalizer in every policy named by an alias.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from xml.etree import ElementTree

from known import reason_of

HERE = Path(__file__).parent
FOLDER = HERE.parents[1] / ".sb3-tests"
PACKAGES = ("stable_baselines3", "sb3_contrib")
NORMS = (
    "ln+rn", "rsn", "bn", "uan", "spectral", "rn(half_life=20)",
    "net=simba", "net=simbav2", "net=bronet",
)  # fmt: skip

FILES = (
    "cnn", "custom_policy", "deterministic", "dict_env", "distributions", "identity", "invalid_actions",
    "lstm", "n_step_replay", "predict", "run", "save_load", "sde", "spaces", "train_eval_mode",
)  # fmt: skip
"""Tests that make agents; the others are about buffers, loggers, wrappers."""


def unpack() -> list[Path]:
    """Download and unpack the source distributions once; return their folders of tests."""
    found = []
    for package in PACKAGES:
        version = importlib.metadata.version(package)
        folder = FOLDER / f"{package}-{version}"
        if not folder.is_dir():
            FOLDER.mkdir(exist_ok=True)
            options = ["--no-binary", ":all:", "--no-deps", "--no-build-isolation", "--quiet"]
            pip = [sys.executable, "-m", "pip", "download", *options, "-d", str(FOLDER)]
            subprocess.run([*pip, f"{package}=={version}"], check=True)
            with tarfile.open(FOLDER / f"{folder.name}.tar.gz") as archive:
                archive.extractall(FOLDER, filter="data")
        found.append(folder / "tests")
    return found


def run(
    norm: str, folders: list[Path], options: list[str], *, again: bool = True
) -> dict[str, str]:
    """Run all tests with one normalizer; return the reason of each failure, "" for a pass.

    Args:
        norm: spec, or a network as ``net=simba``; "" for stock policies.
        folders: folders of tests.
        options: further options of pytest.
        again: also what was run before; else its outcomes are read.
    """
    outcomes: dict[str, str] = {}
    for folder in folders:
        report = FOLDER / f"{folder.parent.name}-{norm or 'stock'}.xml"
        if again or not report.is_file():
            run_tests(norm, folder, report, options)
        for case in ElementTree.parse(report).iter("testcase"):
            bad = next((part for part in case if part.tag in ("failure", "error")), None)
            if case.find("skipped") is None:
                name = f"{folder.parent.name.split('-')[0]}/{case.get('classname')}::{case.get('name')}"
                outcomes[name] = (
                    "" if bad is None else " ".join((bad.get("message") or "?").split())
                )
    return outcomes


def run_tests(norm: str, folder: Path, report: Path, options: list[str]) -> None:
    """Run a folder of tests and write the report, and beside it the output."""
    report.unlink(missing_ok=True)
    path = os.pathsep.join([str(HERE), str(HERE.parents[1])])
    environment = {**os.environ, "RN_RL_NORM": norm, "PYTHONPATH": path}
    files = [str(file) for name in FILES if (file := folder / f"test_{name}.py").is_file()]
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "norm_aliases",
        "-m",
        "not expensive",
    ]
    command += ["-p", "no:cacheprovider", "--tb=line", f"--junitxml={report}", *options, *files]
    with (report.with_suffix(".log")).open("w") as log:
        subprocess.run(command, cwd=folder.parent, env=environment, stdout=log, stderr=log)


def page(passed: int, versions: str, found: dict[str, dict[str, str]]) -> str:
    """Return the page of the docs: how many tests pass with each normalizer, and why others fail.

    Args:
        passed: number of tests that pass with stock policies.
        versions: names and versions of the packages.
        found: failures by normalizer and test.
    """
    count: dict[str, dict[str, int]] = {}
    for norm, failures in found.items():
        for test, failure in failures.items():
            reason = reason_of(test, failure) or f"not known: `{test}`"
            count.setdefault(reason, dict.fromkeys(found, 0))[norm] += 1
    norms = " | ".join(f"`{norm}`" for norm in found)
    passing = " | ".join(str(passed - len(failures)) for failures in found.values())
    all_known = all(reason_of(*each) for failures in found.values() for each in failures.items())
    verdict = "each" if all_known else "**not each**"
    lines = [
        "# SB3's own tests with Norm policies",
        "",
        f"**{passed} tests of {versions} make agents and pass with stock policies. With Norm policies "
        f"under the same names {verdict} of those that fail has a known reason.**",
        "",
        f"| | {norms} |",
        "| --- |" + " ---: |" * len(found),
        f"| **pass** | {passing} |",
    ]
    for reason, each in sorted(count.items(), key=lambda item: -sum(item[1].values())):
        lines.append(f"| {reason} | {' | '.join(str(n) for n in each.values())} |")
    sizes = 'Networks have `net_arch="small"`, unless a test gives sizes. Made by `make test-sb3`.'
    return "\n".join([*lines, "", sizes, ""])


def main() -> int:
    """Print the tests that fail with a normalizer only; return 1 if one has no known reason."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--norms", nargs="*", default=NORMS, help="normalizer specs")
    parser.add_argument("--missing", action="store_true", help="run only what was not run before")
    parser.add_argument("--record", type=Path, help="page of the docs to write")
    parser.add_argument("options", nargs="*", help="options of pytest, after --")
    given = parser.parse_args()
    folders = unpack()
    stock = run("", folders, given.options, again=not given.missing)
    passed = {name for name, reason in stock.items() if not reason}
    print(f"stock: {len(passed)} of {len(stock)} pass", flush=True)
    for name in sorted(set(stock) - passed):
        print(f"  fails with stock policies: {name}: {stock[name][:160]}")
    found: dict[str, dict[str, str]] = {}
    unknown = 0
    for norm in given.norms:
        outcomes = run(norm, folders, given.options, again=not given.missing)
        bad = {n: outcomes.get(n, "did not run") for n in passed if outcomes.get(n, "did not run")}
        found[norm] = bad
        print(f"{norm}: {len(passed) - len(bad)} of {len(passed)} pass", flush=True)
        for name in sorted(bad):
            reason = reason_of(name, bad[name])
            unknown += reason is None
            print(f"  {name}: {reason or 'NOT KNOWN: ' + bad[name][:200]}", flush=True)
    if given.record is not None:
        versions = " and ".join(folder.parent.name.replace("_", "-") for folder in folders)
        given.record.write_text(page(len(passed), versions, found), encoding="utf-8")
    return 1 if unknown or len(passed) < len(stock) else 0


if __name__ == "__main__":
    sys.exit(main())
