"""CLIP ViT-B/32 tells classes by their names; nothing is trained.

* Paper: https://arxiv.org/abs/2103.00020
* Images: ``openlab infer openai/clip-vit-base-patch32 IMAGE --classes cat dog "cup of coffee"``
* A folder for each class: ``openlab test CONFIG hf://openai/clip-vit-base-patch32/model.safetensors
  --set data_root=FOLDER``
"""

from mmengine.config import read_base
from torch.nn import LayerNorm

from openlab.algorithms.classification.zero_shot import ZeroShotClassifier
from openlab.backbones.text_transformer import TextTransformer
from openlab.backbones.vit import VisionTransformer
from openlab.data.preprocessors import ImagePreprocessor
from openlab.engine.hooks.describe_classes import DescribeClassesHook
from openlab.layers.act import QuickGELU
from openlab.zoo.captions import CaptionTokenizer

with read_base():
    from ..._base_.datasets.image_folder_test import *

model = dict(
    type=ZeroShotClassifier,
    preprocessor=dict(type=ImagePreprocessor, mean=[122.771, 116.746, 104.094],
                      std=[68.501, 66.632, 70.323]),
    image_encoder=dict(type=VisionTransformer, size='base', patch_size=32, with_pre_norm=True,
                       norm=dict(type=LayerNorm, eps=1e-5), act=dict(type=QuickGELU)),
    text_encoder=dict(type=TextTransformer, act=dict(type=QuickGELU)),
    image_dim=768,
    tokenizer=dict(type=CaptionTokenizer, length=77, pad_id=49407,
                   source='hf://openai/clip-vit-base-patch32/tokenizer.json'),
    prompts=['a photo of a {}.', 'a drawing of a {}.', 'a close-up of a {}.', 'a {}.'])
custom_hooks = [dict(type=DescribeClassesHook)]
