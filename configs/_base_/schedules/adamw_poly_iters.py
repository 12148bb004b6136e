"""AdamW over 160,000 iterations: a linear warm-up, then the lr falls linearly to 0.

SegFormer, https://arxiv.org/abs/2105.15203, section 4.1. The head learns ten times as fast as the
pretrained backbone.
"""

from torch.optim import AdamW
from torch.optim.lr_scheduler import PolynomialLR

from openlab.engine.loops import IterTrainLoop
from openlab.engine.optim import OptimWrapper
from openlab.engine.schedulers import LinearWarmup

max_iters = 160000
warmup_iters = 1500
train_cfg = dict(type=IterTrainLoop, max_iters=max_iters, val_interval=16000)
optim_wrapper = dict(
    type=OptimWrapper,
    optimizer=dict(type=AdamW, lr=6e-5, weight_decay=0.01),
    paramwise=dict(norm_decay_mult=0.0, custom_keys={'head': dict(lr_mult=10.0)}))
param_scheduler = [
    dict(type=LinearWarmup, by_epoch=False, begin=0, end=warmup_iters),
    dict(type=PolynomialLR, by_epoch=False, begin=warmup_iters, end=max_iters,
         total_iters=max_iters - warmup_iters, power=1.0)]
