"""Turn old checkpoints into safetensors. The only file that may unpickle, and only when told to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from openlab.engine.checkpoint_files import write_weights
from openlab.engine.loading import pick_weights, read_state


def convert_weights(source: Path, target: Path, *, unsafe_pickle: bool = False,
                    ema: bool | None = None) -> int:
    """Write the weights of any readable file as safetensors.

    Args:
        source: what ``load_weights`` takes.
        target: a new ``.safetensors`` file; its folder is made if need be.
        unsafe_pickle: read ``source`` with Python's pickle, which runs whatever code it holds.
        ema: take averaged weights; by default where a checkpoint folder has them.

    Returns:
        How many tensors were written.

    Raises:
        FileExistsError: if there is something at ``target``.
        NotADirectoryError: if the folder of ``target`` cannot be, for a file has its name.
    """
    if target.suffix != '.safetensors':
        raise ValueError(f'{target} must end in .safetensors')
    if target.exists():
        raise FileExistsError(f'{target} exists; choose another name or remove it')
    in_the_way = next((p for p in target.parents if p.exists() and not p.is_dir()), None)
    if in_the_way is not None:
        raise NotADirectoryError(
            f'{target} cannot be written: {in_the_way} is no folder; choose another place')
    if unsafe_pickle:
        content = torch.load(source, map_location='cpu', weights_only=False)
        state, _, metadata = pick_weights(content, source, ema)
    else:
        state, _, metadata = read_state(source, ema)
    kept = {key: value for key, value in metadata.items() if _is_json(value)}
    target.parent.mkdir(parents=True, exist_ok=True)
    write_weights(target, state, {**kept, 'converted_from': source.name})
    return len(state)


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True
