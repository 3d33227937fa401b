"""utils/dropout.py: masks that are a hash of key and position."""

import pytest
import torch

from utils.dropout import hash_dropout, keep_threshold, score_mask, scrambled

DRAWS = 1 << 20


def key(value: int) -> torch.Tensor:
    return torch.tensor([value], dtype=torch.int32)


def lowbias32(x: int) -> int:
    """The published hash, without its last shift, in Python's own integers."""
    x ^= x >> 16
    x = x * 0x7FEB352D & 0xFFFFFFFF
    x ^= x >> 15
    return x * 0x846CA68B & 0xFFFFFFFF


def test_the_hash_is_the_published_one() -> None:
    values = [0, 1, 2, 12_345, 2**31 - 1, 2**31, 2**32 - 1]
    signed = torch.tensor(values, dtype=torch.int64).to(torch.int32)
    hashed = [value % 2**32 for value in scrambled(signed).tolist()]
    assert hashed == [lowbias32(value) for value in values]


@pytest.mark.parametrize("probability", [0.02, 0.1, 0.5])
def test_the_share_and_the_mean_are_as_asked(probability: float) -> None:
    dropped = hash_dropout(torch.ones(DRAWS), probability, key(99))
    deviation = (probability * (1 - probability) / DRAWS) ** 0.5
    assert abs((dropped == 0).double().mean().item() - probability) < 5 * deviation
    assert dropped.max().item() == pytest.approx(1 / (1 - probability))


def test_no_dropout_is_the_input_itself() -> None:
    x = torch.randn(5)
    assert hash_dropout(x, 0.0, key(1)) is x
    assert keep_threshold(0.0) == 2**31 - 1


def test_masks_of_neighbouring_keys_and_positions_are_independent() -> None:
    kept = [hash_dropout(torch.ones(DRAWS), 0.5, key(value)) > 0 for value in (7, 8)]
    for shift in (0, 1, 2, 64, 512):
        same = (kept[0][shift:] == kept[1][: DRAWS - shift]).double().mean().item()
        assert abs(same - 0.5) < 5 * 0.5 / DRAWS**0.5
    for shift in (1, 2, 64, 512):
        same = (kept[0][shift:] == kept[0][:-shift]).double().mean().item()
        assert abs(same - 0.5) < 5 * 0.5 / DRAWS**0.5


def test_the_gradient_is_zero_where_the_value_was_dropped() -> None:
    x = torch.randn(1000, requires_grad=True)
    y = hash_dropout(x, 0.3, key(3))
    torch.autograd.backward(y.sum())
    assert x.grad is not None
    assert torch.equal(x.grad == 0, y == 0)


def test_rows_columns_and_heads_of_attention_drop_independently() -> None:
    heads, tokens, probability = 8, 256, 0.1
    dropped = ~score_mask(key(5), heads, tokens, probability)
    centred = (dropped.double() - probability) / (probability * (1 - probability)) ** 0.5
    assert abs(centred.mean().item()) < 5 / dropped.numel() ** 0.5
    for left, right in (
        (centred[:, 1:], centred[:, :-1]),
        (centred[:, :, 1:], centred[:, :, :-1]),
        (centred[1:], centred[:-1]),
        (centred[:, :, 64:], centred[:, :, :-64]),
    ):
        assert abs((left * right).mean().item()) < 5 / left.numel() ** 0.5
