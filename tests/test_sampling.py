"""utils/sampling.py: Hugging Face's filters, and draws that are fair and repeat."""

from collections.abc import Iterable

import pytest
import torch
from torch import Tensor
from transformers.generation.logits_process import (
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from utils.sampling import Sampling, draw, filter_logits, random_keys

CHI_SQUARE_6 = 22.46  # 99.9th percentile at 6 degrees of freedom
CHI_SQUARE_99 = 148.2  # at 99


def keys_of(seeds: Iterable[int]) -> Tensor:
    return random_keys(list(seeds), torch.device("cpu"))


def awkward_logits() -> Tensor:
    """Random rows, rows with many ties, and rows that are nearly certain or nearly flat."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(64, 50, generator=generator) * 3
    rows[16:32] = rows[16:32].round()  # ties
    rows[32:40] = 0.0
    rows[40:48, 7] = 60.0
    rows[48:56] *= 1e-3
    return rows


@pytest.mark.parametrize("temperature", [0.1, 0.8, 1.0, 7.0])
@pytest.mark.parametrize("top_k", [0, 1, 5, 49, 50, 1000])
@pytest.mark.parametrize("top_p", [0.01, 0.5, 0.95, 1.0])
def test_the_filter_is_hugging_faces(temperature: float, top_k: int, top_p: float) -> None:
    logits = expected = awkward_logits()
    no_ids = torch.zeros(64, 0, dtype=torch.long)
    expected = TemperatureLogitsWarper(temperature)(no_ids, expected)
    if top_k:
        expected = TopKLogitsWarper(top_k)(no_ids, expected)
    if top_p < 1:
        expected = TopPLogitsWarper(top_p)(no_ids, expected)
    found = filter_logits(logits, temperature, top_k, top_p)
    is_tied = torch.arange(64).div(16, rounding_mode="floor") == 1
    is_tied[32:40] = True
    assert found[~is_tied].equal(expected[~is_tied])
    # Of tokens as likely as the last one that stays, Hugging Face keeps some, we keep all.
    border = expected.masked_fill(expected.isinf(), torch.inf).amin(-1, keepdim=True)
    assert found.equal(found.masked_fill((logits / temperature) < border, -torch.inf))
    assert (found.isfinite() >= expected.isfinite()).all()
    assert found.isfinite().any(dim=-1).all()
    assert logits.equal(awkward_logits())  # its argument is left alone


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"), [(1.0, 0, 1.0), (0.5, 0, 1.0), (1.3, 4, 1.0), (1.0, 0, 0.7)]
)
def test_tokens_are_drawn_as_often_as_their_probability_says(
    temperature: float, top_k: int, top_p: float
) -> None:
    logits = torch.tensor([[1.0, 0.0, 2.0, -1.0, 0.5, 1.5, -0.5]])
    sampling = Sampling(1, temperature, top_k, top_p)
    expected = filter_logits(logits, temperature, top_k, top_p).softmax(-1)[0] * 4000
    assert expected.sum().item() == pytest.approx(4000, rel=1e-4)
    over_rows = draw(logits.expand(4000, -1), sampling, keys_of(range(4000)), 0)[0]
    one = keys_of([1])
    over_time = torch.cat([draw(logits, sampling, one, step)[0] for step in range(4000)])
    for drawn in (over_rows, over_time):
        counts = drawn.bincount(minlength=7).float()
        assert (counts[expected == 0] == 0).all()
        possible = expected > 0
        surprise = ((counts - expected)[possible] ** 2 / expected[possible]).sum()
        assert surprise < CHI_SQUARE_6


@pytest.mark.parametrize("temperature", [0.0, 1e-300, 1e-39, 1e-6])
def test_hardly_any_temperature_takes_the_likeliest(temperature: float) -> None:
    logits = awkward_logits()[:16] * 10
    drawn, _ = draw(logits, Sampling(1, temperature, 0, 1.0), keys_of(range(16)), 0)
    assert drawn.equal(logits.argmax(-1))


def test_great_temperature_draws_evenly() -> None:
    logits = torch.tensor([[9.0, -9.0, 0.0, 1.0, 2.0, 3.0, 4.0]]).expand(7000, -1)
    drawn, _ = draw(logits, Sampling(1, 1e300, 0, 1.0), keys_of(range(7000)), 0)
    counts = drawn.bincount(minlength=7)
    assert ((counts - 1000) ** 2 / 1000).sum() < CHI_SQUARE_6


def test_half_precision_logits_are_drawn_from_in_single_precision() -> None:
    logits = awkward_logits().bfloat16()
    keys, sampling = keys_of(range(64)), Sampling(1, 1.0, 20, 0.9)
    half, single = (draw(each, sampling, keys, 0) for each in (logits, logits.float()))
    assert half[0].equal(single[0])
    assert half[1].equal(single[1])


def test_draws_of_neighbouring_seeds_steps_and_tokens_are_independent() -> None:
    flat = torch.zeros(10_000, 10)
    sampling = Sampling(1, 1.0, 0, 1.0)
    first, _ = draw(flat, sampling, keys_of(range(10_000)), 7)
    of_step, _ = draw(flat, sampling, keys_of(range(10_000)), 8)
    of_seed, _ = draw(flat, sampling, keys_of(range(1, 10_001)), 7)
    assert of_seed[:-1].equal(first[1:])  # a row depends on its seed alone
    for other in (of_step, of_seed):
        pairs = (first * 10 + other).bincount(minlength=100)
        assert ((pairs - 100) ** 2 / 100).sum() < CHI_SQUARE_99


def test_seeds_beyond_32_bits_differ() -> None:
    seeds = [1, 1 + 2**32, 1 + 2**62, 2**63 - 1, 2**31, 2**32 - 1]
    assert len(set(keys_of(seeds).tolist())) == len(seeds)


def test_a_token_of_no_probability_is_never_drawn_and_a_rare_one_hardly() -> None:
    logits = torch.full((2_000, 30_000), -25.0)  # 30,000 of 1e-11 each
    logits[:, 5] = 0.0
    drawn, log_probabilities = draw(logits, Sampling(1, 1.0, 0, 1.0), keys_of(range(2_000)), 0)
    assert (drawn == 5).all()
    assert log_probabilities.abs().max() < 1e-5
