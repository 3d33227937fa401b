"""utils/generation.py: the cache changes nothing, rows are alone, and draws are fair."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.generation.logits_process import (
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from model import LanguageModel
from tests.test_model import hugging_face_twin, random_ids
from tests.tiny import tiny_config, tiny_model
from utils.config import GenerationConfig
from utils.errors import UsageError
from utils.generation import Sampling, choose, filter_logits, generate

GREEDY = Sampling(max_length=40, temperature=0.0, top_k=0, top_p=1.0)
RANDOM = Sampling(max_length=40, temperature=1.5, top_k=0, top_p=1.0, seed=5)
NEVER = -1  # an id that no token has
CHI_SQUARE_6 = 22.46  # 99.9th percentile at 6 degrees of freedom


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return tiny_model()


def prompts_of(*lengths: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(sum(lengths))
    return [torch.randint(3, 97, (length,), generator=generator) for length in lengths]


def continuations(
    model: LanguageModel, prompts: Sequence[Tensor], sampling: Sampling, **options: Any
) -> Tensor:
    """What follows each prompt, (rows, new)."""
    eos_id, pad_id = options.pop("eos_id", NEVER), options.pop("pad_id", 0)
    return torch.stack(list(generate(model, prompts, sampling, eos_id, pad_id, **options)), dim=1)


def plain_greedy(model: LanguageModel, prompt: Tensor, count: int) -> list[int]:
    """Greedy continuation by whole forward passes, with the window as the module describes it."""
    ids, limit = prompt.tolist(), model.max_positions
    half = max(1, limit // 2)
    seen = len(ids) if len(ids) <= limit else half
    for _ in range(count):
        logits = model(torch.tensor([ids[-seen:]]))["logits"][0, -1]
        ids.append(int(logits.argmax()))
        seen = half if seen == limit else seen + 1
    return ids[len(prompt) :]


@pytest.mark.parametrize("length", [1, 2, 7, 8, 9, 15, 16, 17, 30, 50])
@torch.no_grad()
def test_greedy_tokens_are_the_likeliest_with_cache_and_without(
    model: LanguageModel, length: int
) -> None:
    prompts = prompts_of(length)
    expected = plain_greedy(model, prompts[0], 40)
    assert continuations(model, prompts, GREEDY).tolist() == [expected]
    assert continuations(model, prompts, GREEDY, use_cache=False).tolist() == [expected]
    assert len(set(expected)) > 3  # not one token for ever


@pytest.mark.parametrize("positions", [1, 2, 3, 5])
@torch.no_grad()
def test_a_window_of_few_positions_slides_too(positions: int) -> None:
    model = tiny_model(tiny_config(model={"max_position_embeddings": positions}))
    for prompts in (prompts_of(1), prompts_of(positions), prompts_of(9)):
        expected = plain_greedy(model, prompts[0], 12)
        for use_cache in (True, False):
            sampling = replace(GREEDY, max_length=12)
            found = continuations(model, prompts, sampling, use_cache=use_cache)
            assert found.tolist() == [expected]


@pytest.mark.parametrize("sampling", [GREEDY, RANDOM])
def test_a_batch_says_what_its_rows_say_alone(model: LanguageModel, sampling: Sampling) -> None:
    prompts = prompts_of(1, 16, 5, 40, 9, 17)
    together = continuations(model, prompts, sampling)
    assert together.equal(continuations(model, prompts, sampling, use_cache=False))
    for row, prompt in enumerate(prompts):
        seed = None if sampling.seed is None else sampling.seed + row
        alone = continuations(model, [prompt], replace(sampling, seed=seed))
        assert alone[0].equal(together[row])


def test_greedy_batches_are_those_of_hugging_face_generate(model: LanguageModel) -> None:
    lengths = (2, 8, 5)
    mask = torch.arange(8) >= 8 - torch.tensor(lengths)[:, None]
    prompt_ids = random_ids(model, 3, 8).clamp(min=3)
    ours = model.generate(prompt_ids, max_length=8, temperature=0, attention_mask=mask.long())
    theirs = hugging_face_twin(model).generate(
        prompt_ids,
        attention_mask=mask.long(),
        max_new_tokens=8,
        do_sample=False,
        pad_token_id=2,
        eos_token_id=2,
    )
    assert ours.equal(theirs)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padded_prompts_are_continued_like_bare_ones(model: LanguageModel, side: str) -> None:
    prompts = prompts_of(3, 12, 20)
    padded, mask = torch.full((3, 20), 2), torch.zeros(3, 20, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        part = slice(20 - len(prompt), 20) if side == "left" else slice(0, len(prompt))
        padded[row, part], mask[row, part] = prompt, 1
    options: dict[str, Any] = {"max_length": 20, "temperature": 1.0, "seed": 3}
    together = model.generate(padded, attention_mask=mask, **options)
    assert together[:, :20].equal(padded)
    for row, prompt in enumerate(prompts):
        alone = model.generate(prompt[None], **{**options, "seed": 3 + row})[0, len(prompt) :]
        behind = together[row, 20:]
        assert behind[: len(alone)].equal(alone)
        assert (behind[len(alone) :] == 2).all()


def test_a_seed_repeats_itself_and_no_seed_does_not(model: LanguageModel) -> None:
    prompts = prompts_of(4, 4)
    first = continuations(model, prompts, RANDOM)
    torch.manual_seed(99)  # the global generator has no part in it
    state = torch.get_rng_state()
    assert continuations(model, prompts, RANDOM).equal(first)
    assert not continuations(model, prompts, replace(RANDOM, seed=6)).equal(first)
    unseeded = [continuations(model, prompts, replace(RANDOM, seed=None)) for _ in range(2)]
    assert not unseeded[0].equal(unseeded[1])
    assert torch.get_rng_state().equal(state)
    same_prompts = continuations(model, [prompts[0]] * 2, RANDOM)
    assert not same_prompts[0].equal(same_prompts[1])


def test_a_row_ends_at_eos_and_is_padded_after_it(model: LanguageModel) -> None:
    prompts = prompts_of(3, 6)
    free = continuations(model, prompts, GREEDY)
    eos_id = free[0, 4].item()
    ends = [row.tolist().index(eos_id) if eos_id in row else 40 for row in free]
    assert ends[0] < ends[1]
    found = continuations(model, prompts, GREEDY, eos_id=eos_id, pad_id=96)
    assert found.size(1) == min(40, ends[1] + 1)
    for row, end in enumerate(ends):
        assert found[row, : end + 1].equal(free[row, : found.size(1)][: end + 1])
        assert (found[row, end + 1 :] == 96).all()


def test_generation_stops_when_every_row_has_ended(model: LanguageModel) -> None:
    (prompt,) = prompts_of(3)
    free = continuations(model, [prompt], GREEDY)[0]
    found = continuations(model, [prompt] * 3, GREEDY, eos_id=free[0].item())
    assert found.tolist() == [[free[0].item()]] * 3


def test_tokens_come_one_by_one(model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = []
    decode = LanguageModel.decode

    def counting(self: LanguageModel, input_ids: Tensor, *rest: Any) -> Tensor:
        reads.append(input_ids.size(1))
        return decode(self, input_ids, *rest)

    monkeypatch.setattr(LanguageModel, "decode", counting)
    steps = generate(model, prompts_of(5), GREEDY, NEVER, 0)
    assert reads == []
    taken = list(itertools.islice(steps, 3))
    assert reads == [5, 1, 1]
    assert [token_ids.shape for token_ids in taken] == [(1,)] * 3
    assert len(list(steps)) == 37
    assert sum(reads) < 5 + 40 + 4 * 8  # the window slides every 8 tokens, and rereads 8


def test_no_tokens_are_generated_when_none_are_asked_for(model: LanguageModel) -> None:
    prompt_ids = random_ids(model, 2, 5)
    assert model.generate(prompt_ids, max_length=0).equal(prompt_ids)
    assert model.generate(prompt_ids.int(), max_length=1).dtype == torch.int64


def test_unset_values_are_the_configurations() -> None:
    settings = {"max_length": 7, "temperature": 0.0, "top_k": 3, "top_p": 0.5}
    model = tiny_model(tiny_config(generation=settings))
    prompt_ids = random_ids(model, 1, 4).clamp(min=3)
    expected = model.generate(prompt_ids, max_length=7, temperature=0.0)
    assert model.generate(prompt_ids).equal(expected)
    sampling = Sampling.from_config(model.config.generation, top_k=0, top_p=None)
    assert sampling == Sampling(max_length=7, temperature=0.0, top_k=0, top_p=0.5, seed=None)


def test_the_cache_can_be_turned_off(monkeypatch: pytest.MonkeyPatch) -> None:
    with_cache = tiny_model()
    without = tiny_model(tiny_config(model={"use_cache": False}))
    prompt_ids = random_ids(without, 2, 5)
    expected = with_cache.generate(prompt_ids, 30, 0.0)
    monkeypatch.delattr(LanguageModel, "decode")
    assert without.generate(prompt_ids, 30, 0.0).equal(expected)


def test_a_failing_generation_leaves_a_training_model_in_training_mode() -> None:
    model = tiny_model().train()
    with pytest.raises(UsageError, match="a prompt has no tokens\n  Begin it with <s>"):
        model.generate(torch.zeros(1, 0, dtype=torch.long))
    assert model.training


def test_every_prompt_needs_a_token(model: LanguageModel) -> None:
    ids, mask = torch.ones(2, 3, dtype=torch.long), torch.tensor([[1, 1, 1], [0, 0, 0]])
    with pytest.raises(UsageError, match="a prompt has no tokens"):
        model.generate(ids, attention_mask=mask)
    with pytest.raises(UsageError, match="a prompt has no tokens"):
        list(generate(model, [], GREEDY, NEVER, 0))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"max_length": -1}, "max_length must be 0 or more, not -1"),
        ({"temperature": -0.1}, "temperature must be 0 or more, not -0.1"),
        ({"temperature": math.nan}, "temperature must be 0 or more, not nan"),
        ({"temperature": math.inf}, "temperature must be 0 or more, not inf"),
        ({"top_k": -5}, r"top_k must be 0 \(all tokens\) or more, not -5"),
        ({"top_p": 0.0}, "top_p must be above 0 and at most 1, not 0.0"),
        ({"top_p": 1.5}, "top_p must be above 0 and at most 1, not 1.5"),
        ({"top_p": math.nan}, "top_p must be above 0 and at most 1, not nan"),
        ({"seed": -1}, r"seed must be 0 or more, below 2\*\*63, not -1"),
        ({"seed": 2**63}, r"seed must be 0 or more, below 2\*\*63, not 9223372036854775808"),
    ],
)
def test_values_without_meaning_are_refused(
    model: LanguageModel, given: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        model.generate(random_ids(model, 1, 3), **given)
    with pytest.raises(UsageError, match=message):
        Sampling.from_config(GenerationConfig(), **given)


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
    assert found.equal(expected)
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
    one_each = [torch.Generator().manual_seed(seed) for seed in range(4000)]
    over_rows = choose(logits.expand(4000, -1), sampling, one_each)
    one = [torch.Generator().manual_seed(1)]
    over_time = torch.cat([choose(logits, sampling, one) for _ in range(4000)])
    for drawn in (over_rows, over_time):
        counts = drawn.bincount(minlength=7).float()
        assert (counts[expected == 0] == 0).all()
        possible = expected > 0
        surprise = ((counts - expected)[possible] ** 2 / expected[possible]).sum()
        assert surprise < CHI_SQUARE_6


@pytest.mark.parametrize("temperature", [0.0, 1e-300, 1e-39, 1e-6])
def test_hardly_any_temperature_takes_the_likeliest(temperature: float) -> None:
    logits = awkward_logits()[:16] * 10
    generators = [torch.Generator().manual_seed(seed) for seed in range(16)]
    drawn = choose(logits, Sampling(1, temperature, 0, 1.0), generators)
    assert drawn.equal(logits.argmax(-1))


def test_great_temperature_draws_evenly() -> None:
    generators = [torch.Generator().manual_seed(seed) for seed in range(7000)]
    logits = torch.tensor([[9.0, -9.0, 0.0, 1.0, 2.0, 3.0, 4.0]]).expand(7000, -1)
    counts = choose(logits, Sampling(1, 1e300, 0, 1.0), generators).bincount(minlength=7)
    assert ((counts - 1000) ** 2 / 1000).sum() < CHI_SQUARE_6


def test_half_precision_logits_are_drawn_from_in_single_precision() -> None:
    logits = awkward_logits().bfloat16()
    rows = [[torch.Generator().manual_seed(seed) for seed in range(64)] for _ in range(2)]
    sampling = Sampling(1, 1.0, 20, 0.9)
    assert choose(logits, sampling, rows[0]).equal(choose(logits.float(), sampling, rows[1]))


@pytest.mark.cuda
@pytest.mark.parametrize("sampling", [GREEDY, RANDOM])
def test_the_gpu_with_cache_says_what_it_says_without(sampling: Sampling) -> None:
    model = tiny_model().cuda()
    prompts = [prompt.cuda() for prompt in prompts_of(1, 16, 5, 40)]
    cached = continuations(model, prompts, sampling)
    assert cached.equal(continuations(model, prompts, sampling, use_cache=False))
    if sampling is GREEDY:
        assert cached.cpu().equal(continuations(model.cpu(), prompts, sampling))


@pytest.mark.cuda
def test_the_cache_has_autocasts_type() -> None:
    model = tiny_model().cuda()
    assert model.new_cache(1, 4).keys.dtype == torch.float32
    with torch.autocast("cuda", dtype=torch.bfloat16):
        assert model.new_cache(1, 4).keys.dtype == torch.bfloat16
        out = model.generate(random_ids(model, 2, 9).cuda(), max_length=30, temperature=0.0)
    assert out.shape == (2, 39)
    assert model.bfloat16().new_cache(1, 4).keys.dtype == torch.bfloat16
