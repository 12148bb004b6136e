import torch

from openlab.heads.distilled_head import DistilledHead


def expected(head, class_feats, distill_feats):
    return torch.stack([class_feats @ head.fc.weight.T + head.fc.bias,
                        distill_feats @ head.fc_distill.weight.T + head.fc_distill.bias])


def test_each_token_goes_to_its_own_classifier_and_logits_are_their_mean():
    torch.manual_seed(0)
    head = DistilledHead(5, 8).eval()
    tokens = torch.randn(2, 3, 8)
    branches = expected(head, *tokens)
    torch.testing.assert_close(head.branches(tuple(tokens)), branches)
    torch.testing.assert_close(head(tuple(tokens)), branches.mean(0))


def test_the_last_map_of_a_pyramid_serves_both_classifiers():
    torch.manual_seed(0)
    head = DistilledHead(5, 8).eval()
    maps = (torch.randn(3, 4, 16, 16), torch.randn(3, 8, 8, 8))
    pooled = maps[-1].mean((2, 3))
    torch.testing.assert_close(head.branches(maps), expected(head, pooled, pooled))
    torch.testing.assert_close(head.branches(maps[-1:]), expected(head, pooled, pooled))
