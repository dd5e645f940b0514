"""``--track``: W&B in its offline mode and MLflow in SQLite get each row of each seed once."""

import itertools
import json
import math
import struct
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import wandb
from mlflow import MlflowClient
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from wandb.proto.wandb_internal_pb2 import Record

from rn_rl.cli import main
from rn_rl.errors import UserError
from rn_rl.experiment.runs import tracking
from rn_rl.experiment.runs.folder import Run
from rn_rl.experiment.runs.tracking import check_tracker, make_tracker
from tests.factories import slow_unless

SHORT = (
    "--algo dqn --env CartPole-v1 --timesteps 120 --eval-freq 40 --eval-episodes 1 --n-envs 1 --set "
    "learning_starts=20 buffer_size=200 batch_size=4 train_freq=4 gradient_steps=1 "
    "policy_kwargs.net_arch=[8]"
)
DQN = SHORT.split()

# of SQLAlchemy, about MLflow's own tables
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")
ALGO = {"single": ["--seeds", "1"], "batch": ["--seeds", "2", "--engine", "batch"]}


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    """No network: W&B writes files, and nothing that the user set counts."""
    for name in ("WANDB_PROJECT", "WANDB_RUN_GROUP", "WANDB_DIR", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setattr(tracking, "SECONDS", 0.0)


def event_rows(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Rows by tag in the event files of a run folder, as TensorBoard reads them."""
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    tags = events.Tags()["scalars"]
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in tags}


def logged(data: bytes) -> Iterator[bytes]:
    """The records of a file of W&B, which has the format of LevelDB's log after 7 bytes of its own."""
    at, block, record = 7, 32768, b""
    while at + 7 <= len(data):
        if block - at % block < 7:
            at += block - at % block
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        record += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or its last part
            yield record
            record = b""


def wandb_records(out: Path, identity: str) -> list[Record]:
    """All records in the files of a run of W&B, each of which ends with an exit."""
    files = sorted(out.glob(f"wandb/offline-run-*-{identity}/*.wandb"))
    return [record for file in files for record in closed(file)]


def closed(file: Path) -> list[Record]:
    """The records of a file, once the process of W&B has closed it: some time after ``finish()``."""
    for _ in range(600):
        records = [Record.FromString(each) for each in logged(file.read_bytes())]
        if records and records[-1].WhichOneof("record_type") == "exit":
            return records
        time.sleep(0.1)
    raise AssertionError(f"{file}: no exit after a minute; {len(records)} records")


def wandb_rows(out: Path, identity: str) -> dict[str, list[tuple[int, float]]]:
    """The history of a run of W&B, by tag."""
    rows: dict[str, list[tuple[int, float]]] = {}
    for record in wandb_records(out, identity):
        if record.WhichOneof("record_type") != "history":
            continue
        items = record.history.item
        row = {"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in items}
        step = int(row.pop("_step", record.history.step.num))
        for tag, value in row.items():
            if not tag.startswith("_"):
                rows.setdefault(tag, []).append((step, value))
    return rows


def mlflow_rows(out: Path, identity: str) -> dict[str, list[tuple[int, float]]]:
    """The metrics of a run of MLflow."""
    client = MlflowClient(f"sqlite:///{out / 'mlflow.db'}")
    names = client.get_run(identity).data.metrics
    return {
        name: [(m.step, m.value) for m in client.get_metric_history(identity, name)]
        for name in names
    }


ROWS = {"wandb": wandb_rows, "mlflow": mlflow_rows}


def assert_same(sent, events):
    """Rows at a service are those of TensorBoard's files, each once."""
    assert sent.keys() == events.keys() and "eval/mean_reward" in sent
    for tag, rows in events.items():
        assert [step for step, _ in sent[tag]] == [step for step, _ in rows], tag
        for (_, mine), (_, theirs) in zip(sent[tag], rows, strict=True):
            assert math.isclose(float(mine), theirs, rel_tol=1e-6, abs_tol=1e-12), tag


def identity_of(folder: Path, service: str) -> str:
    return json.loads((folder / "tracking.json").read_text())[service]["id"]


PAIRS = list(itertools.product(ALGO, ("wandb", "mlflow")))


@pytest.mark.parametrize(
    ("kind", "service"),
    slow_unless(lambda *pair: pair in (("single", "mlflow"), ("batch", "wandb")), PAIRS),
)
def test_a_service_has_the_rows_of_tensorboard(kind, service, tmp_path):
    out = tmp_path / "study"
    words = [*DQN, *ALGO[kind], "--norm", "rn", "--track", service, "--quiet", "--out", str(out)]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=ResourceWarning)
        assert main(["train", *words]) == 0
    folders = sorted(path.parent for path in out.rglob("run.yaml"))
    assert len(folders) == int(ALGO[kind][1])
    for folder in folders:
        rows = ROWS[service](out, identity_of(folder, service))
        assert_same(rows, event_rows(folder))
        assert any(tag.startswith("normalizer/gain/") for tag in rows)


def test_a_seed_is_a_run_of_wandb_with_its_settings(tmp_path):
    words = [*DQN, "--seed", "7", "--track", "wandb", "--quiet", "--out", str(tmp_path / "study")]
    assert main(["train", *words]) == 0
    folder = tmp_path / "study/none/dqn/CartPole-v1_1"
    records = wandb_records(tmp_path / "study", identity_of(folder, "wandb"))
    [made] = [r.run for r in records if r.WhichOneof("record_type") == "run"]
    assert (made.project, made.run_group) == ("rn-rl", "study")
    assert made.display_name == "none dqn CartPole-v1 seed 7"
    settings = {u.key: json.loads(u.value_json) for u in made.config.update}
    assert settings["seed"] == 7 and settings["batch_size"] == 4 and settings["norm"] == "none"
    [end] = [r.exit for r in records if r.WhichOneof("record_type") == "exit"]
    assert end.exit_code == 0


@pytest.mark.slow
def test_a_grid_is_an_experiment_of_mlflow(tmp_path):
    out = tmp_path / "study"
    words = [*DQN, "--norms", "none,ln", "--seeds", "1", "--final-episodes", "1", "--jobs", "2"]
    assert main(["compare", *words, "--track", "mlflow", "--quiet", "--out", str(out)]) == 0
    client = MlflowClient(f"sqlite:///{out / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("study")
    runs = client.search_runs([experiment.experiment_id])
    assert {run.data.params["norm"] for run in runs} == {"none", "ln"}
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert {run.data.params["learning_rate"] for run in runs} == {"0.0023"}


@pytest.mark.parametrize(
    ("kind", "service"),
    slow_unless(lambda *pair: pair in (("single", "wandb"), ("batch", "mlflow")), PAIRS),
)
def test_a_training_that_continues_sends_each_row_once(kind, service, tmp_path, monkeypatch):
    """Rows after the checkpoint were sent; the resumed training writes them again."""
    out = tmp_path / "study"
    words = [*DQN, *ALGO[kind], "--track", service, "--quiet", "--out", str(out)]
    stop = {"single": "PhaseCallback._on_rollout_start", "batch": "SeedBatchRun.on_rollout_start"}
    room = {"single": "callbacks", "batch": "seed_batch_run"}[kind]
    target = f"rn_rl.experiment.training.{room}.{stop[kind]}"
    counted = {"calls": 0}

    def break_off(self):
        counted["calls"] += 1
        if counted["calls"] == 20:
            raise RuntimeError("broken off")
        return original(self)

    owner, _, method = target.rpartition(".")
    module, _, cls = owner.rpartition(".")
    original = getattr(getattr(__import__(module, fromlist=[cls]), cls), method)
    with monkeypatch.context() as patch:
        patch.setattr(target, break_off)
        assert main(["train", *words]) == 2
    assert counted["calls"] == 20
    folder = sorted(path.parent for path in out.rglob("run.yaml"))[0]
    before = identity_of(folder, service)
    assert main(["train", "--resume", str(folder), "--track", service, "--quiet"]) == 0
    assert identity_of(folder, service) == before
    assert_same(ROWS[service](out, before), event_rows(folder))


class Failing:
    """A service that is not reached until it is."""

    identity = "0" * 32
    reached = False

    def __init__(self, run, spec, identity):
        self.rows = []

    def send(self, rows):
        if not self.reached:
            raise ConnectionError("no route to host\nand more")
        self.rows += rows

    def close(self, *, failed):
        pass


@pytest.fixture
def failing(monkeypatch, tmp_path):
    monkeypatch.setitem(tracking.SERVICES, "wandb", Failing)
    (tmp_path / "ln/dqn/run").mkdir(parents=True)
    return make_tracker("wandb", Run(tmp_path / "ln/dqn/run"), None)


def test_a_service_that_fails_stops_nothing_and_gets_the_rows_later(failing):
    with pytest.warns(UserWarning, match="^--track wandb: no route to host$"):
        failing.add([(1, {"a": 1.0})])
    failing._service.reached = True
    failing.add([(2, {"a": 2.0})])
    failing.close()
    assert failing._service.rows == [(1, {"a": 1.0}), (2, {"a": 2.0})]


def test_rows_that_were_never_sent_are_counted(failing):
    with pytest.warns(UserWarning, match="no route"):
        failing.add([(1, {"a": 1.0})])
    with pytest.warns(UserWarning) as told:
        failing.close()
    assert "1 rows were not sent; the event files of" in str(told.list[-1].message)


@pytest.mark.parametrize("text", ["", "[]", '{"wandb": 3}', '{"wandb": {"id": "../x", "sent": 9}}'])
def test_a_damaged_file_begins_a_new_run(text, failing, tmp_path):
    (tmp_path / "ln/dqn/run/tracking.json").write_text(text)
    tracker = make_tracker("wandb", Run(tmp_path / "ln/dqn/run"), None)
    assert tracker._known == -1


def test_a_service_that_refuses_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nosuch://host")
    words = [*DQN, "--track", "mlflow", "--out", str(tmp_path)]
    assert main(["train", *words]) == 2
    error = capsys.readouterr().err
    assert "--track mlflow" in error and error.count("\n") == 1


def test_wandb_without_an_account_names_the_offline_mode(tmp_path, monkeypatch, capsys):
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    wandb.teardown()  # it remembers the mode of other tests
    assert main(["train", *DQN, "--track", "wandb", "--out", str(tmp_path / "runs")]) == 2
    error = capsys.readouterr().err
    assert "WANDB_MODE=offline writes files instead" in error and error.count("\n") == 1
    monkeypatch.setenv("WANDB_MODE", "offline")  # and that helps, in the same process too
    assert main(["train", *DQN, "--track", "wandb", "--out", str(tmp_path / "runs")]) == 0
    assert list((tmp_path / "runs/wandb").glob("offline-run-*"))


def test_an_unknown_service_names_those_that_there_are():
    with pytest.raises(UserError, match=r"unknown tracker 'wanbd'. Did you mean 'wandb'"):
        check_tracker("wanbd")


def test_a_service_that_is_not_installed_names_the_extra(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        UserError, match=r"--track wandb: not installed; pip install 'rn-rl\[track\]'"
    ):
        check_tracker("wandb")
