"""Find the same digit: a small residual network with ArcFace, each held-out digit a query.

* Paper: ArcFace, https://arxiv.org/abs/1801.07698
* Command: ``openlab train configs/retrieval/arcface/arcface_resnet18_20e_digits.py``
"""

from mmengine.config import read_base

from openlab.algorithms.retrieval.image_retriever import ImageRetriever
from openlab.backbones.resnet import ResNet
from openlab.data.preprocessors import ImagePreprocessor
from openlab.heads.margin_head import MarginHead
from openlab.metrics.retrieval import RetrievalMetric

with read_base():
    from ..._base_.datasets.digits import *
    from ..._base_.runtime import *
    from ..._base_.schedules.sgd_cosine import *

model = dict(
    type=ImageRetriever,
    preprocessor=dict(type=ImagePreprocessor, mean=[77.8] * 3, std=[95.9] * 3),
    backbone=dict(type=ResNet, block='basic', num_blocks=(1, 1, 1), base_channels=16,
                  stem='conv3', out_stages=(4,)),
    head=dict(type=MarginHead, num_classes=10, embed_dim=32, add=0.3, scale=16.0))

val_evaluator = [dict(type=RetrievalMetric)]
max_epochs = 20
optim_wrapper.optimizer.lr = 0.05
optim_wrapper.optimizer.weight_decay = 5e-4
default_hooks.checkpoint.save_best = 'retrieval/mAP'
env = dict(num_threads=1)  # on batches this small more threads wait longer than they work
