"""Tab completes commands and options, as the page on the start says."""

import os
import re
import shlex
import subprocess
import sys

import pytest

from rn_rl.cli import COMMANDS, main
from rn_rl.commands.help import flags_of
from tests.factories import slow_unless

COMPLETE = """
completer=$(complete -p rn-rl | sed "s/.*-F \\([^ ]*\\).*/\\1/")
complete_line() {
  COMP_LINE="$*"; COMP_POINT=${#COMP_LINE}; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
  $completer; echo "${COMPREPLY[@]}"
}
"""


@pytest.fixture
def bash(tmp_path, capsys):
    """Function that gives the candidates for each of several lines, from one bash."""
    assert main(["--tyro-print-completion", "bash"]) == 0
    (tmp_path / "rn-rl").write_text(capsys.readouterr().out)
    (tmp_path / "python3").symlink_to(sys.executable)  # the one of pyenv is slow to start
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}

    def complete(lines):
        script = ["source ./rn-rl", COMPLETE, *(f"complete_line rn-rl {line}" for line in lines)]
        done = subprocess.run(
            ["bash", "-c", "\n".join(script)],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.stderr == ""
        return [line.split() for line in done.stdout.splitlines()]

    return complete


def options_of(command):
    return [flag for flag in flags_of(COMMANDS[command][0]) if flag != "--version"]


def prefixes(flags, *, all_of_them):
    """Beginnings of options; without ``all_of_them`` to the first character that tells an option."""
    found = {}
    for flag in flags:
        for end in range(2, len(flag) + 1):
            found[flag[:end]] = [each for each in flags if each.startswith(flag[:end])]
            if not all_of_them and len(found[flag[:end]]) == 1:
                break
    return found


def test_bash_completes_commands(bash):
    assert bash(["tr", "re", "comp"]) == [["train"], ["report", "reproduce"], ["compare"]]


@pytest.mark.parametrize("command", slow_unless({"train", "status"}.__contains__, COMMANDS))
def test_bash_completes_options(bash, command):
    """Also those whose description has several lines."""
    expected = prefixes(options_of(command), all_of_them=False)
    found = bash([f"{command} {prefix}" for prefix in expected])
    assert dict(zip(expected, map(sorted, found), strict=True)) == {
        prefix: sorted(flags) for prefix, flags in expected.items()
    }


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_prefix_of_every_option_has_its_candidates_each_in_one_line(shell, capsys):
    """By the Python code of the script, which each shell runs for its candidates."""
    assert main(["--tyro-print-completion", shell]) == 0
    lines = capsys.readouterr().out.splitlines()
    begin = next(i for i, line in enumerate(lines) if line.startswith("COMPLETION_SPEC = "))
    end = next(i for i, line in enumerate(lines) if line.startswith("def main("))
    code = "\n".join(["from __future__ import annotations", *lines[begin:end]])
    if shell == "fish":  # which has the code in quotes
        code = re.sub(r'\\([\\"$])', r"\1", code)
    space = {}
    exec(code, space)
    for command in COMMANDS:
        for prefix, flags in prefixes(options_of(command), all_of_them=True).items():
            found = space["get_completions"](
                ["rn-rl", command, prefix], 2, space["COMPLETION_SPEC"]
            )
            assert sorted(line.partition("\t")[0] for line in found) == sorted(flags)
            assert not any("\n" in line for line in found)


def test_a_script_is_written_to_a_file(tmp_path, capsys):
    path = tmp_path / "rn-rl"
    assert main(["--tyro-print-completion", "bash"]) == 0
    assert main(["--tyro-write-completion", "bash", str(path)]) == 0
    assert path.read_text().strip() == capsys.readouterr().out.strip()


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("--tyro-print-completion", "expected a shell, such as --tyro-print-completion bash"),
        ("--tyro-print-completion tcsh", "unknown shell 'tcsh'. Did you mean 'zsh'"),
        ("--tyro-write-completion bash", "expected a shell and a file"),
        ("--tyro-write-completion bash no/such/file", "no/such/file: No such file"),
    ],
)
def test_a_mistake_is_one_line(typed, message, capsys):
    assert main(shlex.split(typed)) == 2
    told = capsys.readouterr().err
    assert message in told and told.count("\n") == 1
