"""How long one image takes through a network of the zoo on this machine."""

from __future__ import annotations

import torch

from openlab import device as chips
from openlab.apis.model_stats import input_shape_of, measure
from openlab.config.build import build
from openlab.registry import MODELS
from openlab.zoo.index import entry
from openlab.zoo.latencies import Latency, remember
from openlab.zoo.recipe import config_of, part_of


def latency_of(name: str, device: str | torch.device | None = None,
               seconds: float = 0.5) -> Latency:
    """Time an entry that runs, with initial weights, at the size of its images; remember it.

    Args:
        name: of the entry.
        device: where; by default the one this machine has.
        seconds: how long to measure, after a warm-up.

    Raises:
        ValueError: if the entry is only listed, or the device does not exist.
    """
    where = chips.get_device() if device is None else chips.check_device(device)
    model = entry(name)
    cfg = config_of(model)
    network = part_of(model, build(cfg['model'], MODELS, 'model'))
    if hasattr(network, 'describe'):
        network.describe(['thing'])  # of texts, a zero-shot model compares one matrix alone
    shape = input_shape_of(cfg)
    latency = Latency(measure(network, shape, 1, where, seconds).median * 1e3, where.type, shape)
    remember(model['name'], latency.milliseconds, latency.device, shape)
    return latency
