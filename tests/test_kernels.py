"""utils/kernels: each kernel against the plain torch function that it replaces, on a GPU."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model import LanguageModel
from tests.tiny import tiny_config, tiny_model
from utils.dropout import hash_dropout, score_mask
from utils.inference_model import InferenceModel, KeyValueCache
from utils.kernels import AVAILABLE
from utils.quantization import quantize
from utils.sampling import Sampling, draw, draw_plainly, random_keys

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.filterwarnings("default"),  # the compilers' own
    pytest.mark.skipif(not AVAILABLE, reason="triton is not installed"),
]
ROUNDING = 1e-2  # of bf16, relative, over a few operations


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def key(value: int = 123) -> Tensor:
    return torch.tensor([value, 1, 2, 3], dtype=torch.int32, device="cuda")


def error(ours: Tensor, theirs: Tensor) -> float:
    """Relative, of the norms."""
    relative: float = ((ours.double() - theirs.double()).norm() / theirs.double().norm()).item()
    return relative


def share(ours: Tensor, theirs: Tensor) -> float:
    """How long ours is along theirs: 1 unless it is scaled otherwise."""
    along: float = ((ours.double() * theirs).sum() / theirs.square().sum()).item()
    return along


def plain_attention(packed: Tensor, heads: int, dropout: float, key: Tensor) -> Tensor:
    rows, tokens, _ = packed.shape
    q, k, v = packed.view(rows, tokens, 3, heads, -1).permute(2, 0, 3, 1, 4).unbind()
    future = torch.ones(tokens, tokens, dtype=torch.bool, device=packed.device).triu(1)
    scores = (q @ k.mT / math.sqrt(q.size(-1))).masked_fill(future, -torch.inf)
    weights = scores.softmax(-1)
    if dropout:
        kept = score_mask(key[:1], rows * heads, tokens, dropout).view_as(weights)
        weights = weights * kept / (1 - dropout)
    return (weights @ v).transpose(1, 2).flatten(2)


@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize(
    ("rows", "tokens", "heads", "head_size"),
    [(2, 512, 16, 32), (1, 64, 2, 16), (3, 200, 4, 64), (1, 1, 2, 32), (2, 777, 2, 32)],
)
def test_attention_and_its_gradients(
    rows: int, tokens: int, heads: int, head_size: int, dropout: float
) -> None:
    from utils.kernels.attention import causal_attention

    width = 3 * heads * head_size
    packed = torch.randn(rows, tokens, width, device="cuda", dtype=torch.bfloat16)
    bias = torch.zeros(width, device="cuda", requires_grad=True)
    gradient = torch.randn(rows, tokens, width // 3, device="cuda", dtype=torch.bfloat16)
    ours = packed.clone().requires_grad_()
    found = causal_attention(ours, bias, heads, dropout, key())
    torch.autograd.backward(found, gradient)
    theirs = packed.double().requires_grad_()
    expected = plain_attention(theirs, heads, dropout, key())
    torch.autograd.backward(expected, gradient.double())
    assert ours.grad is not None
    assert theirs.grad is not None
    assert bias.grad is not None
    assert error(found, expected) < ROUNDING
    assert error(ours.grad, theirs.grad) < ROUNDING
    assert error(bias.grad, theirs.grad.sum((0, 1))) < ROUNDING


def test_attention_repeats_to_the_bit() -> None:
    from utils.kernels.attention import causal_attention

    packed = torch.randn(4, 512, 3 * 512, device="cuda", dtype=torch.bfloat16)
    bias = torch.zeros(3 * 512, device="cuda", requires_grad=True)
    runs = []
    for _ in range(2):
        ours = packed.clone().requires_grad_()
        torch.autograd.backward(causal_attention(ours, bias, 16, 0.1, key()).sum())
        runs.append(ours.grad)
    assert runs[0] is not None
    assert runs[1] is not None
    assert torch.equal(runs[0], runs[1])


@pytest.mark.parametrize("vocabulary", [32_016, 97, 64])
def test_the_loss_of_a_tied_head_and_its_gradients(vocabulary: int) -> None:
    from utils.kernels.cross_entropy import tied_head_loss

    hidden = torch.randn(60, 64, device="cuda", dtype=torch.bfloat16)
    embedding = torch.randn(vocabulary, 64, device="cuda") * 0.3
    targets = torch.randint(vocabulary, (60,), device="cuda")
    targets[::7] = -100
    count = int((targets >= 0).sum())
    ours = [hidden.clone().requires_grad_(), embedding.clone().requires_grad_()]
    # The same roundings, exact in between: of the weights and of the logits.
    theirs = [hidden.double().requires_grad_(), embedding.bfloat16().double().requires_grad_()]
    found = tied_head_loss(ours[0], ours[1], targets, count)
    logits = theirs[0] @ theirs[1].T
    expected = F.cross_entropy(logits + (logits.bfloat16() - logits).detach(), targets)
    torch.autograd.backward(found / 3)
    torch.autograd.backward(expected / 3)
    assert found.item() == pytest.approx(expected.item(), rel=1e-3)
    for mine, plain in zip(ours, theirs, strict=True):
        assert mine.grad is not None
        assert plain.grad is not None
        assert error(mine.grad, plain.grad) < ROUNDING
        assert share(mine.grad, plain.grad) == pytest.approx(1, abs=1e-3)
    with torch.no_grad():
        assert tied_head_loss(ours[0], ours[1], targets, count).item() == found.item()


@pytest.mark.parametrize("tokens", [64, 33])
def test_a_model_of_kernels_is_as_near_to_double_precision_as_the_plain_one(tokens: int) -> None:
    shape = {"hidden_size": 64, "num_heads": 2, "max_position_embeddings": 64}
    plain, fused, reference = (tiny_model(tiny_config(model=shape)).cuda() for _ in range(3))
    fused.compile_for_training()
    assert fused.fused_decoder is not None, "not a GPU that the kernels are for"
    ids = torch.randint(97, (8, tokens), device="cuda")
    expected = reference.double().train().loss(ids)
    torch.autograd.backward(expected)
    for model in (plain, fused):
        with torch.autocast("cuda", torch.bfloat16):
            found = model.train().loss(ids)
        torch.autograd.backward(found)
        assert found.item() == pytest.approx(expected.item(), rel=3e-3)
    for (name, ours), usual, exact in zip(
        fused.named_parameters(), plain.parameters(), reference.parameters(), strict=True
    ):
        assert ours.grad is not None
        assert usual.grad is not None
        assert exact.grad is not None
        allowed = 1.5 * error(usual.grad, exact.grad) + 1e-3
        assert error(ours.grad, exact.grad) < allowed, name
    with torch.no_grad(), torch.autocast("cuda", torch.bfloat16):
        assert fused.eval().loss(ids).item() == pytest.approx(expected.item(), rel=3e-3)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("shape", [(64, 512, 512), (3, 7, 64), (2, 50, 96), (2, 3, 2_500)])
def test_adding_and_normalising_and_their_gradients(
    shape: tuple[int, int, int], dropout: float
) -> None:
    from utils.kernels.residual_norm import Branch, residual_norm

    norm = nn.LayerNorm(shape[-1], device="cuda")
    bias = torch.randn(shape[-1], device="cuda", requires_grad=True)
    for parameter in norm.parameters():
        nn.init.normal_(parameter)
    x, values = (
        torch.randn(shape, device="cuda", dtype=torch.bfloat16, requires_grad=True)
        for _ in range(2)
    )
    gradients = [torch.randn(shape, device="cuda", dtype=torch.bfloat16) for _ in range(2)]
    inputs = [x, values, bias, *norm.parameters()]

    added, normed = residual_norm(x, Branch(values, bias), norm, dropout, key()[1])
    found = torch.autograd.grad((added, normed), inputs, gradients)
    total = x + hash_dropout(values.float() + bias, dropout, key()[1])
    rounded = total + (total.bfloat16() - total).detach()  # what is stored is normalised
    expected = torch.autograd.grad((total, norm(rounded)), inputs, [g.float() for g in gradients])
    assert torch.equal(added, total.bfloat16())
    assert error(normed, norm(rounded)) < ROUNDING
    for ours, plain in zip(found, expected, strict=True):
        assert error(ours, plain) < ROUNDING

    again = residual_norm(x, Branch(values, bias), norm, dropout, key()[1])
    assert all(map(torch.equal, found, torch.autograd.grad(again, inputs, gradients)))


def model_of_heads(head_size: int, dtype: torch.dtype, quantization: str = "") -> InferenceModel:
    """With weights of bf16 precision, whatever the type."""
    shape = {"hidden_size": 3 * head_size, "num_heads": 3, "max_position_embeddings": 600}
    torch.manual_seed(0)
    trained = tiny_model(tiny_config(model=shape))
    weights = {name: weight.bfloat16() for name, weight in trained.state_dict().items()}
    model = InferenceModel.from_weights(trained.config, weights, torch.device("cuda"), dtype)
    if quantization:
        quantize(model, quantization)
    return model


def filled_cache(model: InferenceModel, rows: int) -> KeyValueCache:
    torch.manual_seed(0)
    cache = model.new_cache(rows, 600)
    cache.keys.copy_(torch.randn(cache.keys.shape, device="cuda").bfloat16())
    cache.values.copy_(torch.randn(cache.values.shape, device="cuda").bfloat16())
    return cache


@pytest.mark.parametrize("few_rows", [0, 8])  # with cuBLAS's products, and with ours
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("head_size", "quantization"), [(16, ""), (32, ""), (64, ""), (128, ""), (32, "int8")]
)
@torch.inference_mode()
def test_a_step_of_few_kernels_is_the_plain_step(
    head_size: int,
    quantization: str,
    dtype: torch.dtype,
    few_rows: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from utils.kernels import decoding

    monkeypatch.setattr(decoding, "FEW_ROWS", few_rows)
    model, exact_model = (
        model_of_heads(head_size, each, quantization) for each in (dtype, torch.float32)
    )
    assert decoding.kernels_fit(model)
    rows = 7 if few_rows else 21  # which attention divides in another way
    positions = torch.tensor([0, 1, 127, 128, 129, 300, 599] * 3, device="cuda")[:rows]
    token_ids = torch.randint(97, (rows,), device="cuda")
    ours, plain, exact = (filled_cache(each, rows) for each in (model, model, exact_model))
    found = decoding.decode_one(model, token_ids, positions, ours)
    other = model.decode_one_plainly(token_ids, positions, plain)
    expected = exact_model.decode_one_plainly(token_ids, positions, exact)
    for mine, theirs, truth in (
        (found, other, expected),
        (ours.keys, plain.keys, exact.keys),
        (ours.values, plain.values, exact.values),
    ):
        limit = 1e-5 if dtype == torch.float32 else 1.2 * error(theirs, truth)
        assert error(mine, truth) < limit


@torch.inference_mode()
def test_a_row_is_decoded_alike_alone_and_among_few() -> None:
    model = model_of_heads(32, torch.bfloat16)
    positions = torch.tensor([0, 1, 127, 300, 599, 17, 513], device="cuda")
    token_ids, cache = torch.randint(97, (7,), device="cuda"), filled_cache(model, 7)
    copy = KeyValueCache(cache.keys.clone(), cache.values.clone())
    together = model.decode_one(token_ids, positions, cache)
    for row in range(7):
        own = KeyValueCache(*(part[:, row : row + 1].clone() for part in (copy.keys, copy.values)))
        alone = model.decode_one(token_ids[row : row + 1], positions[row : row + 1], own)
        assert torch.equal(alone[0], together[row])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.inference_mode()
def test_prompts_are_read_into_the_cache_as_by_torch(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    from utils.kernels import decoding

    model = model_of_heads(32, dtype)
    input_ids, ours, plain = (
        torch.randint(97, (3, 41), device="cuda"),
        *(model.new_cache(3, 600) for _ in range(2)),
    )
    found = model.hidden_states(input_ids, ours)
    monkeypatch.setattr(decoding, "kernels_fit", lambda _: False)
    expected = model.hidden_states(input_ids, plain)
    limit = 1e-5 if dtype == torch.float32 else ROUNDING
    for mine, theirs in ((found, expected), (ours.keys, plain.keys), (ours.values, plain.values)):
        assert error(mine, theirs) < limit


@pytest.mark.parametrize("vocabulary", [97, 32_016, 50_257])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "chosen",
    [(0.0, 0, 1.0), (0.8, 50, 0.95), (1.3, 0, 0.5), (1.0, 1, 1.0), (1.0, 0, 1.0), (0.7, 7, 1.0)],
)
def test_a_token_is_drawn_in_one_kernel_as_by_torch(
    chosen: tuple[float, int, float], dtype: torch.dtype, vocabulary: int
) -> None:
    logits = torch.randn(40, vocabulary, device="cuda").mul(3).to(dtype)
    logits[1, 10:20] = logits[1, 10]  # as likely as each other
    logits[2, 5:] = -torch.inf
    keys = random_keys(range(40), logits.device)
    sampling, differing = Sampling(1, *chosen), 0
    for step in range(25):
        ids, log_probabilities = draw(logits, sampling, keys, step)
        plain_ids, plain_log_probabilities = draw_plainly(logits, sampling, keys, step)
        same = ids == plain_ids
        differing += int((~same).sum())
        torch.testing.assert_close(log_probabilities[same], plain_log_probabilities[same])
    assert differing <= 2  # of 1,000: where rounding decides


def test_all_layers_share_their_compiled_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch._dynamo.config.error_on_recompile", True)
    shape = {"hidden_size": 64, "num_heads": 2, "num_layers": 4}
    model = tiny_model(tiny_config(model=shape)).cuda().train()
    model.compile_for_training()
    ids = torch.randint(97, (8, model.max_positions), device="cuda")
    with torch.autocast("cuda", torch.bfloat16):
        hidden = model.hidden_states(ids)
        torch.autograd.backward(model.loss(ids))
    assert hidden.dtype == torch.bfloat16


def test_dropout_of_the_compiled_model_is_drawn_anew_for_each_loss_and_repeats() -> None:
    shape = {"hidden_size": 64, "num_heads": 2, "max_position_embeddings": 64}
    dropout = {"dropout": 0.3, "attention_dropout": 0.3}
    model = LanguageModel(tiny_config(model=shape | dropout)).cuda().train()
    model.compile_for_training()
    ids = torch.randint(97, (8, 64), device="cuda")
    losses = []
    for seed in (1, 2, 1):
        torch.manual_seed(seed)
        with torch.autocast("cuda", torch.bfloat16):
            losses.append(model.loss(ids).item())
    assert losses[0] == losses[2] != losses[1]


def test_compiled_hash_dropout_drops_the_same_positions() -> None:
    x = torch.randn(64, 512, device="cuda", dtype=torch.bfloat16)
    compiled = torch.compile(hash_dropout)
    assert torch.equal(compiled(x, 0.1, key()[1]), hash_dropout(x, 0.1, key()[1]))
    assert torch.equal(
        hash_dropout(x, 0.1, key()[1]) == 0,
        (hash_dropout(x.cpu(), 0.1, key()[1].cpu()) == 0).cuda(),
    )
