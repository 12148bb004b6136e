import math

import pytest
import torch

from openlab.metrics.language import LanguageModelMetric
from openlab.structures.data_sample import DataSample


def pair(nll, tokens, num_bytes):
    extra = {'nll': torch.tensor(nll), 'num_tokens': torch.tensor(tokens)}
    return DataSample(extra=extra), DataSample(meta={'num_bytes': num_bytes})


def test_bits_per_byte_and_perplexity_by_hand():
    metric = LanguageModelMetric()
    # 8 nats over 4 tokens and 16 bytes, in two samples
    for prediction, sample in (pair(6.0, 3, 10), pair(2.0, 1, 6)):
        metric.update([prediction], [sample])
    result = metric.compute()
    assert result['nll'] == 2.0
    assert result['perplexity'] == pytest.approx(math.e**2)
    assert result['bits_per_byte'] == pytest.approx(8 / math.log(2) / 16)


def test_merged_processes_equal_one():
    parts = [LanguageModelMetric() for _ in range(2)]
    whole = LanguageModelMetric()
    for number, part in enumerate(parts):
        for i in range(3):
            prediction, sample = pair(1.5 * i + number, i + 1, 4 + i)
            part.update([prediction], [sample])
            whole.update([prediction], [sample])
    parts[0].merge([part.state() for part in parts])
    assert parts[0].compute() == whole.compute()


def test_nothing_seen_is_an_error():
    with pytest.raises(ValueError, match='saw no token'):
        LanguageModelMetric().compute()
    with pytest.raises(ValueError, match='target_tokens'):
        LanguageModelMetric().update([DataSample()], [DataSample()])
