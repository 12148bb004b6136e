"""LAMB for batches of 2048: five epochs of warm-up, cosine, no decay of biases and norms.

Wightman et al., ResNet strikes back, https://arxiv.org/abs/2110.00476, table 2. The implementation
of LAMB that the paper used clips the norm of all gradients at 1.
"""

from torch.optim.lr_scheduler import CosineAnnealingLR

from openlab.engine.loops import EpochTrainLoop
from openlab.engine.optim import OptimWrapper
from openlab.engine.optimizers.lamb import Lamb
from openlab.engine.schedulers import LinearWarmup

max_epochs = 300
warmup_epochs = 5
train_cfg = dict(type=EpochTrainLoop, max_epochs=max_epochs)
optim_wrapper = dict(
    type=OptimWrapper,
    optimizer=dict(type=Lamb, lr=5e-3, weight_decay=0.02),
    clip_grad=dict(max_norm=1.0),
    paramwise=dict(norm_decay_mult=0.0, bias_decay_mult=0.0))
param_scheduler = [
    dict(type=LinearWarmup, by_epoch=True, end=warmup_epochs),
    dict(type=CosineAnnealingLR, by_epoch=True, begin=warmup_epochs, end=max_epochs, eta_min=1e-6),
]
auto_scale_lr = dict(base_batch_size=2048)
