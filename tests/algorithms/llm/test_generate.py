import pytest
import torch

from openlab.algorithms.llm.causal_lm import CausalLM, CausalLMHead
from openlab.algorithms.llm.generate import Sampling, choose_tokens, generate
from openlab.backbones.llama import LlamaDecoder


@pytest.fixture
def model():
    torch.manual_seed(0)
    decoder = LlamaDecoder(50, 32, 2, 4, context_length=24)
    model = CausalLM(decoder, CausalLMHead(32, 50)).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def test_top_p_keeps_the_fewest_tokens_that_reach_the_sum():
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log().repeat(4000, 1)
    chosen = choose_tokens(logits, Sampling(temperature=1, top_p=0.7))
    frequency = torch.bincount(chosen, minlength=4) / 4000
    assert frequency[2:].sum() == 0
    assert frequency[0].item() == pytest.approx(0.625, abs=0.04)  # 0.5 / (0.5 + 0.3)


def test_top_k_never_chooses_another_token():
    logits = torch.tensor([[1.0, 3.0, 2.0, 0.0]]).repeat(500, 1)
    assert set(choose_tokens(logits, Sampling(temperature=5, top_k=2)).tolist()) == {1, 2}


def test_temperature_zero_takes_the_likeliest():
    assert choose_tokens(torch.tensor([[0.0, 2.0, 1.9]]), Sampling()).tolist() == [1]


def test_repetition_penalty_lowers_what_was_seen():
    logits, seen = torch.tensor([[2.0, 1.5]]), torch.tensor([[True, False]])
    assert choose_tokens(logits, Sampling(repetition_penalty=2), seen).tolist() == [1]


def test_seeded_sampling_repeats_itself(model):
    sampling = Sampling(max_new_tokens=10, temperature=1, seed=3)
    first, second = (generate(model, [[1, 2]], sampling) for _ in range(2))
    other = generate(model, [[1, 2]], Sampling(max_new_tokens=10, temperature=1, seed=4))
    assert first == second != other


def test_a_stop_token_ends_its_own_sequence_only(model):
    free = generate(model, [[1, 2], [3]], Sampling(max_new_tokens=8))
    stop = next(t for t in free[0] if t not in free[1])
    stopped = generate(model, [[1, 2], [3]], Sampling(max_new_tokens=8, stop_tokens=[stop]))
    assert stopped[0] == free[0][: free[0].index(stop)]
    assert stopped[1] == free[1]


def test_generation_ends_at_the_context(model):
    assert len(generate(model, [[1] * 20], Sampling(max_new_tokens=100))[0]) == 4


@pytest.mark.parametrize(
    ('prompts', 'message'),
    [
        ([], 'no prompt'),
        ([[]], 'prompt 0 is empty'),
        ([[1], [50]], 'prompt 1 has token id 50, but the vocabulary ends at 49'),
        ([[1] * 24], 'leaves no room in the context of 24'),
    ],
)
def test_impossible_prompts_are_refused(model, prompts, message):
    with pytest.raises(ValueError, match=message):
        generate(model, prompts, Sampling())
