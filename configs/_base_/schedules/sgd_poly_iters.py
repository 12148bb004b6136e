"""SGD with momentum over 40,000 iterations; the lr falls to 0 as (1 - progress) to the 0.9.

DeepLab, https://arxiv.org/abs/1606.00915, section 4.1.
"""

from torch.optim import SGD
from torch.optim.lr_scheduler import PolynomialLR

from openlab.engine.loops import IterTrainLoop
from openlab.engine.optim import OptimWrapper

max_iters = 40000
train_cfg = dict(type=IterTrainLoop, max_iters=max_iters, val_interval=4000)
optim_wrapper = dict(
    type=OptimWrapper, optimizer=dict(type=SGD, lr=0.01, momentum=0.9, weight_decay=5e-4))
param_scheduler = [
    dict(type=PolynomialLR, by_epoch=False, begin=0, end=max_iters, total_iters=max_iters,
         power=0.9)]
