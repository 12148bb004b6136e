"""SGD with momentum; the lr rises through the first epoch and falls along a cosine to the last."""

from torch.optim import SGD
from torch.optim.lr_scheduler import CosineAnnealingLR

from openlab.engine.loops import EpochTrainLoop
from openlab.engine.optim import OptimWrapper
from openlab.engine.schedulers import LinearWarmup

max_epochs = 100
warmup_epochs = 1
train_cfg = dict(type=EpochTrainLoop, max_epochs=max_epochs)
optim_wrapper = dict(
    type=OptimWrapper,
    optimizer=dict(type=SGD, lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-4))
param_scheduler = [
    dict(type=LinearWarmup, by_epoch=True, end=warmup_epochs),
    dict(type=CosineAnnealingLR, by_epoch=True, begin=warmup_epochs, end=max_epochs),
]
