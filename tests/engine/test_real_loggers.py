"""Runs of the real packages, kept on this machine."""

import json
import time

import pytest

from openlab.engine.loggers import LoggerGroup, MLflowLogger, WandbLogger

pytestmark = pytest.mark.slow


def log_twice(make, work_dir):
    """A run of three rows, and its resumption with three more."""
    for begin in (0, 3):
        loggers = LoggerGroup([make()])
        loggers.start(work_dir, {'model': {'type': 'Net', 'widths': [1, 2]}}, begin)
        for step in range(begin, begin + 3):
            loggers.log({'train/loss': 1 / (step + 1)}, step)
        loggers.close()


def test_mlflow_keeps_rows_and_config_of_a_run_and_of_its_resumption(tmp_path, monkeypatch):
    mlflow = pytest.importorskip('mlflow', reason='pip install mlflow')
    pytest.importorskip('sqlalchemy', reason='pip install mlflow')
    address = f'sqlite:///{tmp_path / "runs.db"}'
    work_dir = tmp_path / 'run'
    work_dir.mkdir()
    monkeypatch.chdir(tmp_path)  # where artifacts go by default
    log_twice(lambda: MLflowLogger(tracking_uri=address), work_dir)
    client = mlflow.MlflowClient(address)
    experiment = client.get_experiment_by_name('openlab')
    (run,) = client.search_runs([experiment.experiment_id])
    rows = client.get_metric_history(run.info.run_id, 'train/loss')
    assert [(row.step, row.value) for row in rows] == [(i, 1 / (i + 1)) for i in range(6)]
    assert run.info.status == 'FINISHED' and run.info.run_name == 'run'
    config = mlflow.artifacts.load_dict(f'{run.info.artifact_uri}/config.json')
    assert config['model']['widths'] == [1, 2]


def rows_of(file):
    """Rows that a run without network left in its file."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, place, rows = file.read_bytes(), 7, []
    assert len(data) < 32768, 'records of one block only'
    while place + 7 <= len(data):  # each with a checksum, its length and its kind in front
        length = int.from_bytes(data[place + 4:place + 6], 'little')
        record = Record()
        record.ParseFromString(data[place + 7:place + 7 + length])
        place += 7 + length
        if record.history.item:
            found = {item.key or '/'.join(item.nested_key): json.loads(item.value_json)
                     for item in record.history.item}
            rows.append((found['_step'], found['train/loss']))
    return rows


def test_wandb_keeps_rows_and_continues_the_run(tmp_path, monkeypatch):
    pytest.importorskip('wandb', reason='pip install wandb')
    monkeypatch.setenv('WANDB_MODE', 'offline')
    monkeypatch.setenv('WANDB_SILENT', 'true')
    log_twice(lambda: WandbLogger(project='openlab'), tmp_path)
    run_id = (tmp_path / 'wandb_id').read_text()
    files = sorted((tmp_path / 'wandb').glob(f'offline-run-*/run-{run_id}.wandb'))
    until = time.monotonic() + 20
    while len(rows_of(files[-1])) < 3 and time.monotonic() < until:
        time.sleep(0.2)  # a process of the package writes the last rows after the run has ended
    assert [rows_of(file) for file in files] == [
        [(0, 1.0), (1, 1 / 2), (2, 1 / 3)], [(3, 1 / 4), (4, 1 / 5), (5, 1 / 6)]]
