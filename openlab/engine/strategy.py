"""How several processes share a training: nothing, gradients (DDP) or everything (FSDP2)."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from openlab import device as chips
from openlab.engine import distributed
from openlab.engine.checkpoint_files import SHARDED


class SingleDevice:
    """One process, the model as it is."""

    sharded = False

    def wrap(self, model: nn.Module, device: torch.device) -> nn.Module:
        """The module whose ``forward`` training calls; names of parameters never change."""
        return model.to(device)


class DDP(SingleDevice):
    """Each process holds the whole model; gradients are averaged during backward.

    Batch norms in training see the batch of their own process; ``sync_bn=True`` of the
    config joins them, on any device.

    Args:
        find_unused_parameters: search for parameters without a gradient in each step; needed
            where a part of the model takes no part in some steps.
        static_graph: promise that each step uses the same parameters; saves time and memory.
        sync_buffers: give rank 0's buffers (batch norm statistics) to all before each
            forward, so that all ranks evaluate the model that is saved.
        bucket_cap_mb: gradients are exchanged in pieces of this size.
    """

    def __init__(self, find_unused_parameters: bool = False, static_graph: bool = False,
                 sync_buffers: bool = True, bucket_cap_mb: float = 25.0):
        self.options: dict[str, Any] = {
            'find_unused_parameters': find_unused_parameters, 'static_graph': static_graph,
            'bucket_cap_mb': bucket_cap_mb}
        if not sync_buffers:
            accepted = inspect.signature(nn.parallel.DistributedDataParallel).parameters
            newer = 'forward_sync_buffers'
            self.options[newer if newer in accepted else 'broadcast_buffers'] = False

    def wrap(self, model: nn.Module, device: torch.device) -> nn.Module:
        """Wrap in ``DistributedDataParallel``; alone, or with nothing to train, leave as it is."""
        model = model.to(device)
        _refuse_sync_bn_on_cpu(model, device)
        trained = any(p.requires_grad for p in model.parameters())
        if not distributed.is_distributed() or not trained:
            return model
        ids = None if device.type == 'cpu' else [device.index]
        # gradients live in the buckets of the exchange: one copy less
        return nn.parallel.DistributedDataParallel(
            model, device_ids=ids, gradient_as_bucket_view=True, **self.options)


class FSDP2(SingleDevice):
    """Parameters, gradients and optimizer state are spread over the processes, block by block.

    Args:
        blocks: class names or patterns of module names to gather one at a time; by default the
            usual lists of blocks (``blocks``, ``layers``, ``layer1`` ...).
        param_dtype: compute in this type, ``'bf16'`` or ``'fp16'``; by default as stored.
        reduce_dtype: exchange gradients in this type, ``'fp32'`` for exact sums.
        reshard_after_forward: free gathered parameters after forward and gather them again for
            backward: less memory, more traffic.
        cpu_offload: keep parameters and optimizer state in host memory.
    """

    sharded = True

    def __init__(self, blocks: Sequence[str] | None = None, param_dtype: str | None = None,
                 reduce_dtype: str | None = None, reshard_after_forward: bool = True,
                 cpu_offload: bool = False):
        self.blocks = blocks
        self.param_dtype = _dtype(param_dtype, 'param_dtype')
        self.reduce_dtype = _dtype(reduce_dtype, 'reduce_dtype')
        self.reshard_after_forward = reshard_after_forward
        self.cpu_offload = cpu_offload

    def wrap(self, model: nn.Module, device: torch.device) -> nn.Module:
        """Shard the model in place; it stays the same object with the same names."""
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import (
            CPUOffloadPolicy,
            MixedPrecisionPolicy,
            OffloadPolicy,
            fully_shard,
        )

        model = model.to(device)
        _refuse_sync_bn_on_cpu(model, device)
        if not distributed.is_distributed():
            distributed.start_alone(device)
        mesh = init_device_mesh(device.type, (distributed.world_size(),))
        options: dict[str, Any] = {
            'mesh': mesh,
            'reshard_after_forward': self.reshard_after_forward,
            'mp_policy': MixedPrecisionPolicy(self.param_dtype, self.reduce_dtype),
            'offload_policy': CPUOffloadPolicy() if self.cpu_offload else OffloadPolicy(),
        }
        for block in self._chosen(model):
            if any(p.requires_grad for p in block.parameters()):
                fully_shard(block, **options)
        fully_shard(model, **options)
        return model

    def _chosen(self, model: nn.Module) -> list[nn.Module]:
        from openlab.engine.model_setup import find_blocks, select_modules

        if self.blocks is not None:
            return list(select_modules(model, self.blocks, 'strategy.blocks').values())
        try:
            return list(find_blocks(model).values())
        except ValueError:  # a small model without repeated blocks is one piece
            return []


STRATEGIES: dict[str, type[SingleDevice]] = {
    'single': SingleDevice, 'ddp': DDP, 'fsdp2': FSDP2}


def build_strategy(cfg: Mapping[str, Any] | str | SingleDevice) -> SingleDevice:
    """Build from ``dict(type='single' | 'ddp' | 'fsdp2', ...)``; the class's own name works too.

    Raises:
        ValueError: on an unknown name or argument, with near ones.
    """
    if isinstance(cfg, SingleDevice):
        return cfg
    given = {'type': cfg} if isinstance(cfg, str) else dict(cfg)
    kind = given.pop('type', 'ddp')
    if not isinstance(kind, str):
        return kind(**given)
    by_name = {**STRATEGIES, **{c.__name__.lower(): c for c in STRATEGIES.values()}}
    chosen = by_name.get(kind.lower())
    if chosen is None:
        raise ValueError(_unknown(f'strategy.type={kind!r}', kind, list(STRATEGIES)))
    accepted = list(inspect.signature(chosen).parameters)
    for key in given:
        if key not in accepted:
            raise ValueError(_unknown(f'strategy.{key}', key, accepted))
    return chosen(**given)


def _unknown(what: str, name: str, accepted: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, accepted, n=1)
    hint = f'; did you mean {near[0]!r}?' if near else ''
    return f'{what} is unknown{hint} Accepted: {", ".join(accepted) or "nothing"}'


def _dtype(name: str | None, key: str) -> torch.dtype | None:
    types = {'fp32': torch.float32, 'bf16': torch.bfloat16, 'fp16': torch.float16}
    if name is None:
        return None
    if name not in types:
        raise ValueError(f'strategy.{key}={name!r}; accepted: {", ".join(types)}')
    return types[name]


def _refuse_sync_bn_on_cpu(model: nn.Module, device: torch.device) -> None:
    if device.type == 'cpu' and distributed.world_size() > 1 and any(
            isinstance(m, nn.SyncBatchNorm) for m in model.modules()):
        raise ValueError(
            'torch.nn.SyncBatchNorm needs an accelerator; write ordinary batch norms and '
            'sync_bn=True in the config instead, which works on the CPU as well')


# ---- state of a sharded model ---------------------------------------------------------------


def full_state(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """Gather sharded tensors; all ranks must call this, rank 0 gets all of them on the host.

    Elsewhere the result is empty.
    """
    result: dict[str, Tensor] = {}
    for name, value in state.items():
        if not isinstance(value, Tensor):
            continue
        whole = value.full_tensor() if is_sharded(value) else value  # type: ignore[attr-defined]
        if distributed.is_main_process():
            result[name] = whole.detach().to(chips.CPU, copy=whole is not value)
    return result


def is_sharded(tensor: Tensor) -> bool:
    """Whether this process holds a part of the tensor only."""
    return hasattr(tensor, 'full_tensor')


def write_shards(folder: Path, model: nn.Module, optimizer: Optimizer) -> None:
    """Each rank writes its part of the weights and the optimizer state into ``folder``."""
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.state_dict import get_state_dict

    weights, state = get_state_dict(model, optimizer)
    dcp.save({'model': weights, 'optimizer': state}, checkpoint_id=str(folder / SHARDED))


def read_shards(folder: Path, model: nn.Module, optimizer: Optimizer) -> None:
    """Read what ``write_shards`` wrote, by however many ranks, into this rank's part."""
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

    weights, state = get_state_dict(model, optimizer)
    both: dict[str, Any] = {'model': weights, 'optimizer': state}
    dcp.load(both, checkpoint_id=str(folder / SHARDED))
    set_state_dict(
        model, optimizer, model_state_dict=both['model'], optim_state_dict=both['optimizer'])


def spread_optimizer_state(
    model: nn.Module, optimizer: Optimizer, state: Mapping[str, Any]
) -> None:
    """Load an optimizer state of whole tensors into an optimizer over sharded parameters."""
    from torch.distributed.checkpoint.state_dict import (
        StateDictOptions,
        set_optimizer_state_dict,
    )

    names = {id(p): name for name, p in model.named_parameters()}
    order = [names[id(p)] for group in optimizer.param_groups for p in group['params']]
    named: dict[str, Any] = {
        'state': {order[int(i)]: value for i, value in state['state'].items()},
        'param_groups': [
            {**group, 'params': [order[i] for i in group['params']]}
            for group in state['param_groups']],
    }
    options = StateDictOptions(full_state_dict=True)
    set_optimizer_state_dict(model, optimizer, named, options=options)
