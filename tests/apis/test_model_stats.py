"""What a model costs, against counts by hand."""

import pytest
import torch
from torch import nn

from openlab.apis.model_stats import count, in_units, input_shape_of, make_inputs, measure
from openlab.config import ConfigDict, ConfigError


def small() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.ReLU(), nn.Flatten(),
                         nn.Linear(4 * 8 * 8, 10))


def test_counts_match_those_by_hand():
    with torch.device('meta'):
        model = small()
    stats = count(model, (3, 8, 8))
    rows = {m.name: m for m in stats.modules}
    assert stats.total.params == stats.trainable == 3 * 4 * 9 + 256 * 10 + 10
    conv, linear = 2 * 8 * 8 * 4 * 3 * 9, 2 * 256 * 10
    assert (rows['0'].flops, rows['3'].flops, stats.total.flops) == (conv, linear, conv + linear)
    assert rows['0'].output == '1x4x8x8'
    # Kept for backward: the image (convolution) and the result of the ReLU, which the linear
    # layer keeps a view of; weights are no activations.
    assert rows['0'].activations == 3 * 64 * 4
    assert stats.total.activations == (3 * 64 + 4 * 64) * 4


def test_counts_do_not_depend_on_the_device():
    stats = count(small(), (3, 8, 8))
    with torch.device('meta'):
        assert count(small(), (3, 8, 8)) == stats


def test_a_shared_module_is_counted_once():
    layer = nn.Linear(4, 4, bias=False)
    assert count(nn.Sequential(nn.Flatten(0, 2), layer, layer), (1, 1, 4)).total.params == 16


def test_a_forward_that_fails_names_the_shape():
    with pytest.raises(ConfigError, match=r'fails on an input of shape \[1, 1, 8, 8\]'):
        count(small(), (1, 8, 8))


def pipeline(*transforms):
    return ConfigDict(test_dataloader={'dataset': {'type': 'ImageFolder', 'pipeline': [
        {'type': 'LoadImage'}, *transforms, {'type': 'PackInputs'}]}})


def test_images_that_are_smaller_than_a_stride_are_told():
    class Body(nn.Module):
        strides = (32,)

    class Fails(nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone = Body()

        def forward(self, x):
            return nn.functional.conv2d(x, torch.zeros(1, 3, 20, 20, device=x.device))

    with pytest.raises(ConfigError, match=r'smaller than the stride of its backbone \(32 px\)'):
        count(Fails(), (3, 16, 16))
    with pytest.raises(ConfigError) as error:
        count(Fails(), (3, 16, 40, 40))
    assert 'smaller' not in str(error.value)


def test_the_test_pipeline_tells_the_input_shape():
    assert input_shape_of(pipeline({'type': 'CenterCrop', 'size': 24})) == (3, 24, 24)


def test_a_pipeline_that_keeps_each_images_size_asks_for_a_shape():
    with pytest.raises(ConfigError, match='--shape 3 224 224'):
        input_shape_of(pipeline())


def test_data_that_are_made_tell_the_size_they_are_made_at():
    dataset = {'type': 'CocoPanopticDataset', 'make': {'size': 48},
               'pipeline': [{'type': 'PackInputs'}]}
    assert input_shape_of({'test_dataloader': {'dataset': dataset}}) == (3, 48, 48)


def test_windows_of_text_tell_their_number_of_tokens():
    dataset = {'type': 'PackedTextDataset', 'context_length': 32}
    assert input_shape_of({'val_dataloader': {'dataset': dataset}}) == (32,)


def test_inputs_are_images_or_tokens():
    assert make_inputs((4, 5), 2, 'cpu').shape == (2, 3, 4, 5)
    assert make_inputs((7,), 2, 'cpu').dtype == torch.int64
    with pytest.raises(ConfigError, match='C H W'):
        make_inputs((1, 2, 3, 4), 1, 'cpu')


def test_timing_is_positive_and_consistent():
    timing = measure(small(), (3, 8, 8), batch_size=2, device='cpu', seconds=0.02)
    assert 0 < timing.median <= timing.p95
    assert timing.throughput == pytest.approx(2 / timing.median)


@pytest.mark.parametrize(('value', 'text'), [(0, '0'), (999, '999'), (11_700_000, '11.7 M')])
def test_counts_are_shown_with_three_digits(value, text):
    assert in_units(value) == text
