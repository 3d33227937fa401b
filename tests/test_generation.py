"""utils/generation.py: the cache changes nothing, rows are alone, and windows slide."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from model import LanguageModel
from tests.test_model import hugging_face_twin, random_ids
from tests.tiny import tiny_config, tiny_model
from utils.config import GenerationConfig
from utils.errors import CheckpointError, UsageError
from utils.generating.readers import recorded_length, recorded_lengths
from utils.generation import NEVER, Engine, Step
from utils.inference_model import InferenceModel
from utils.quantization import quantize
from utils.sampling import Sampling

GREEDY = Sampling(max_length=40, temperature=0.0, top_k=0, top_p=1.0)
RANDOM = Sampling(max_length=40, temperature=1.5, top_k=0, top_p=1.0, seed=5)
CPU = torch.device("cpu")


def inference_model(
    model: LanguageModel,
    device: torch.device = CPU,
    dtype: torch.dtype = torch.float32,
    use_cache: bool = True,
) -> InferenceModel:
    shape = model.config.model.model_copy(update={"use_cache": use_cache})
    config = model.config.model_copy(update={"model": shape})
    return InferenceModel.from_weights(config, model.state_dict(), device, dtype)


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return tiny_model()


def prompts_of(*lengths: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(sum(lengths))
    return [torch.randint(3, 97, (length,), generator=generator).tolist() for length in lengths]


def steps_of(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    eos_id: int = NEVER,
    pad_id: int = 0,
    **options: Any,
) -> list[Step]:
    looks_ahead = options.pop("looks_ahead", None)
    engine = Engine(inference_model(model, **options), eos_id, pad_id)
    if looks_ahead is not None:
        engine.looks_ahead = looks_ahead
    return list(engine.generate(prompts, sampling))


def continuations(*args: Any, **options: Any) -> Tensor:
    """What follows each prompt, (rows, new)."""
    return torch.tensor([step.token_ids for step in steps_of(*args, **options)]).T


def plain_greedy(model: LanguageModel, prompt: Sequence[int], count: int) -> list[int]:
    """Greedy continuation by whole forward passes, with the window as the module describes it."""
    ids, limit = list(prompt), model.max_positions
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
    # The order of work on a GPU: a step is computed before the one before it is looked at.
    assert together.equal(continuations(model, prompts, sampling, looks_ahead=True))
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
        padded[row, part], mask[row, part] = torch.tensor(prompt), 1
    options: dict[str, Any] = {"max_length": 20, "temperature": 1.0, "seed": 3}
    together = model.generate(padded, attention_mask=mask, **options)
    assert together[:, :20].equal(padded)
    for row, prompt in enumerate(prompts):
        alone = model.generate(torch.tensor([prompt]), **{**options, "seed": 3 + row})[
            0, len(prompt) :
        ]
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
    eos_id = int(free[0, 4])
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
    found = continuations(model, [prompt] * 3, GREEDY, eos_id=int(free[0]))
    assert found.tolist() == [[free[0].item()]] * 3


def test_tokens_come_one_by_one(model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = []
    read, decode_one = InferenceModel.hidden_states, InferenceModel.decode_one

    def counted_prompt(self: InferenceModel, input_ids: Tensor, *rest: Any) -> Tensor:
        reads.append(input_ids.size(1))
        return read(self, input_ids, *rest)

    def counted_token(self: InferenceModel, token_ids: Tensor, *rest: Any) -> Tensor:
        reads.append(1)
        return decode_one(self, token_ids, *rest)

    monkeypatch.setattr(InferenceModel, "hidden_states", counted_prompt)
    monkeypatch.setattr(InferenceModel, "decode_one", counted_token)
    steps = Engine(inference_model(model), NEVER, 0).generate(prompts_of(5), GREEDY)
    assert reads == []
    taken = list(itertools.islice(steps, 3))
    assert reads == [5, 1, 1]
    assert [len(step.token_ids) for step in taken] == [1] * 3
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
    monkeypatch.delattr(InferenceModel, "decode_one")
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
        steps_of(model, [], GREEDY)


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


@torch.no_grad()
def test_log_probabilities_are_the_models_own(model: LanguageModel) -> None:
    (prompt,) = prompts_of(3)
    sampling = Sampling(max_length=12, temperature=2.0, top_k=20, top_p=0.9, seed=1)
    steps = steps_of(model, [prompt], sampling)
    ids = torch.tensor([[*prompt, *(step.token_ids[0] for step in steps)]])
    every = model(ids)["logits"].log_softmax(-1)[0, 2:-1]
    expected = every.gather(-1, ids[0, 3:, None])[:, 0]
    found = torch.tensor([step.log_probabilities[0] for step in steps])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_a_step_names_the_rows_whose_window_was_full(model: LanguageModel) -> None:
    steps = steps_of(model, prompts_of(3, 16), GREEDY)
    restarted = {number: step.restarted for number, step in enumerate(steps) if step.restarted}
    # 16 positions: a row that sees 16 goes on from its last 8, so again after 9 more tokens.
    assert restarted == {1: [1], 10: [1], 14: [0], 19: [1], 23: [0], 28: [1], 32: [0], 37: [1]}


@pytest.mark.parametrize("looks_ahead", [False, True])
def test_rows_that_have_ended_are_not_read_again(model: LanguageModel, looks_ahead: bool) -> None:
    prompts = prompts_of(3, 6)
    eos_id = int(continuations(model, prompts, GREEDY)[0, 4])
    options: dict[str, Any] = {"eos_id": eos_id, "looks_ahead": looks_ahead}
    steps = steps_of(model, prompts, GREEDY, **options)
    ends = [next(n for n, s in enumerate(steps) if s.token_ids[0] == eos_id), len(steps)]
    assert ends[0] < 13 < ends[1]
    assert any(step.restarted for step in steps)
    assert not any(0 in step.restarted for step in steps)
    behind = steps[ends[0] + 1 :]
    assert {(step.token_ids[0], step.log_probabilities[0]) for step in behind} == {(0, 0.0)}
    alone = continuations(model, prompts[1:], GREEDY, eos_id=eos_id)
    assert [step.token_ids[1] for step in steps] == alone[0].tolist()


def test_quantized_rows_are_alone_too(model: LanguageModel) -> None:
    wide = tiny_model(tiny_config(model={"hidden_size": 64, "num_heads": 2}))
    prompts = prompts_of(1, 5, 1, 12)

    def texts(chosen: list[list[int]]) -> list[list[int]]:
        quantized = inference_model(wide)
        quantize(quantized, "int8")
        steps = Engine(quantized, NEVER, 0).generate(chosen, GREEDY)
        return torch.tensor([step.token_ids for step in steps]).T.tolist()

    assert texts(prompts) == [texts([prompt])[0] for prompt in prompts]


def test_memory_does_not_grow_with_the_length_asked_for(model: LanguageModel) -> None:
    sampling = replace(GREEDY, max_length=10**18)
    steps = Engine(inference_model(model), NEVER, 0).generate(prompts_of(4), sampling)
    assert len(list(itertools.islice(steps, 40))) == 40


@pytest.mark.parametrize("ids", [[97], [5, -1]])
def test_ids_that_are_no_tokens_are_refused(model: LanguageModel, ids: list[int]) -> None:
    with pytest.raises(UsageError, match="a prompt has ids that are not from 0 to 96"):
        steps_of(model, [[3], ids], GREEDY)


def test_scores_that_are_no_numbers_are_not_drawn_from() -> None:
    model = tiny_model()
    torch.nn.init.constant_(model.decoder.layers[0].linear2.weight, 3e38)
    with pytest.raises(CheckpointError, match="scores of the next token are no finite numbers"):
        steps_of(model, prompts_of(3), GREEDY)


def test_an_engine_serves_one_text_after_another_and_two_at_once(model: LanguageModel) -> None:
    engine = Engine(inference_model(model), NEVER, 0)
    prompts = prompts_of(4, 11)
    expected = [continuations(model, [prompt], RANDOM)[0].tolist() for prompt in prompts]
    broken_off = engine.generate(prompts, RANDOM)
    next(broken_off)
    both = [engine.generate([prompt], RANDOM) for prompt in prompts]
    taken = list(zip(*both, strict=True))
    assert [[step.token_ids[0] for step in steps] for steps in zip(*taken, strict=True)] == expected
    again = engine.generate(prompts[:1], RANDOM)
    assert [step.token_ids[0] for step in again] == expected[0]


def test_weights_lie_row_by_row_however_a_checkpoint_stored_them(model: LanguageModel) -> None:
    weights = {name: weight.t().contiguous().t() for name, weight in model.state_dict().items()}
    assert not all(weight.is_contiguous() for weight in weights.values())
    found = InferenceModel.from_weights(model.config, weights, CPU, torch.float32)
    assert all(weight.is_contiguous() for weight in found.parameters())
    ids = random_ids(model, 2, 9)
    assert found(ids).equal(inference_model(model)(ids))


@pytest.mark.cuda
@pytest.mark.parametrize("sampling", [GREEDY, RANDOM])
@pytest.mark.parametrize("heads", [2, 4])  # of 16 features, which our kernels take, and of 8
def test_the_gpu_with_cache_says_what_it_says_without(sampling: Sampling, heads: int) -> None:
    model = tiny_model(tiny_config(model={"num_heads": heads}))
    prompts, gpu = prompts_of(1, 16, 5, 40), torch.device("cuda")
    cached = continuations(model, prompts, sampling, device=gpu)
    assert cached.equal(continuations(model, prompts, sampling, device=gpu, use_cache=False))
    if sampling is GREEDY:
        assert cached.equal(continuations(model, prompts, sampling))


@pytest.mark.cuda
def test_recordings_of_many_lengths_serve_many_texts() -> None:
    shape = {"num_heads": 2, "max_position_embeddings": 100}
    model, gpu = tiny_model(tiny_config(model=shape)), torch.device("cuda")
    engine = Engine(inference_model(model, gpu), NEVER, 0)
    engine.warm_up()
    prompts = prompts_of(4, 20, 35, 100)
    for chosen in (prompts[:1], prompts, prompts[1:2], prompts[2:3], prompts, prompts[3:]):
        broken_off = engine.generate(chosen, RANDOM)
        next(broken_off)
        found = [step.token_ids for step in engine.generate(chosen, GREEDY)]
        assert torch.tensor(found).T.equal(continuations(model, chosen, GREEDY))


@pytest.mark.cuda
def test_scores_that_are_no_numbers_end_the_text_and_not_the_gpu() -> None:
    model = tiny_model(tiny_config(model={"num_heads": 2}))
    broken, gpu = inference_model(model, torch.device("cuda")), torch.device("cuda")
    broken.norm.bias.fill_(torch.nan)
    with pytest.raises(CheckpointError, match="scores of the next token are no finite numbers"):
        list(Engine(broken, NEVER, 0).generate(prompts_of(3), RANDOM))
    assert torch.ones(3, device=gpu).sum().item() == 3


@pytest.mark.parametrize(
    ("limit", "lengths"),
    [(1, [1]), (16, [16]), (17, [16, 17]), (600, [16, 32, 64, 128, 256, 512, 600])],
)
def test_prompts_are_recorded_in_few_lengths_that_hold_them(limit: int, lengths: list[int]) -> None:
    assert recorded_lengths(limit) == lengths
    assert all(tokens <= recorded_length(tokens, limit) for tokens in range(1, limit + 1))


@pytest.mark.cuda
def test_generating_in_bf16_while_training_in_fp32() -> None:
    model = tiny_model().cuda().train()
    with torch.autocast("cuda", dtype=torch.bfloat16):
        out = model.generate(random_ids(model, 2, 9).cuda(), max_length=30, temperature=0.0)
    assert out.shape == (2, 39)
    assert model.training
