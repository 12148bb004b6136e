import itertools

import pytest
import torch

from openlab.targets.hungarian import flatten_matches, hungarian, set_cross_entropy


def test_pairs_have_the_lowest_total_cost_of_all_pairings():
    costs = torch.rand(3, 5, 3, generator=torch.Generator().manual_seed(0))
    for cost, (queries, objects) in zip(costs, hungarian(costs)):
        best = min(sum(cost[q, n].item() for n, q in enumerate(chosen))
                   for chosen in itertools.permutations(range(5), 3))
        assert cost[queries, objects].sum().item() == pytest.approx(best, rel=1e-6)
        assert sorted(objects.tolist()) == [0, 1, 2]


def test_no_object_gives_no_pair_and_too_many_leave_some_out():
    (queries, objects), = hungarian(torch.zeros(1, 4, 0))
    assert len(queries) == len(objects) == 0
    (queries, objects), = hungarian(torch.zeros(1, 2, 5))
    assert len(queries) == len(objects) == 2


def test_costs_that_are_no_numbers_are_taken_last():
    cost = torch.tensor([[[float('nan'), 1.0], [5.0, float('inf')], [9.0, 9.0]]])
    (queries, objects), = hungarian(cost)
    assert dict(zip(queries.tolist(), objects.tolist())) == {0: 1, 1: 0}


def test_matches_of_a_batch_index_its_queries():
    matches = [(torch.tensor([2, 3]), torch.tensor([1, 0])), (torch.tensor([0]), torch.tensor([0]))]
    image, query = flatten_matches(matches)
    assert image.tolist() == [0, 0, 1]
    assert query.tolist() == [2, 3, 0]


def test_set_cross_entropy_weights_unmatched_queries_less():
    # query 0 is class 1, query 1 is "no object": (1 * 1 + 0.1 * 3) / 1.1 of the two losses
    logits = torch.tensor([[[0.0, 0.0, 0.0], [0.0, 0.0, 1.0]]])
    match = [(torch.tensor([0]), torch.tensor([0]))]
    loss = set_cross_entropy(logits, [torch.tensor([1])], match, no_object_weight=0.1)
    first, second = torch.tensor(3.0).log(), torch.logsumexp(logits[0, 1], 0) - 1
    assert loss.item() == pytest.approx(((first + 0.1 * second) / 1.1).item(), rel=1e-5)
