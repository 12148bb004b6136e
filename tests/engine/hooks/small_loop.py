"""A training loop of thirty lines that calls hooks in the engine's order, for their tests."""

import logging
from contextlib import nullcontext
from types import SimpleNamespace

import torch
from torch import nn

from openlab.structures.data_sample import DataSample


class SmallModel(nn.Module):
    """Two linear layers with batch norm between; the loss is the mean squared output."""

    def __init__(self, **modules):
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
        self.head = nn.Linear(3, 2)
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, inputs, samples=None, mode='tensor'):
        outputs = self.head(self.backbone(inputs))
        return {'loss_cls': outputs.square().mean()} if mode == 'loss' else outputs


class SmallRunner:
    """What hooks may rely on: model, optimizer wrapper, counters, loop, logger, folder."""

    def __init__(self, model, hooks, batches, max_epochs=1, lr=0.1, accumulate=1, work_dir='.',
                 optimizer=None):
        self.model = self.unwrapped_model = model
        self.hooks = hooks
        self.batches = batches
        self.max_epochs, self.max_iters = max_epochs, max_epochs * len(batches)
        self.optimizer = optimizer or torch.optim.SGD(model.parameters(), lr=lr)
        self.accumulate = accumulate
        self.work_dir = work_dir
        self.iter = self.epoch = self.rank = 0
        self.world_size = 1
        self.device = torch.device('cpu')
        self.train_loop = SimpleNamespace(stop_training=False)
        self.logger = logging.getLogger('openlab.tests')
        self.scalars = {}
        self.losses = []
        self.validate = None  # called after each epoch for metrics
        self.skipping = False
        self.optim_wrapper = SimpleNamespace(
            optimizer=self.optimizer, scaler=None, skip=self._skip,
            forward_context=lambda model, synchronise=True: nullcontext(),
        )

    def _skip(self):
        self.skipping = True

    def call_hook(self, name, **kwargs):
        for hook in self.hooks:
            getattr(hook, name)(self, **kwargs)

    def log(self, scalars, step):
        self.scalars[step] = dict(scalars)

    def preprocess(self, batch, training):
        return batch

    def train(self):
        self.call_hook('before_train')
        while self.epoch < self.max_epochs and not self.train_loop.stop_training:
            self.call_hook('before_train_epoch')
            for index, batch in enumerate(self.batches):
                self.model.train()
                self.train_iter(index, batch)
                if self.train_loop.stop_training:
                    break
            self.call_hook('after_train_epoch')
            if self.validate is not None:
                self.call_hook('before_val_epoch')
                self.model.eval()
                self.call_hook('after_val_epoch', metrics=self.validate(self))
            self.epoch += 1
        self.call_hook('after_train')

    def train_iter(self, index, batch):
        self.call_hook('before_train_iter', batch_idx=index, data_batch=batch)
        losses = self.model(**batch, mode='loss')
        total = sum(losses.values())
        outputs = {n: v.detach() for n, v in losses.items()} | {'loss': total.detach()}
        self.losses.append(outputs['loss'].item())
        self.call_hook('before_backward', outputs=outputs)
        total.backward()
        if (self.iter + 1) % self.accumulate == 0:
            self.call_hook('before_optimizer_step')
            if not self.skipping:
                self.optimizer.step()
            self.skipping = False
            self.optimizer.zero_grad()
            self.call_hook('after_optimizer_step')
        self.call_hook('after_train_iter', batch_idx=index, data_batch=batch, outputs=outputs)
        self.iter += 1


def make_batches(count, size=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        {
            'inputs': torch.randn(size, 4, generator=generator),
            'samples': [DataSample(meta={'img_path': f'b{b}_i{i}.png'}) for i in range(size)],
        }
        for b in range(count)
    ]
