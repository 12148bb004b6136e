"""SigLIP ViT-B/16 tells classes by their names; nothing is trained.

* Paper: https://arxiv.org/abs/2303.15343
* Images: ``openlab infer google/siglip-base-patch16-224 IMAGE --classes cat dog "cup of coffee"``
* A folder for each class: ``openlab test CONFIG hf://google/siglip-base-patch16-224/model.safetensors
  --set data_root=FOLDER``
"""

from mmengine.config import read_base
from torch.nn import GELU, LayerNorm

from openlab.algorithms.classification.zero_shot import ZeroShotClassifier
from openlab.backbones.text_transformer import TextTransformer
from openlab.backbones.vit import VisionTransformer
from openlab.data.preprocessors import ImagePreprocessor
from openlab.engine.hooks.describe_classes import DescribeClassesHook
from openlab.losses.cross_entropy import BinaryCrossEntropyLoss
from openlab.zoo.captions import CaptionTokenizer

with read_base():
    from ..._base_.datasets.image_folder_test import *

style = dict(norm=dict(type=LayerNorm, eps=1e-6), act=dict(type=GELU, approximate='tanh'))
model = dict(
    type=ZeroShotClassifier,
    preprocessor=dict(type=ImagePreprocessor, mean=[127.5] * 3, std=[127.5] * 3),
    image_encoder=dict(type=VisionTransformer, size='base', patch_size=16,
                       output='attention_pool', with_class_token=False, **style),
    text_encoder=dict(type=TextTransformer, vocab_size=32000, embed_dim=768, num_heads=12,
                      context_length=64, is_causal=False, end_id=None, proj_bias=True, **style),
    with_bias=True,
    loss=dict(type=BinaryCrossEntropyLoss),
    tokenizer=dict(type=CaptionTokenizer, length=64, pad_id=1, lowercase=True,
                   source='hf://google/siglip-base-patch16-224/tokenizer.json'),
    prompts=['this is a photo of {}.'])
test_dataloader.dataset.pipeline[1:3] = [
    dict(type=Resize, size=(224, 224), interpolation='bicubic', backend='pillow')]
custom_hooks = [dict(type=DescribeClassesHook)]
