"""DeiT III-S on ImageNet: LAMB, three augmentations, binary cross entropy, LayerScale.

* Paper: DeiT III: Revenge of the ViT, https://arxiv.org/abs/2204.07118, table 1
* Differs: 300 epochs in place of 400 or 800
* Command: ``openlab train configs/classification/deit3/deit3_small_300e_imagenet.py --gpus 8``
"""

from mmengine.config import read_base

from openlab.algorithms.classification.image_classifier import ImageClassifier
from openlab.backbones.vit import VisionTransformer
from openlab.data.samplers import RepeatAugSampler
from openlab.data.transforms.base import RandomChoice
from openlab.data.transforms.color import ColorJitter, GaussianBlur, RandomGrayscale, Solarize
from openlab.heads.linear_head import LinearHead
from openlab.losses.cross_entropy import BinaryCrossEntropyLoss

with read_base():
    from ..._base_.datasets.imagenet_strong import *
    from ..._base_.runtime import *
    from ..._base_.schedules.lamb_cosine import *

model = dict(
    type=ImageClassifier,
    preprocessor=preprocessor,
    backbone=dict(
        type=VisionTransformer, size='small', patch_size=16, layer_scale=1e-4,
        with_prefix_position=False, drop_path=0.05),
    head=dict(type=LinearHead, num_classes=num_classes,
              loss=dict(type=BinaryCrossEntropyLoss, target_threshold=0.0)))

train_dataloader.batch_size = 256
train_dataloader.sampler = dict(type=RepeatAugSampler, num_repeats=3)
train_dataloader.dataset.pipeline = [
    dict(type=LoadImage),
    dict(type=RandomResizedCrop, size=image_size, interpolation='bicubic'),
    dict(type=RandomFlip),
    dict(type=RandomChoice, transforms=[
        dict(type=RandomGrayscale, prob=1.0),
        dict(type=Solarize, prob=1.0),
        dict(type=GaussianBlur, sigma=(0.1, 2.0), prob=1.0)]),
    dict(type=ColorJitter, brightness=0.3, contrast=0.3, saturation=0.3),
    dict(type=PackInputs),
]
val_dataloader.dataset.pipeline[1].shorter = image_size
optim_wrapper.optimizer.lr = 3e-3
auto_scale_lr = dict(base_batch_size=2048)
