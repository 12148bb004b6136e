"""A sheet of predictions beside their truth: what a model gets wrong, at a glance."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from openlab.structures.data_sample import DataSample
from openlab.structures.item_errors import (
    IGNORED,
    KIND_COLOURS,
    KINDS,
    ItemErrors,
    Task,
    Verdict,
)
from openlab.structures.item_errors import RIGHT as IS_RIGHT
from openlab.structures.objects import fields_of_task
from openlab.visualization.draw import (
    RIGHT,
    WRONG,
    Colour,
    Colours,
    add_caption,
    as_rgb,
    class_name,
    draw_grid,
    draw_panel,
    draw_sample,
    enlarge,
    join_panels,
    legend,
    scale_for,
)
from openlab.visualization.text import BLACK

LONGEST_LEGEND = 60


def prediction_sheet(
    images: Sequence[np.ndarray | Tensor],
    predictions: Sequence[DataSample],
    truths: Sequence[DataSample],
    errors: Sequence[ItemErrors | None],
    classes: Sequence[str] | None = None,
    *,
    title: str = 'Predictions',
    max_items: int = 48,
    columns: int | None = None,
    min_side: int = 128,
    score_threshold: float = 0.3,
    palette: Sequence[Sequence[int]] | None = None,
    total: int | None = None,
    num_right: int | None = None,
) -> np.ndarray:
    """Draw predictions beside their truth, the worst first, framed by right or wrong.

    A class label is a caption of both; objects and maps are two panels, truth on the left, to
    which a semantic map adds the wrong pixels by kind of error. Below the title are the numbers
    of errors and the colours of the classes.

    Args:
        images: one image for each prediction.
        predictions: what the model says.
        truths: what it should say.
        errors: what is wrong with each prediction; ``None`` where that is unknown.
        classes: names of the classes.
        title: first words over the sheet.
        max_items: most items to draw.
        columns: items in a row.
        min_side: smaller images are enlarged to this short side.
        score_threshold: objects with a smaller score are not drawn.
        palette: colour of each class.
        total: how many items were compared, if these are the worst of more.
        num_right: how many of all were right.

    Returns:
        The sheet, (H, W, 3) uint8 RGB.

    Raises:
        ValueError: if the sequences differ in length, or are empty.
    """
    if not len(images) == len(predictions) == len(truths) == len(errors):
        raise ValueError(f'each image needs a prediction, a truth and its errors; got '
                         f'{len(images)} images, {len(predictions)} predictions, {len(truths)} '
                         f'truths, {len(errors)} errors')
    order = worst_first(errors)[:max_items]
    colours = Colours(palette)
    pictures = [_picture(images[i], predictions[i], truths[i], errors[i], classes, colours,
                         min_side, score_threshold) for i in order]
    if columns is None:
        widest = max((p.shape[1] for p in pictures), default=1)
        columns = int(np.clip(2200 // widest, 2, 8))
    sheet = draw_grid(pictures, columns, frames=[_frame(errors[i]) for i in order], pad=14)
    size = int(np.clip(sheet.shape[1] / 45, 14, 30))
    shown = [(predictions[i], truths[i], errors[i]) for i in order]
    strip = legend(_entries(shown, classes, colours), sheet.shape[1], max(14, size * 2 // 3))
    if any(e is not None and e.task != 'classification' for e in errors):
        sheet = np.concatenate([strip, sheet], axis=0)
    known = [e for e in errors if e is not None]
    right = sum(e.is_right for e in known) if num_right is None else num_right
    lines = _header(title, known, right, len(order), total or len(errors))
    return add_caption(sheet, lines, size)


def worst_first(errors: Sequence[ItemErrors | None]) -> list[int]:
    """Indices by falling severity, in their order where that is equal; unknown ones last."""
    def rank(i: int) -> float:
        error = errors[i]
        return float('inf') if error is None else -error.severity

    return sorted(range(len(errors)), key=rank)


def count_words(counts: dict[str, int], task: Task, pixels: int = 0) -> str:
    """Numbers of errors in words: ``2 missed · 1 duplicate``; shares where pixels are counted."""
    words = [f'{f"{n / pixels:.1%}" if pixels else n} {KINDS[task][kind][0].lower()}'
             for kind, n in counts.items() if n]
    return ' · '.join(words) or 'no errors'


def hex_colour(kind: str) -> Colour:
    """Colour of a kind of error as red, green, blue."""
    text = KIND_COLOURS[kind]
    return int(text[1:3], 16), int(text[3:5], 16), int(text[5:7], 16)


def _picture(image: np.ndarray | Tensor, prediction: DataSample, truth: DataSample,
             errors: ItemErrors | None, classes: Sequence[str] | None, colours: Colours,
             min_side: int, threshold: float) -> np.ndarray:
    """Both sides of one item, under its errors."""
    if errors is None or errors.task == 'classification':
        return draw_sample(image, prediction, classes, truth, min_side=min_side,
                           score_threshold=threshold)
    rgb = as_rgb(image)
    scale = scale_for(rgb, min_side)
    sides = [(fields_of_task(truth, errors.task), 0.0, errors.truths),
             (fields_of_task(prediction, errors.task), threshold, errors.predicted)]
    panels = [draw_panel(rgb, sample, classes, scale, least, colours=colours, with_legend=False,
                         notes=None if errors.task == 'semantic' else _notes(verdicts, threshold))
              for sample, least, verdicts in sides]
    titles = ['truth', 'prediction']
    if errors.task == 'semantic':
        panels.append(_error_panel(rgb, errors, scale))
        titles.append('errors')
    joined = join_panels(panels, titles)
    pixels = rgb.shape[0] * rgb.shape[1] if errors.task == 'semantic' else 0
    words = count_words(errors.counts, errors.task, pixels)
    return add_caption(joined, [(words, RIGHT if errors.is_right else WRONG)])


def _notes(verdicts: Sequence[Verdict], threshold: float) -> list[str]:
    """What is wrong with each object, as far as it shows at the threshold."""
    notes = []
    for verdict in verdicts:
        kind = verdict.kind
        if kind == 'covered' or (kind == IS_RIGHT and -1 < verdict.found_at < threshold):
            kind = 'covered' if verdict.covered_at >= threshold else 'missed'
        notes.append('' if kind in (IS_RIGHT, 'covered') else
                     'crowd' if kind == IGNORED else kind)
    return notes


def _error_panel(image: np.ndarray, errors: ItemErrors, scale: int) -> np.ndarray:
    """The image in grey, with wrong pixels in the colours of their kinds."""
    grey = (image.mean(axis=2, keepdims=True) * 0.45 + 110).clip(0, 255)
    panel = np.repeat(grey, 3, axis=2).astype(np.uint8)
    for region in errors.regions:
        panel[region.mask.numpy()] = hex_colour(region.kind)
    return enlarge(panel, scale)


def _entries(shown: Sequence[tuple[DataSample, DataSample, ItemErrors | None]],
             classes: Sequence[str] | None, colours: Colours) -> list[tuple[str, Colour]]:
    """The legend: classes of what is shown, and kinds of errors where they have colours."""
    labels: set[int] = set()
    kinds: dict[str, tuple[str, Colour]] = {}
    for prediction, truth, errors in shown:
        if errors is None:
            continue
        for sample in (prediction, truth):
            labels |= _labels_in(fields_of_task(sample, errors.task))
        kinds |= {r.kind: (f'error: {KINDS[errors.task][r.kind][0].lower()}',
                             hex_colour(r.kind)) for r in errors.regions}
    entries = [(class_name(k, classes), colours[k]) for k in sorted(labels)]
    if len(entries) > LONGEST_LEGEND:
        more = len(entries) - LONGEST_LEGEND
        entries = [*entries[:LONGEST_LEGEND], (f'and {more} more classes', (255, 255, 255))]
    return entries + list(kinds.values())


def _labels_in(sample: DataSample) -> set[int]:
    found: set[int] = set()
    if sample.labels is not None:
        found |= set(sample.labels.tolist())
    if sample.segments is not None:
        found |= {int(s['label']) for s in sample.segments}
    if sample.semantic_map is not None:
        found |= set(sample.semantic_map.unique().tolist()) - {255}
    return found


def _frame(errors: ItemErrors | None) -> Colour | None:
    if errors is None:
        return None
    return RIGHT if errors.is_right else WRONG


def _header(title: str, known: Sequence[ItemErrors], right: int, shown: int,
            total: int) -> list[tuple[str, Colour]]:
    lines: list[tuple[str, Colour]] = [(title, BLACK)]
    if known and known[0].task == 'classification':
        lines.append((f'{right} of {total} right ({right / total:.2%})', BLACK))
    elif known:
        lines.append((f'{total - right} of {total} with errors', BLACK))
    if shown < total:
        lines.append((f'{shown} of {total} shown, worst first', BLACK))
    return lines
