"""The table of normalizers: the terminal, the README and the measured costs tell of one registry."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from benchmarks import layer_cost
from benchmarks.__main__ import main as benchmark
from benchmarks.layer_cost import LayerCostConfig, run_layer_cost
from rn_rl.analysis.tables import markdown_table
from rn_rl.cli import main
from rn_rl.commands.norms import NORM_COLUMNS, norm_rows
from rn_rl.errors import UserError
from rn_rl.normalization import REGISTRY, costs

ROOT = Path(__file__).parents[2]
QUICK = {"batch": 16, "features": 8, "rounds": 3, "repeats": 2}


def table():
    return {row[0]: dict(zip(NORM_COLUMNS, row, strict=True)) for row in norm_rows()}


def test_every_normalizer_of_the_registry_has_a_measured_cost():
    measured = costs.recorded()
    assert set(measured) == {name for name, row in REGISTRY.items() if not row.is_identity}
    assert measured["ln"] == 1.0
    assert all(ratio > 0 for ratio in measured.values())


def test_the_docs_have_the_table_of_the_registry():
    block = (ROOT / "docs/concepts/normalizers.md").read_text().split("<!-- norms -->\n")[1]
    assert block.split("\n<!-- /norms -->")[0] == markdown_table(NORM_COLUMNS, norm_rows())


def test_the_table_says_where_the_phase_rule_holds():
    said = {name: row["phase rule"] for name, row in table().items()}
    assert said["ln"] == "no state"
    assert said["rn"] == "everywhere"
    assert said["rn-paper"] == "nowhere"
    assert table()["rn"]["arguments"] == "half_life"


def test_the_table_shows_what_was_measured_and_a_dash_for_what_was_not(tmp_path, monkeypatch):
    monkeypatch.setattr(costs, "RECORD_FILE", tmp_path / "costs.json")
    assert {row["cost"] for row in table().values()} == {"-"}
    (tmp_path / "costs.json").write_text('{"ratios": {"rn": 1.234, "ln": 1.0}}')
    assert table()["rn"]["cost"] == "1.23" and table()["rln"]["cost"] == "-"


def test_norms_prints_every_name(capsys):
    assert main(["norms"]) == 0
    printed = capsys.readouterr().out
    assert all(f"\n {name} " in printed and row.source in printed for name, row in REGISTRY.items())


def test_the_table_is_written_into_a_document(tmp_path):
    path = tmp_path / "README.md"
    path.write_text("before\n<!-- norms -->\nold\n<!-- /norms -->\nafter\n")
    assert benchmark(["docs", "norms", "--readme", str(path)]) == 0
    expected = markdown_table(NORM_COLUMNS, norm_rows())
    assert path.read_text() == f"before\n<!-- norms -->\n{expected}\n<!-- /norms -->\nafter\n"


def test_the_layer_benchmark_prints_one_object_a_line(capsys):
    threads = torch.get_num_threads()
    run_layer_cost(LayerCostConfig(norms=("ln", "rn", "none"), json=True, **QUICK))
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["case"] for line in lines] == ["ln/16x8", "rn/16x8", "none/16x8"]
    assert lines[0]["ratio"] == 1.0
    assert all(line["value"] > 0 and line["unit"] == "us" for line in lines)
    assert all(line["benchmark"] == "layer" and line["ratio_to"] == "ln" for line in lines)
    assert torch.get_num_threads() == threads


def test_a_slower_normalizer_costs_more():
    times = layer_cost.measure(LayerCostConfig(batch=64, features=64), ["gain", "rsn"])
    assert (times["rsn"] > times["gain"]).mean() > 0.9


def test_a_reparametrization_is_measured_as_what_it_adds_to_its_layer(monkeypatch):
    clock = iter(range(10**6))
    monkeypatch.setattr(layer_cost.time, "process_time", lambda: 1e-6 * next(clock))
    config = LayerCostConfig(batch=4, features=8, rounds=2, repeats=1)
    times = layer_cost.measure(config, ["wn", "rn"])
    assert times["linear"].tolist() == pytest.approx([1, 1])
    assert times["rn"].tolist() == pytest.approx([1, 1])
    assert times["wn"].tolist() == pytest.approx([0, 0], abs=1e-6)


def test_a_record_holds_the_whole_registry_and_its_command(tmp_path, monkeypatch, capsys):
    record = tmp_path / "costs.json"
    for module in (layer_cost, costs):
        monkeypatch.setattr(module, "RECORD_FILE", record)
    monkeypatch.setattr("sys.argv", ["somewhere/benchmark.py", "layer", "--record"])
    run_layer_cost(LayerCostConfig(record=True, json=True, **QUICK))
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    stored = json.loads(record.read_text())
    assert stored["command"] == "python -m benchmarks layer --record"
    assert list(stored["ratios"].values()) == [round(line["ratio"], 2) for line in lines]
    assert costs.recorded() == stored["ratios"]
    assert set(stored["ratios"]) == {name for name, row in REGISTRY.items() if not row.is_identity}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
@pytest.mark.skipif(" " in torch.__file__, reason="inductor does not quote the path of torch")
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
def test_a_table_of_sizes_is_written_into_a_document(tmp_path, monkeypatch):
    monkeypatch.setattr(layer_cost, "SHOWN", (("rn", "rln"), ((4, 8), (8, 4))))
    path = tmp_path / "README.md"
    path.write_text("before\n<!-- layers -->\n<!-- /layers -->\nafter\n")
    run_layer_cost(LayerCostConfig(rounds=2, repeats=1, readme=path))
    _, _, head, _, *rows, _, after, _ = path.read_text().split("\n")
    assert head == "| normalizer | 4x8 | 8x4 | 4x8, compiled | 8x4, compiled |"
    assert [row.split(" | ")[0] for row in rows] == ["| rn", "| rln"] and after == "after"
    assert all(float(cell) > 0 for row in rows for cell in row.strip("| ").split(" | ")[1:])


def test_a_compiler_that_fails_is_one_line(monkeypatch):
    def broken(module):
        def forward(x):
            raise RuntimeError("no compiler\nand much more")

        return forward

    monkeypatch.setattr(torch, "compile", broken)
    with pytest.raises(
        UserError, match=r"torch.compile failed \(no compiler\): leave out --compile"
    ):
        run_layer_cost(LayerCostConfig(norms=("rn",), compile=True, **QUICK))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"readme": Path("nowhere.md")}, "nowhere.md: cannot be read"),
        ({"rounds": 0}, "--rounds 0: expected at least 1"),
        ({"record": True, "norms": ("rn",)}, "--record --norms rn: expected the whole registry"),
        ({"record": True, "compile": True}, "--record --compile: what is recorded"),
        ({"norms": ("rnn",)}, "unknown normalizer 'rnn'. Did you mean 'rn'"),
    ],
)
def test_a_mistake_is_named(arguments, message):
    with pytest.raises(UserError, match=message):
        run_layer_cost(LayerCostConfig(**arguments))
