"""What a finished training shows: metrics, and where to find its results."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2

from openlab.visualization.curves import smaller_is_better

if TYPE_CHECKING:
    from openlab.engine.runner import Runner

# Items among which a sheet looks for errors; comparing maps and masks takes longer than labels.
SHEET_CANDIDATES = {'classification': 512}
OTHER_CANDIDATES = 64


def print_summary(runner: Runner) -> dict[str, Path]:
    """Print the metric table and the paths of checkpoint, curves and predictions.

    The sheet of predictions is drawn here, from the validation set with the best weights.

    Args:
        runner: after its training.

    Returns:
        The files and folders there are, by name; empty on other processes than the first.
    """
    if runner.rank != 0:
        return {}
    stopped = getattr(getattr(runner, 'stop_request', None), 'signal', None) is not None
    work_dir = Path(runner.work_dir)
    checkpoint = best_checkpoint(work_dir)
    files: dict[str, Path] = {}
    if checkpoint is not None:
        files['checkpoint'] = checkpoint
    if (work_dir / 'curves.png').exists():
        files['curves'] = work_dir / 'curves.png'
    sheet = None
    if not stopped:  # whoever stopped the training is waiting for its end
        sheet = write_prediction_sheet(runner, work_dir / 'predictions.png', checkpoint)
    if sheet is not None:
        files['predictions'] = sheet
    if (work_dir / 'log.jsonl').exists():
        files['log'] = work_dir / 'log.jsonl'
    table = metric_table(runner.metrics_history)
    lines = [*table, *([''] if table else []), *path_lines(files)]
    if stopped:
        lines.append(f'stopped by {runner.stop_request.name} after iteration {runner.iter}; '
                     'go on with --resume')
    print('\n' + '\n'.join(lines), flush=True)
    return files


def metric_table(history: list[dict[str, Any]]) -> list[str]:
    """Lines of a table: each validation metric's last and best value, and when it was best.

    Args:
        history: results of evaluations with ``stage``, ``epoch`` and ``iter``, in order.
    """
    runs = [h for h in history if h.get('stage', 'val') == 'val'] or history
    names = list(dict.fromkeys(
        k for h in runs for k, v in h.items()
        if k not in ('stage', 'epoch', 'iter') and isinstance(v, (int, float))))
    rows = [('metric', 'last', 'best', 'best at')]
    for name in names:
        having = [h for h in runs if name in h]
        pick = min if smaller_is_better(name) else max
        best = pick(having, key=lambda h: h[name])
        where = f'epoch {best["epoch"]}, iter {best["iter"]}' if best.get('epoch') else (
            f'iter {best.get("iter", 0)}')
        rows.append((name, _number(having[-1][name]), _number(best[name]), where))
    return aligned(rows) if len(rows) > 1 else []


def aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Lines of a table with a rule below its head; numbers stand to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    is_number = [all(row[i][:1].isdigit() or row[i][:1] == '-' for row in rows[1:])
                 for i in range(len(widths))]
    lines = ['  '.join(cell.rjust(width) if right else cell.ljust(width)
                       for cell, width, right in zip(row, widths, is_number)).rstrip()
             for row in rows]
    return [lines[0], '-' * max(map(len, lines)), *lines[1:]]


def path_lines(files: Mapping[str, Path]) -> list[str]:
    """One line for each path, relative where that is shorter."""
    width = max((len(name) for name in files), default=0)
    return [f'{name.ljust(width)}  {_short(path)}' for name, path in files.items()]


def best_checkpoint(work_dir: Path) -> Path | None:
    """The best checkpoint of a run, else its last one, else ``None``."""
    from openlab.engine.checkpoint_files import resolve_checkpoint

    for name in ('best', 'last'):
        try:
            return resolve_checkpoint(work_dir / 'checkpoints' / name)
        except (FileNotFoundError, NotADirectoryError):  # a file of weights has no runs in it
            continue
    return None


def write_prediction_sheet(runner: Runner, out: Path, checkpoint: Path | None) -> Path | None:
    """Draw predictions on the validation set; ``None`` where there are no images to draw.

    The model is built anew for it: that of the training may be compiled, or spread over
    processes of which only this one is here.

    Args:
        runner: after its training.
        out: PNG file to write.
        checkpoint: weights; those in memory without.
    """
    from openlab.apis import visualization as source
    from openlab.apis.prediction_report import ModelPairs, PredictionReport, collect
    from openlab.metrics.item_errors import task_of

    loader = runner.val_dataloader
    if loader is None or not hasattr(loader, 'source'):
        return None
    first = loader.source[0]
    if not (isinstance(first, dict) and source.is_picture(first.get('inputs'))):
        return None
    cfg = runner.cfg
    if checkpoint is not None and isinstance(cfg, Mapping) and isinstance(
            cfg.get('model'), Mapping):
        model = source.build_model(cfg, checkpoint)
    else:
        model = runner.unwrapped_model
    total = len(loader.source)
    one = next(iter(ModelPairs(model, loader, [0], 1)), None)
    task = None if one is None else task_of(one.prediction, one.truth)
    if task is None:
        return None  # features alone, as of pre-training, leave nothing to draw
    indices = source.spread(total, SHEET_CANDIDATES.get(task, OTHER_CANDIDATES))
    pairs = ModelPairs(model, loader, indices, loader.batch_size or 32)
    report = PredictionReport(pairs.classes, loader.metainfo.get('palette'), limit=1)
    collect(pairs, report)
    scope = 'validation set' if report.total == total else (
        f'{report.total} of {total} validation items')
    weights = checkpoint.name if checkpoint is not None else 'last weights'
    return write_png(out, report.sheet(f'Predictions on the {scope} ({weights})'))


def write_png(out: Path, picture: Any) -> Path:
    """Write an RGB picture.

    Raises:
        OSError: if that fails.
    """
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    done, data = cv2.imencode('.png', picture[..., ::-1])
    if not done:
        raise OSError(f'{out}: a picture of shape {picture.shape} cannot be encoded')
    partial = out.with_name(f'.{os.getpid()}.{out.name}')
    partial.write_bytes(data.tobytes())
    partial.replace(out)
    return out


def _number(value: float) -> str:
    return f'{value:.4f}' if isinstance(value, float) else str(value)


def _short(path: Path) -> str:
    relative = os.path.relpath(path)
    return relative if not relative.startswith('..') else str(path)
