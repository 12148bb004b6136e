"""SimCLR on the handwritten digits of scikit-learn: a small residual network without any label.

* Command: ``openlab train configs/quickstart/selfsup.py``
* Result: 0.960 of the 449 held-out digits have a nearest neighbour of their own class (best epoch
  0.964; 0.572 with the first weights)
"""

from mmengine.config import read_base

from openlab.algorithms.selfsup.simclr import SimCLR
from openlab.backbones.resnet import ResNet
from openlab.data.preprocessors import ImagePreprocessor
from openlab.data.transforms.color import ColorJitter, GaussianBlur
from openlab.data.transforms.views import MultiView
from openlab.heads.projector import Projector
from openlab.metrics.knn import KNNAccuracy

with read_base():
    from .._base_.datasets.digits import *
    from .._base_.runtime import *
    from .._base_.schedules.sgd_cosine import *

model = dict(
    type=SimCLR,
    preprocessor=dict(type=ImagePreprocessor, mean=[77.8] * 3, std=[95.9] * 3),
    backbone=dict(type=ResNet, block='basic', num_blocks=(1, 1, 1), base_channels=16,
                  stem='conv3', out_stages=(4,)),
    projector=dict(type=Projector, num_layers=2, hidden_channels=128, out_channels=64),
    temperature=0.2)

train_dataloader.batch_size = 128
train_dataloader.dataset.pipeline = [
    dict(type=Resize, size=image_size),
    dict(type=MultiView, counts=[2], pipelines=[[
        dict(type=RandomAffine, degrees=15, translate=(0.15, 0.15), scale=(0.7, 1.3)),
        dict(type=ColorJitter, brightness=0.5, contrast=0.5),
        dict(type=GaussianBlur, sigma=(0.1, 1.0), prob=0.5)]]),
    dict(type=PackInputs)]
val_evaluator = [dict(type=KNNAccuracy, k=(1, 20))]

max_epochs = 16
optim_wrapper.optimizer.lr = 0.2
optim_wrapper.optimizer.weight_decay = 1e-4
train_cfg.val_interval = 4
env = dict(num_threads=1)  # on batches this small more threads wait longer than they work
