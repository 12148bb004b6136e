import pytest
import torch

from openlab.layers.distance_bias import (
    DistanceAttention,
    DistanceBias,
    distance_index,
    resize_distance_table,
)


def test_distances_are_counted_row_by_row():
    index = distance_index((2, 3))
    assert index.shape == (6, 6)
    assert index[0].tolist() == [0, 1, 2, 3, 4, 5]  # from the first place, all places in order
    assert index[4].tolist() == [4, 3, 4, 1, 0, 1]  # from (1, 1)
    assert torch.equal(index, index.T)


def test_queries_may_be_a_part_of_the_places():
    corners = distance_index((3, 3))[[0, 2, 6, 8]]
    assert torch.equal(distance_index((3, 3), stride=2), corners)


def test_bias_is_equal_in_both_directions_and_differs_by_distance():
    bias = DistanceBias(1, (2, 2))
    with torch.no_grad():
        bias.table.copy_(torch.tensor([[0.0, 1.0, 2.0, 3.0]]))
    assert bias((2, 2))[0].tolist() == [[0, 1, 2, 3], [1, 0, 3, 2], [2, 3, 0, 1], [3, 2, 1, 0]]


def evaluated(values=(0.0, 1.0, 2.0, 3.0)):
    bias = DistanceBias(1, (2, 2))
    with torch.no_grad():
        bias.table.copy_(torch.tensor([values]))
    return bias.eval()


def first_row(bias):
    with torch.no_grad():
        return bias((2, 2))[0, 0].tolist()


def test_in_evaluation_biases_are_looked_up_once():
    bias = evaluated()
    with torch.inference_mode():
        first, second = bias((2, 2)), bias((2, 2))
    assert first.data_ptr() == second.data_ptr()
    assert first_row(bias) == [0, 1, 2, 3]


def changed_in_place(bias):
    with torch.no_grad():
        bias.table.add_(1)


def loaded(bias):
    bias.load_state_dict({'table': torch.tensor([[1.0, 2.0, 3.0, 4.0]])})


def replaced(bias):
    bias.table.data = torch.tensor([[1.0, 2.0, 3.0, 4.0]])


def trained_meanwhile(bias):
    bias.train()
    changed_in_place(bias)
    bias.eval()


@pytest.mark.parametrize('change', [changed_in_place, loaded, replaced, trained_meanwhile])
def test_weights_that_change_in_evaluation_count_at_once(change):
    bias = evaluated()
    assert first_row(bias) == [0, 1, 2, 3]
    change(bias)
    assert first_row(bias) == [1, 2, 3, 4]


def test_gradients_reach_the_table_in_evaluation_too():
    bias = evaluated()
    bias((2, 2)).sum().backward()
    assert bias.table.grad.tolist() == [[4, 4, 4, 4]]


def test_a_network_may_be_put_into_evaluation_in_inference_mode_and_train_afterwards():
    bias = evaluated().train()
    with torch.inference_mode():
        bias.eval()
        bias((2, 2))
    query = torch.ones(1, requires_grad=True)
    with torch.no_grad():
        known = bias((2, 2))
    (query * known).sum().backward()  # what was looked up may be saved for a backward pass
    assert query.grad.item() == known.sum()


def test_other_numbers_of_bits_are_followed():
    bias = evaluated().double()
    with torch.no_grad():
        assert bias((2, 2)).dtype == torch.float64


@pytest.mark.slow
@pytest.mark.parametrize('change', [loaded, trained_meanwhile])
def test_compiled_code_sees_new_weights(change):
    bias = evaluated()
    compiled = torch.compile(lambda: bias((2, 2)) + 0)
    with torch.no_grad():
        assert compiled()[0, 0].tolist() == [0, 1, 2, 3]
        change(bias)
        assert compiled()[0, 0].tolist() == [1, 2, 3, 4]


def test_another_map_gets_an_interpolated_table():
    bias = DistanceBias(2, (4, 4))
    with torch.no_grad():
        bias.table.copy_(torch.arange(4.0).repeat(4)[None].expand(2, -1))  # grows with columns
    other = bias((2, 8))
    assert other.shape == (2, 16, 16)
    by_column = other[0, 0].reshape(2, 8)
    torch.testing.assert_close(by_column[0], by_column[1])
    assert (by_column[0].diff() > -0.1).all() and by_column[0, -1] - by_column[0, 0] > 2.5


def test_weights_of_another_map_are_interpolated_as_they_are_loaded():
    large, small = DistanceBias(1, (6, 6)), DistanceBias(1, (3, 3))
    torch.nn.init.normal_(small.table)
    large.load_state_dict(small.state_dict())
    torch.testing.assert_close(large.table, resize_distance_table(small.table, (3, 3), (6, 6)))


def test_weights_of_no_square_map_are_refused():
    with pytest.raises(RuntimeError, match='size mismatch'):
        DistanceBias(1, (3, 3)).load_state_dict({'table': torch.zeros(1, 5)})


def test_attention_weighs_by_similarity_and_distance():
    attention = DistanceAttention(4, key_dim=2, num_heads=2, value_ratio=3, grid=(2, 2)).double()
    torch.nn.init.normal_(attention.bias.table)
    x = torch.randn(1, 4, 4).double()
    qkv = attention.qkv(x)[0].reshape(4, 2, 10)
    expected = []
    for head in range(2):
        q, k, v = qkv[:, head].split((2, 2, 6), dim=1)
        logits = q @ k.T / 2**0.5 + attention.bias((2, 2))[head]
        expected.append(logits.softmax(1) @ v)
    expected = attention.proj(torch.cat(expected, dim=1))[None]
    torch.testing.assert_close(attention(x, (2, 2)), expected)
