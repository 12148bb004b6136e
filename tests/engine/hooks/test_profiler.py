import gzip
import json

import torch

from openlab.engine.hooks.profiler import ProfilerHook
from tests.engine.hooks.small_loop import SmallModel, SmallRunner, make_batches


def test_trace_and_table_of_the_window_are_written(tmp_path):
    hook = ProfilerHook(wait=1, warmup=1, active=1, rows=5)
    runner = SmallRunner(SmallModel(), [hook], make_batches(5), work_dir=tmp_path)
    runner.train()
    trace = tmp_path / 'profile' / 'rank0_iter3.json.gz'
    assert hook.written == [trace, tmp_path / 'profile' / 'rank0_iter3.txt']
    names = {e.get('name') for e in json.loads(gzip.decompress(trace.read_bytes()))['traceEvents']}
    assert 'aten::addmm' in names
    assert 'aten::' in hook.written[1].read_text()


def test_an_error_leaves_no_profiler_running(tmp_path):
    hook = ProfilerHook(wait=0, warmup=0, active=1)
    runner = SmallRunner(SmallModel(), [hook], make_batches(1), work_dir=tmp_path)
    hook.before_train(runner)
    assert torch.autograd._profiler_enabled()
    hook.on_exception(runner, RuntimeError())
    assert not torch.autograd._profiler_enabled()
