"""AdamW as transformers like it: long warm-up, cosine, no decay of biases, norms and positions.

Touvron et al., https://arxiv.org/abs/2012.12877, table 9.
"""

from torch.optim import AdamW
from torch.optim.lr_scheduler import CosineAnnealingLR

from openlab.engine.loops import EpochTrainLoop
from openlab.engine.optim import OptimWrapper
from openlab.engine.schedulers import LinearWarmup

max_epochs = 300
warmup_epochs = 5
train_cfg = dict(type=EpochTrainLoop, max_epochs=max_epochs)
optim_wrapper = dict(
    type=OptimWrapper,
    optimizer=dict(type=AdamW, lr=1e-3, weight_decay=0.05),
    clip_grad=dict(max_norm=1.0),
    paramwise=dict(norm_decay_mult=0.0, bias_decay_mult=0.0))
param_scheduler = [
    dict(type=LinearWarmup, by_epoch=True, end=warmup_epochs),
    dict(type=CosineAnnealingLR, by_epoch=True, begin=warmup_epochs, end=max_epochs, eta_min=1e-5),
]
