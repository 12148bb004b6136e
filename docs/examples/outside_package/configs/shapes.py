"""Discs against squares with a backbone, dataset and transform from outside of openlab.

The classes are imported like openlab's own: an editor can jump to them.
"""

from shapes.backbone import DepthwiseNet
from shapes.dataset import AddNoise, Shapes
from torch.optim import AdamW

from openlab.algorithms.classification.image_classifier import ImageClassifier
from openlab.data.preprocessors import ImagePreprocessor
from openlab.data.samplers import DefaultSampler
from openlab.data.transforms.packing import PackInputs
from openlab.heads.linear_head import LinearHead
from openlab.metrics.accuracy import Accuracy

num_epochs = 12

model = dict(
    type=ImageClassifier,
    preprocessor=dict(type=ImagePreprocessor, mean=[80.0] * 3, std=[70.0] * 3),
    backbone=dict(type=DepthwiseNet, width=16),
    head=dict(type=LinearHead, num_classes=2))
train_dataloader = dict(
    batch_size=16,
    num_workers=0,
    sampler=dict(type=DefaultSampler, shuffle=True),
    dataset=dict(type=Shapes, pipeline=[dict(type=AddNoise), dict(type=PackInputs)]))
val_dataloader = dict(
    batch_size=32,
    num_workers=0,
    dataset=dict(type=Shapes, num_items=64, seed=1, pipeline=[dict(type=PackInputs)]))
val_evaluator = [dict(type=Accuracy)]
train_cfg = dict(max_epochs=num_epochs)
optim_wrapper = dict(optimizer=dict(type=AdamW, lr=0.01))
randomness = dict(seed=0)
