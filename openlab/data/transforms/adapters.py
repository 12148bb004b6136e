"""Transforms of other libraries as steps of our pipelines.

Both hand over image, boxes, masks, semantic map and keypoints, and bring back what came out.
Objects carry a number on the way, so that those the other library drops disappear from every
field.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from openlab.data.transforms.base import Results, Transform
from openlab.data.transforms.geometry import select_objects
from openlab.registry import TRANSFORMS, import_object


def make_foreign(cfg: Any, module: str) -> Any:
    """Build a transform from a dict whose ``type`` is a name in ``module``, lists included."""
    if isinstance(cfg, dict) and 'type' in cfg:
        kind = cfg['type']
        if isinstance(kind, str):
            kind = import_object(kind if '.' in kind else f'{module}.{kind}')
        elif hasattr(kind, 'dotted_path'):
            kind = import_object(kind.dotted_path)
        return kind(**{k: make_foreign(v, module) for k, v in cfg.items() if k != 'type'})
    if isinstance(cfg, (list, tuple)):
        return [make_foreign(v, module) if isinstance(v, dict) else v for v in cfg]
    return cfg


def _finish(results: Results, kept: np.ndarray | None) -> Results:
    results['img_shape'] = results['img'].shape[:2]
    # Where such a transform moved things is not known, so the way back is lost.
    results.pop('matrix', None)
    if kept is not None and results.get('boxes') is not None:
        height, width = results['img_shape']
        boxes = np.asarray(results['boxes'], dtype=np.float32).reshape(-1, 4)
        results['boxes'] = boxes.clip(0, (width, height, width, height)).astype(np.float32)
        sides = results['boxes'][:, 2:] - results['boxes'][:, :2]
        select_objects(results, (sides > 0).all(axis=1))
    return results


@TRANSFORMS.register_module()
class TorchvisionTransform(Transform):
    """Transforms of ``torchvision.transforms.v2``; boxes and masks follow as its tv_tensors.

    Args:
        transforms: dicts like ``dict(type='RandomPhotometricDistort', p=0.5)``, applied in
            order. They must leave an image of type uint8.
    """

    def __init__(self, transforms: Sequence[dict[str, Any]]):
        try:
            from torchvision.transforms import v2
        except ImportError as error:
            raise ImportError('TorchvisionTransform needs torchvision: '
                              'pip install torchvision') from error
        self._compose = v2.Compose(make_foreign(list(transforms), 'torchvision.transforms.v2'))
        self.transforms = self._compose.transforms

    def __call__(self, results: Results) -> Results:
        """Wrap, transform, unwrap."""
        from torchvision import tv_tensors

        size = results['img'].shape[:2]
        given: dict[str, Any] = {
            'img': tv_tensors.Image(torch.from_numpy(results['img']).permute(2, 0, 1))}
        if results.get('boxes') is not None:
            given['boxes'] = tv_tensors.BoundingBoxes(
                torch.from_numpy(np.asarray(results['boxes'], dtype=np.float32)),
                format='XYXY', canvas_size=size)
            given['labels'] = torch.arange(len(results['boxes']))
        for key in ('masks', 'semantic_map'):
            if results.get(key) is not None:
                given[key] = tv_tensors.Mask(torch.from_numpy(np.asarray(results[key])))
        if results.get('keypoints') is not None:
            if not hasattr(tv_tensors, 'KeyPoints'):
                raise RuntimeError('this torchvision cannot move keypoints; it needs 0.23 or later')
            points = torch.from_numpy(np.asarray(results['keypoints'], dtype=np.float32))
            given['keypoints'] = tv_tensors.KeyPoints(points[..., :2], canvas_size=size)
        out = self._compose(given)
        kept = None
        if 'boxes' in given:
            kept = out['labels'].numpy()
            # torchvision drops objects from boxes, labels and masks; the rest is ours to drop.
            for key in ('labels', 'is_crowd'):
                if results.get(key) is not None:
                    results[key] = np.asarray(results[key])[kept]
        self._take_back(results, out, kept)
        return _finish(results, kept)

    def _take_back(self, results: Results, out: dict[str, Any], kept: np.ndarray | None) -> None:
        results['img'] = np.ascontiguousarray(out['img'].permute(1, 2, 0).numpy())
        for key in ('boxes', 'masks', 'semantic_map'):
            if key in out:
                results[key] = out[key].numpy().copy()
        if 'keypoints' in out:
            old = np.asarray(results['keypoints'], dtype=np.float32)
            moved = np.concatenate([out['keypoints'].numpy(), old[..., 2:]], axis=-1)
            if kept is not None and len(moved) != len(kept):
                moved = moved[kept]
            height, width = results['img'].shape[:2]
            x, y = moved[..., 0], moved[..., 1]
            moved[(x < 0) | (y < 0) | (x > width) | (y > height), 2] = 0
            results['keypoints'] = moved


@TRANSFORMS.register_module()
class AlbumentationsTransform(Transform):
    """Transforms of ``albumentations``; boxes, masks, map and keypoints follow.

    Args:
        transforms: dicts like ``dict(type='RandomFog', p=0.1)``, applied in order.
        min_visible: drop objects that keep no more than this part of their box.
    """

    def __init__(self, transforms: Sequence[dict[str, Any]], min_visible: float = 0.0):
        try:
            import albumentations
        except ImportError as error:
            raise ImportError('AlbumentationsTransform needs albumentations: '
                              'pip install albumentations') from error
        self.min_visible = min_visible
        self.transforms = make_foreign(list(transforms), 'albumentations')
        boxes = albumentations.BboxParams(
            format='pascal_voc', label_fields=['numbers'], min_visibility=min_visible, clip=True)
        points = albumentations.KeypointParams(format='xy', remove_invisible=False)
        self._compose = {
            (with_boxes, with_points): albumentations.Compose(
                self.transforms, bbox_params=boxes if with_boxes else None,
                keypoint_params=points if with_points else None)
            for with_boxes in (False, True) for with_points in (False, True)
        }

    def __call__(self, results: Results) -> Results:
        """Hand over, transform, take back."""
        has_boxes = results.get('boxes') is not None
        has_points = results.get('keypoints') is not None
        given: dict[str, Any] = {'image': results['img']}
        if has_boxes:
            given['bboxes'] = np.asarray(results['boxes'], dtype=np.float32)
            given['numbers'] = np.arange(len(results['boxes']))
        if has_points:
            # Pixel centres lie at whole numbers there.
            points = np.asarray(results['keypoints'], dtype=np.float32)
            given['keypoints'] = points[..., :2].reshape(-1, 2) - 0.5
        if results.get('masks') is not None and len(results['masks']):
            given['masks'] = list(results['masks'])
        if results.get('semantic_map') is not None:
            given['mask'] = results['semantic_map']
        compose = self._compose[has_boxes, has_points]
        # Its generator is its own: tie it to those that the loader seeds for each item.
        compose.set_random_seed(int(np.random.randint(2**31)))
        out = compose(**given)
        results['img'] = out['image']
        size = results['img'].shape[:2]
        if 'mask' in out:
            results['semantic_map'] = out['mask']
        if results.get('masks') is not None:
            results['masks'] = np.stack(out['masks']) if 'masks' in out else \
                np.zeros((0, *size), np.uint8)
        if has_points:
            moved = np.asarray(out['keypoints'], np.float32).reshape(*points.shape[:2], 2) + 0.5
            limit = np.array([size[1], size[0]])
            inside = np.all((moved >= 0) & (moved <= limit), axis=-1, keepdims=True)
            results['keypoints'] = np.concatenate(
                [moved, points[..., 2:] * inside], axis=-1)
        if not has_boxes:
            return _finish(results, None)
        kept = np.asarray(out['numbers'], dtype=np.int64)
        for key in ('labels', 'is_crowd', 'masks', 'keypoints'):
            if results.get(key) is not None:
                results[key] = np.asarray(results[key])[kept]
        results['boxes'] = np.asarray(out['bboxes'], dtype=np.float32).reshape(-1, 4)
        return _finish(results, kept)
