import pytest
import torch

from openlab.heads.mlp_head import MLPHead


def test_logits_equal_the_layers_applied_by_hand():
    torch.manual_seed(0)
    head = MLPHead(3, (6, 5), in_channels=2, grid=2).eval()
    x = torch.randn(2, 2, 4, 4)
    cells = x.unflatten(2, (2, 2)).unflatten(4, (2, 2)).mean((3, 5)).flatten(1)
    hidden = (cells @ head.hidden[0].weight.T + head.hidden[0].bias).relu()
    hidden = (hidden @ head.hidden[1].weight.T + head.hidden[1].bias).relu()
    torch.testing.assert_close(head([x]), hidden @ head.fc.weight.T + head.fc.bias)


def test_maps_of_any_size_are_averaged_to_the_grid():
    head = MLPHead(3, (6,), in_channels=2, grid=7)
    assert head([torch.randn(1, 2, 9, 5)]).shape == (1, 3)


def test_features_that_are_pooled_already_give_the_logits_of_their_map():
    head = MLPHead(3, (6,), in_channels=2).eval()
    x = torch.randn(4, 2, 5, 5)
    torch.testing.assert_close(head([x.mean((2, 3))]), head([x]))


def test_pooled_features_have_no_grid():
    with pytest.raises(ValueError, match='set grid=1'):
        MLPHead(3, (6,), in_channels=2, grid=7)([torch.randn(4, 2)])


def test_a_head_without_hidden_layers_or_channels_is_refused():
    with pytest.raises(ValueError, match='LinearHead'):
        MLPHead(3, (), in_channels=2)
    with pytest.raises(ValueError, match='needs in_channels'):
        MLPHead(3, (4,))


def test_a_normalised_head_normalises_before_the_activation():
    torch.manual_seed(0)
    head = MLPHead(3, (6,), in_channels=2, norm={'type': torch.nn.BatchNorm1d})
    x = torch.randn(8, 2, 3, 3)
    hidden = x.mean((2, 3)) @ head.hidden[0].weight.T
    hidden = (hidden - hidden.mean(0)) / (hidden.var(0, unbiased=False) + 1e-5).sqrt()
    torch.testing.assert_close(head([x]), hidden.relu() @ head.fc.weight.T + head.fc.bias)
    assert head.hidden[0].bias is None
