"""SGD for detectors: 12 epochs, a tenth of the rate after the 8th and the 11th.

The rate is meant for 16 images in a step and rises over the first 500 steps.
"""

from torch.optim import SGD
from torch.optim.lr_scheduler import MultiStepLR

from openlab.engine.loops import EpochTrainLoop
from openlab.engine.optim import OptimWrapper
from openlab.engine.schedulers import LinearWarmup

train_cfg = dict(type=EpochTrainLoop, max_epochs=12)
optim_wrapper = dict(
    type=OptimWrapper, optimizer=dict(type=SGD, lr=0.02, momentum=0.9, weight_decay=1e-4))
param_scheduler = [
    dict(type=LinearWarmup, by_epoch=False, end=500),
    dict(type=MultiStepLR, by_epoch=True, milestones=[8, 11], gamma=0.1),
]
auto_scale_lr = dict(base_batch_size=16)
