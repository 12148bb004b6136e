"""Where the scalars of a run go: a JSON-lines file, TensorBoard, W&B, MLflow.

The engine hands every logger the same rows: ``log({'epoch': 3, 'train/loss': 0.21}, step=120)``,
where ``step`` counts finished training iterations. Names under ``train/``, ``val/`` and ``test/``
repeat exactly when a run is repeated; ``speed/`` and ``memory/`` do not.
"""

from __future__ import annotations

import importlib
import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TextIO

from openlab.config.build import build
from openlab.registry import LOGGERS
from openlab.utils.json_lines import append_row, is_number, keep_rows, read_rows


class ScalarLogger(ABC):
    """Base of all loggers. Only the main process has any."""

    @abstractmethod
    def start(self, work_dir: Path, config: dict[str, Any], step: int) -> None:
        """Open for writing.

        Args:
            work_dir: folder of the run; the same one again after a resume.
            config: the resolved config as plain data.
            step: finished iterations, more than 0 on a resume; what was logged beyond it belongs
                to iterations that will be repeated.
        """

    @abstractmethod
    def log(self, scalars: Mapping[str, float], step: int) -> None:
        """Take one row of scalars that were true after ``step`` iterations."""

    def close(self) -> None:  # noqa: B027 (optional to override)
        """Write what is pending and let go of files and connections."""


