"""Predictions as plain data, and as files: drawings, annotated videos, one JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from openlab.apis.gallery import Gallery
from openlab.apis.image_inputs import InputImage
from openlab.structures.data_sample import DataSample
from openlab.visualization.draw import draw_sample

DRAWINGS = 'drawings'
RESULTS = 'results.json'


def plain_result(sample: DataSample, topk: int = 5) -> dict[str, Any]:
    """A prediction as JSON data: numbers are rounded to what float32 holds.

    Args:
        sample: with ``classes`` in its ``meta`` where names are known.
        topk: how many class probabilities, or images found, to list.

    Returns:
        ``image`` and ``size`` (H, W) besides what the task gives: ``label``, ``class``,
        ``score`` and ``top``; ``objects``; ``semantic_map`` as run lengths; ``text``; ``matches``.
    """
    classes = sample.meta.get('classes') or ()
    result: dict[str, Any] = {'image': sample.meta.get('img_path') or sample.meta.get('name')}
    if 'frame' in sample.meta:
        result['frame'] = sample.meta['frame']
    if 'ori_shape' in sample.meta:
        result['size'] = [int(x) for x in sample.meta['ori_shape']]
    if sample.label is not None:
        result |= _named(int(sample.label), classes)
    if sample.label_probs is not None:
        probs = sample.label_probs.float()
        values, indices = probs.topk(min(topk, len(probs)))
        result['score'] = _rounded(probs[result['label']] if 'label' in result else values[0])
        result['top'] = [
            _named(int(i), classes) | {'score': _rounded(v)} for v, i in zip(values, indices)
        ]
    if len(sample):
        result['objects'] = [_object(sample, i, classes) for i in range(len(sample))]
    elif sample.boxes is not None or sample.masks is not None:
        result['objects'] = []
    if sample.semantic_map is not None:
        result['semantic_map'] = run_lengths(sample.semantic_map)
    if sample.text is not None:
        result['text'] = sample.text
    if 'matches' in sample.meta:
        scores = sample.extra['match_scores'].tolist()
        result['matches'] = [{'image': name, 'score': _rounded(score)}
                             for name, score in zip(sample.meta['matches'][:topk], scores)]
    return result


def _object(sample: DataSample, index: int, classes: Sequence[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if sample.labels is not None:
        found |= _named(int(sample.labels[index]), classes)
    if sample.scores is not None:
        found['score'] = _rounded(sample.scores[index])
    if sample.boxes is not None:
        found['box'] = [_rounded(v) for v in sample.boxes[index]]
    if sample.keypoints is not None:
        found['keypoints'] = [[_rounded(v) for v in point] for point in sample.keypoints[index]]
    if sample.masks is not None:
        found['mask'] = run_lengths(sample.masks[index])
    return found


def run_lengths(values: Tensor) -> dict[str, Any]:
    """An integer map as runs in reading order: ``{'size', 'values', 'lengths'}``.

    Args:
        values: (H, W), bool or integer.
    """
    flat = values.to(torch.int64).flatten()
    runs, lengths = torch.unique_consecutive(flat, return_counts=True)
    return {'size': list(values.shape), 'values': runs.tolist(), 'lengths': lengths.tolist()}


def _named(label: int, classes: Sequence[str]) -> dict[str, Any]:
    return {'label': label, 'class': str(classes[label]) if label < len(classes) else str(label)}


def _rounded(value: Any) -> float | None:
    """Seven digits, as JSON: not-a-number has no place there."""
    number = float(value)
    return float(f'{number:.7g}') if math.isfinite(number) else None


class ResultFiles:
    """Writes results into a folder as they come.

    Args:
        folder: made if it is not there.
        info: what to say about model and weights at the head of the JSON.
        topk: how many class probabilities to list.
        draw: also draw each image, and each frame into an annotated video.
        gallery: has pictures of what a search found.
    """

    def __init__(self, folder: str | Path, info: dict[str, Any], topk: int = 5,
                 draw: bool = True, gallery: Gallery | None = None):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.info = info
        self.topk = topk
        self.draw = draw
        self.gallery = gallery
        self.results: list[dict[str, Any]] = []
        self._names: set[str] = set()
        self._video: tuple[str, cv2.VideoWriter, tuple[int, int], str] | None = None

    def add(self, source: InputImage, sample: DataSample) -> None:
        """Take in one prediction."""
        result = plain_result(sample, self.topk)
        if self.draw:
            picture = self._picture(source, sample)
            drawing = (self._write_frame(source, picture) if source.video is not None
                       else self._write_image(source, picture))
            result['drawing'] = drawing
        self.results.append(result)

    def _picture(self, source: InputImage, sample: DataSample) -> np.ndarray:
        if self.gallery is None:
            return draw_sample(source.image, sample, sample.meta.get('classes'))
        return self.gallery.draw(source.image, sample.extra['matches'][:self.topk].tolist(),
                                 sample.extra['match_scores'].tolist())

    def close(self, skipped: Sequence[tuple[str, str]] = ()) -> Path:
        """Finish videos and write the JSON.

        Args:
            skipped: name and reason of each input without a result.
        """
        self._close_video()
        data = {
            **self.info,
            'results': self.results,
            'skipped': [{'image': name, 'reason': reason} for name, reason in skipped],
        }
        path = self.folder / RESULTS
        path.write_text(json.dumps(data, indent=1) + '\n', encoding='utf-8')
        return path

    def _write_image(self, source: InputImage, picture: np.ndarray) -> str:
        stem = Path(source.path).stem if source.path else source.name.replace(' ', '_')
        name = self._unique(stem, '.png')
        path = self.folder / DRAWINGS / name
        path.parent.mkdir(exist_ok=True)
        # By bytes: OpenCV itself cannot write to paths with letters outside of ASCII everywhere.
        _, data = cv2.imencode('.png', cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
        path.write_bytes(data.tobytes())
        return f'{DRAWINGS}/{name}'

    def _write_frame(self, source: InputImage, picture: np.ndarray) -> str:
        assert source.video is not None
        if self._video is None or self._video[0] != source.video.path or source.frame == 0:
            self._open_video(source, picture)
        assert self._video is not None
        _, writer, (width, height), name = self._video
        canvas = np.zeros((height, width, 3), np.uint8)  # captions may differ in height
        fitting = picture[:height, :width]
        canvas[: fitting.shape[0], : fitting.shape[1]] = fitting
        writer.write(cv2.cvtColor(canvas, cv2.COLOR_RGB2BGR))
        return name

    def _open_video(self, source: InputImage, picture: np.ndarray) -> None:
        self._close_video()
        assert source.video is not None
        name = self._unique(Path(source.video.path).stem, '.mp4')
        # Codecs want even sizes.
        size = (picture.shape[1] + picture.shape[1] % 2, picture.shape[0] + picture.shape[0] % 2)
        code = cv2.VideoWriter.fourcc(*'mp4v')
        writer = cv2.VideoWriter(str(self.folder / name), code, source.video.fps, size)
        if not writer.isOpened():
            raise OSError(f'OpenCV cannot write the video {self.folder / name} (codec mp4v)')
        self._video = (source.video.path, writer, size, name)

    def _close_video(self) -> None:
        if self._video is not None:
            self._video[1].release()
            self._video = None

    def _unique(self, stem: str, suffix: str) -> str:
        name, number = f'{stem}{suffix}', 1
        while name in self._names:
            number += 1
            name = f'{stem}_{number}{suffix}'
        self._names.add(name)
        return name
