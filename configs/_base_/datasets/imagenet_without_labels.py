"""ImageNet-1k for pre-training: no labels in training; how near neighbours are in validation.

The config that reads this puts its views into ``train_dataloader.dataset.pipeline``.
"""

from mmengine.config import read_base

from openlab.data.preprocessors import ImagePreprocessor
from openlab.data.transforms.color import ColorJitter, GaussianBlur, RandomGrayscale, Solarize
from openlab.data.transforms.views import MultiView
from openlab.metrics.knn import KNNAccuracy

with read_base():
    from .imagenet import *

preprocessor = dict(
    type=ImagePreprocessor, mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375])
val_evaluator = [dict(type=KNNAccuracy, k=(10, 20))]