@LOGGERS.register_module()
class JsonLinesLogger(ScalarLogger):
    """One JSON object a line with ``iter``, ``epoch`` and every scalar at full precision.

    On a resume, rows beyond the resumed iteration are removed, so the file is always one
    continuous sequence; a line that a kill cut in half is dropped.

    Args:
        filename: name of the file in the run folder.
    """

    def __init__(self, filename: str = 'log.jsonl'):
        self.filename = filename
        self._stream: TextIO | None = None
        self._written: tuple[int, set[frozenset[str]]] = (-1, set())

    def start(self, work_dir: Path, config: dict[str, Any], step: int) -> None:
        """Open the file; drop the rows that this run is going to write again."""
        file = Path(work_dir) / self.filename
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.exists():
            if step > 0:
                keep_rows(file, lambda row: row.get('iter', 0) <= step)
                # A kill between a validation and the next checkpoint makes the validation
                # happen twice; its row is there already.
                self._written = (step, {
                    frozenset(row) for row in read_rows(file) if row.get('iter') == step})
            else:  # a new run in an old folder: keep the old rows, but out of the way
                file.replace(_free_name(file))
        self._stream = file.open('a', encoding='utf-8')

    def log(self, scalars: Mapping[str, float], step: int) -> None:
        """Append one line."""
        if self._stream is None:
            raise RuntimeError('JsonLinesLogger.log was called before start(work_dir, ...)')
        row = {'iter': step, **scalars}
        if step != self._written[0] or frozenset(row) not in self._written[1]:
            append_row(self._stream, row)

    def close(self) -> None:
        """Close the file."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None


@LOGGERS.register_module()
class TensorBoardLogger(ScalarLogger):
    """Event files in the folder ``tensorboard`` of the run.

    TensorBoard is imported when the first row comes, so starting a run does not wait for it.

    Args:
        flush_seconds: how long a row may stay in memory.
    """

    def __init__(self, flush_seconds: int = 30):
        require('tensorboard', 'TensorBoardLogger')
        self.flush_seconds = flush_seconds
        self._folder: Path | None = None
        self._purge_step: int | None = None
        self._writer: Any = None

    def start(self, work_dir: Path, config: dict[str, Any], step: int) -> None:
        """Remember the folder; events beyond ``step`` are hidden by TensorBoard itself."""
        self._folder = Path(work_dir) / 'tensorboard'
        self._purge_step = step + 1 if step > 0 else None

    def log(self, scalars: Mapping[str, float], step: int) -> None:
        """Add one event for each scalar."""
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(
                str(self._folder), purge_step=self._purge_step, flush_secs=self.flush_seconds)
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush and close the event file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


@LOGGERS.register_module()
class WandbLogger(ScalarLogger):
    """A run at Weights & Biases; a resumed training continues the same run.

    Args:
        project: project to log to; by default what the environment says.
        name: name of the run; by default that of the run folder.
        settings: further arguments of ``wandb.init``.
    """

    def __init__(self, project: str | None = None, name: str | None = None,
                 settings: dict[str, Any] | None = None):
        require('wandb', 'WandbLogger')
        self.project = project
        self.name = name
        self.settings = settings or {}
        self._run: Any = None

    def start(self, work_dir: Path, config: dict[str, Any], step: int) -> None:
        """Start the run, or the earlier one again when ``step`` is beyond 0."""
        wandb = importlib.import_module('wandb')
        id_file = Path(work_dir) / 'wandb_id'
        run_id = id_file.read_text() if step > 0 and id_file.exists() else None
        self._run = wandb.init(project=self.project, name=self.name or Path(work_dir).name,
                               dir=str(work_dir), config=config, id=run_id,
                               resume='allow' if run_id else None, **self.settings)
        id_file.write_text(self._run.id)

    def log(self, scalars: Mapping[str, float], step: int) -> None:
        """Log one row."""
        self._run.log(dict(scalars), step=step)

    def close(self) -> None:
        """Finish the run."""
        if self._run is not None:
            self._run.finish()
            self._run = None


@LOGGERS.register_module()
class MLflowLogger(ScalarLogger):
    """A run of an MLflow experiment; a resumed training continues the same run.

    Args:
        experiment: name of the experiment.
        tracking_uri: server or folder; by default what the environment says.
        name: name of the run; by default that of the run folder.
    """

    def __init__(self, experiment: str = 'openlab', tracking_uri: str | None = None,
                 name: str | None = None):
        require('mlflow', 'MLflowLogger')
        self.experiment = experiment
        self.tracking_uri = tracking_uri
        self.name = name
        self._mlflow: Any = None

    def start(self, work_dir: Path, config: dict[str, Any], step: int) -> None:
        """Start the run, or the earlier one again when ``step`` is beyond 0."""
        mlflow = self._mlflow = importlib.import_module('mlflow')
        if self.tracking_uri is not None:
            mlflow.set_tracking_uri(self.tracking_uri)
        mlflow.set_experiment(self.experiment)
        id_file = Path(work_dir) / 'mlflow_id'
        run_id = id_file.read_text() if step > 0 and id_file.exists() else None
        name = self.name or Path(work_dir).name
        run = mlflow.start_run(run_id=run_id, run_name=None if run_id else name)
        id_file.write_text(run.info.run_id)
        if run_id is None:
            mlflow.log_dict(config, 'config.json')

    def log(self, scalars: Mapping[str, float], step: int) -> None:
        """Log one row."""
        self._mlflow.log_metrics({k: v for k, v in scalars.items() if is_number(v)}, step=step)

    def close(self) -> None:
        """End the run."""
        if self._mlflow is not None:
            self._mlflow.end_run()
            self._mlflow = None


class LoggerGroup:
    """All loggers of a run as one.

    Args:
        loggers: loggers, or their configs; ``None`` for the JSON-lines file, and TensorBoard
            where it is installed.
    """

    def __init__(self, loggers: Iterable[ScalarLogger | Mapping[str, Any]] | None = None):
        if loggers is None:
            loggers = [JsonLinesLogger()]
            if importlib.util.find_spec('tensorboard') is not None:
                loggers.append(TensorBoardLogger())
        self.loggers: list[ScalarLogger] = [
            build(cfg, LOGGERS, f'loggers[{i}]') for i, cfg in enumerate(loggers)]

    def start(self, work_dir: str | Path, config: dict[str, Any], step: int = 0) -> None:
        """Open all of them."""
        for logger in self.loggers:
            logger.start(Path(work_dir), config, step)

    def log(self, scalars: Mapping[str, float], step: int) -> None:
        """Hand one row to all of them."""
        for logger in self.loggers:
            logger.log(scalars, step)

    def close(self) -> None:
        """Close all of them."""
        for logger in self.loggers:
            logger.close()


def require(package: str, user: str) -> None:
    """Complain, with the line that installs it, if an optional package is not there.

    Raises:
        ModuleNotFoundError: if ``package`` cannot be imported.
    """
    if importlib.util.find_spec(package) is None:
        raise ModuleNotFoundError(
            f'{user} needs the package {package}, which is not installed; install it with: '
            f'pip install {package}', name=package)


def _free_name(file: Path) -> Path:
    number = 1
    while (candidate := file.with_name(f'{file.stem}.old{number}{file.suffix}')).exists():
        number += 1
    return candidate
