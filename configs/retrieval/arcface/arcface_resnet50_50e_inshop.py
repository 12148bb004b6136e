"""ResNet-50 with ArcFace finds garments of In-shop Clothes Retrieval it has never seen.

* Papers: ArcFace, https://arxiv.org/abs/1801.07698; GeM, https://arxiv.org/abs/1711.02512
* Command: ``openlab train configs/retrieval/arcface/arcface_resnet50_50e_inshop.py``
"""

from mmengine.config import read_base

from openlab.algorithms.retrieval.image_retriever import ImageRetriever
from openlab.backbones.resnet import ResNet
from openlab.data.preprocessors import ImagePreprocessor
from openlab.heads.margin_head import MarginHead
from openlab.layers.pool import GeMPool

with read_base():
    from ..._base_.datasets.inshop import *
    from ..._base_.runtime import *
    from ..._base_.schedules.sgd_cosine import *

model = dict(
    type=ImageRetriever,
    preprocessor=dict(
        type=ImagePreprocessor, mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375]),
    backbone=dict(type=ResNet, depth=50),
    head=dict(type=MarginHead, num_classes=num_classes, embed_dim=512, pool=dict(type=GeMPool),
              add=0.5, scale=30.0))

load_from = dict(source='torchvision://resnet50', allow_missing=[r'^head\.'])
max_epochs = 50
warmup_epochs = 5
optim_wrapper.optimizer.lr = 0.02
optim_wrapper.optimizer.weight_decay = 5e-4
auto_scale_lr = dict(base_batch_size=64)
default_hooks.checkpoint.save_best = 'retrieval/recall@1'
