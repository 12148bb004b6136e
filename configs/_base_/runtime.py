"""What most trainings share: evaluate with the plain loops, keep three checkpoints and the best."""

from openlab.engine.hooks.checkpoint import CheckpointHook
from openlab.engine.loops import TestLoop, ValLoop

val_cfg = dict(type=ValLoop)
test_cfg = dict(type=TestLoop)
default_hooks = dict(checkpoint=dict(type=CheckpointHook, keep=3, save_best='auto'))
randomness = dict(seed=0)
