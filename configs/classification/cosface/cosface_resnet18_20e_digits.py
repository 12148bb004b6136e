"""CosFace on the handwritten digits of scikit-learn: a margin on the cosine, none on the angle.

* Paper: CosFace, https://arxiv.org/abs/1801.09414
* Command: ``openlab train configs/classification/cosface/cosface_resnet18_20e_digits.py``
"""

from mmengine.config import read_base

with read_base():
    from ..arcface.arcface_resnet18_20e_digits import *

model.head.add = 0.0
model.head.subtract = 0.2
