"""The Triton kernels of causal self-attention; utils/kernels/attention.py launches them.

Flash attention (Dao 2023): scores never reach memory. Queries, keys and values are read where the
projection wrote them and their gradients are written where its backward pass reads them, so that
nothing is split or transposed on the way. Every program owns what it writes: two runs agree to the
bit.

Names: H heads of D features, T tokens; `packed` is (B, T, 3 * H * D), queries first. Weights are
computed as powers of 2 (exp2 is one instruction), so scales and log-sums are in that base.
"""

import triton
import triton.language as tl

from utils.kernels.hashing import keeps, row_keys


@triton.jit
def _block_and_head(tokens, BLOCK: tl.constexpr):
    """What this program works on. Blocks of a head are neighbours: they share its keys."""
    program, blocks = tl.program_id(0), tl.cdiv(tokens, BLOCK)
    return program % blocks, program // blocks


@triton.jit
def _head_start(tensor, head, tokens, width: tl.constexpr, H: tl.constexpr, D: tl.constexpr):
    return tensor + (head // H).to(tl.int64) * tokens * width + (head % H) * D


@triton.jit
def _load(start, rows, stride, tokens, D: tl.constexpr, MASKED: tl.constexpr):
    """(rows, D) of a head; zeros beyond the last token."""
    places = start + rows[:, None] * stride + tl.arange(0, D)[None, :]
    if MASKED:
        return tl.load(places, rows[:, None] < tokens, 0.0)
    return tl.load(places)


@triton.jit
def _store(start, rows, stride, tokens, values, D: tl.constexpr):
    places = start + rows[:, None] * stride + tl.arange(0, D)[None, :]
    tl.store(places, values.to(start.dtype.element_ty), rows[:, None] < tokens)


@triton.jit
def _store_sum(sums, row, head, part, values, H: tl.constexpr, D: tl.constexpr):
    """The sum over tokens of (tokens, D), a share of a bias's gradient, in row `row` of `sums`."""
    places = row * 3 * H * D + part * H * D + (head % H) * D + tl.arange(0, D)
    tl.store(sums + places, tl.sum(values, 0))


@triton.jit
def _read_columns(
    q,  # (rows, D)
    state,  # the weighted sum of values so far, (rows, D); the highest score, the sum of weights
    rows,
    keys_of_rows,
    first,
    last,
    start,
    tokens,
    scale,
    threshold,
    H: tl.constexpr,
    D: tl.constexpr,
    STEP: tl.constexpr,
    MASKED: tl.constexpr,
    DROPOUT: tl.constexpr,
):
    """Let `rows` attend to the tokens from `first` to before `last`."""
    total, highest, weight_sum = state
    for column in range(first, last, STEP):
        columns = column + tl.arange(0, STEP)
        k = _load(start + H * D, columns, 3 * H * D, tokens, D, MASKED)
        v = _load(start + 2 * H * D, columns, 3 * H * D, tokens, D, MASKED)
        scores = tl.dot(q, tl.trans(k))
        if MASKED:
            scores = tl.where(rows[:, None] >= columns[None, :], scores, -float("inf"))
        higher = tl.maximum(highest, tl.max(scores, 1) * scale)
        weights = tl.exp2(scores * scale - higher[:, None])
        correction = tl.exp2(highest - higher)
        weight_sum = weight_sum * correction + tl.sum(weights, 1)
        if DROPOUT:
            kept = keeps(keys_of_rows[:, None], columns[None, :], threshold)
            weights = tl.where(kept, weights, 0.0)
        total = tl.dot(weights.to(v.dtype), v, total * correction[:, None])
        highest = higher
    return total, highest, weight_sum


@triton.jit
def forward(
    packed,
    key,
    mixed,  # (B, T, H * D): the result
    log_sums,  # (B * H, T): log2 of each row's sum of weights
    tokens,
    scale,
    threshold,
    upscale,
    H: tl.constexpr,
    D: tl.constexpr,
    BLOCK: tl.constexpr,
    STEP: tl.constexpr,
    DROPOUT: tl.constexpr,
):
    block, head = _block_and_head(tokens, BLOCK)
    block = tl.cdiv(tokens, BLOCK) - 1 - block  # the longest rows first
    start = _head_start(packed, head, tokens, 3 * H * D, H, D)
    rows = block * BLOCK + tl.arange(0, BLOCK)
    q = _load(start, rows, 3 * H * D, tokens, D, True)
    keys_of_rows = row_keys(key, head, rows) if DROPOUT else rows
    total = tl.zeros([BLOCK, D], tl.float32)
    state = (total, tl.full([BLOCK], -float("inf"), tl.float32), tl.zeros([BLOCK], tl.float32))
    border = block * BLOCK
    end = tl.minimum(border + BLOCK, tokens)
    state = _read_columns(
        q, state, rows, keys_of_rows, 0, border, start, tokens, scale, threshold,
        H, D, STEP, False, DROPOUT,
    )  # fmt: skip
    total, highest, weight_sum = _read_columns(
        q, state, rows, keys_of_rows, border, end, start, tokens, scale, threshold,
        H, D, STEP, True, DROPOUT,
    )  # fmt: skip
    result = _head_start(mixed, head, tokens, H * D, H, D)
    _store(result, rows, H * D, tokens, total * (upscale / weight_sum)[:, None], D)
    tl.store(log_sums + head * tokens + rows, highest + tl.log2(weight_sum), rows < tokens)


@triton.jit
def row_means(
    mixed,
    gradient,
    means,
    tokens,
    keep_share,
    H: tl.constexpr,
    D: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Of each row, the mean gradient of its weights, times `keep_share`: means (B * H, T)."""
    block, head = _block_and_head(tokens, BLOCK)
    rows = block * BLOCK + tl.arange(0, BLOCK)
    o = _load(_head_start(mixed, head, tokens, H * D, H, D), rows, H * D, tokens, D, True)
    g = _load(_head_start(gradient, head, tokens, H * D, H, D), rows, H * D, tokens, D, True)
    mean = tl.sum(o.to(tl.float32) * g.to(tl.float32), 1) * keep_share
    tl.store(means + head * tokens + rows, mean, rows < tokens)


@triton.jit
def _read_rows(
    k, v,  # (columns, D)
    of_k, of_v,  # their gradients so far, fp32
    columns, first, last,
    start, gradient, log_sums, means,
    key, head, tokens, scale, threshold,
    H: tl.constexpr, D: tl.constexpr, STEP: tl.constexpr,
    MASKED: tl.constexpr, DROPOUT: tl.constexpr,
):  # fmt: skip
    """Add what the rows from `first` to before `last` give to the gradients of k and v."""
    for row in range(first, last, STEP):
        rows = row + tl.arange(0, STEP)
        q = _load(start, rows, 3 * H * D, tokens, D, MASKED)
        g = _load(gradient, rows, H * D, tokens, D, MASKED)
        if MASKED:
            log_sum = tl.load(log_sums + rows, rows < tokens, 0.0)
            mean = tl.load(means + rows, rows < tokens, 0.0)
        else:
            log_sum, mean = tl.load(log_sums + rows), tl.load(means + rows)
        # Transposed (columns, rows), the weights are already laid out for the next product.
        weights = tl.exp2(tl.dot(k, tl.trans(q)) * scale - log_sum[None, :])
        if MASKED:
            seen = (rows[None, :] >= columns[:, None]) & (rows[None, :] < tokens)
            weights = tl.where(seen, weights, 0.0)
        of_weights = tl.dot(v, tl.trans(g))
        kept_weights = weights
        if DROPOUT:
            kept = keeps(row_keys(key, head, rows)[None, :], columns[:, None], threshold)
            of_weights = tl.where(kept, of_weights, 0.0)
            kept_weights = tl.where(kept, weights, 0.0)
        of_scores = weights * (of_weights - mean[None, :])
        of_v = tl.dot(kept_weights.to(g.dtype), g, of_v)
        of_k = tl.dot(of_scores.to(q.dtype), q, of_k)
    return of_k, of_v


@triton.jit
def _read_columns_again(
    q, g, log_sum, mean, of_q,
    rows, keys_of_rows, first, last,
    start, tokens, scale, threshold,
    H: tl.constexpr, D: tl.constexpr, STEP: tl.constexpr,
    MASKED: tl.constexpr, DROPOUT: tl.constexpr,
):  # fmt: skip
    """Add what the tokens from `first` to before `last` give to the gradient of q."""
    for column in range(first, last, STEP):
        columns = column + tl.arange(0, STEP)
        k = _load(start + H * D, columns, 3 * H * D, tokens, D, MASKED)
        v = _load(start + 2 * H * D, columns, 3 * H * D, tokens, D, MASKED)
        weights = tl.exp2(tl.dot(q, tl.trans(k)) * scale - log_sum[:, None])
        if MASKED:
            weights = tl.where(rows[:, None] >= columns[None, :], weights, 0.0)
        of_weights = tl.dot(g, tl.trans(v))
        if DROPOUT:
            kept = keeps(keys_of_rows[:, None], columns[None, :], threshold)
            of_weights = tl.where(kept, of_weights, 0.0)
        of_q = tl.dot((weights * (of_weights - mean[:, None])).to(k.dtype), k, of_q)
    return of_q


@triton.jit
def backward(
    packed, key, gradient, log_sums, means, of_packed, bias_sums,
    tokens, scale, threshold, upscale, factor,
    H: tl.constexpr, D: tl.constexpr, BLOCK: tl.constexpr, STEP: tl.constexpr,
    DROPOUT: tl.constexpr,
):  # fmt: skip
    """Gradients of one block of tokens: as keys and values, read by the rows from here on, then as
    queries, which read the columns up to here. Together that is the same work for every block.
    """
    block, head = _block_and_head(tokens, BLOCK)
    start = _head_start(packed, head, tokens, 3 * H * D, H, D)
    result = _head_start(of_packed, head, tokens, 3 * H * D, H, D)
    gradient = _head_start(gradient, head, tokens, H * D, H, D)
    log_sums += head * tokens
    means += head * tokens
    border = block * BLOCK
    sums_row = head // H * tl.cdiv(tokens, BLOCK) + block
    own = border + tl.arange(0, BLOCK)
    end = tl.minimum(border + BLOCK, tokens)

    k = _load(start + H * D, own, 3 * H * D, tokens, D, True)
    v = _load(start + 2 * H * D, own, 3 * H * D, tokens, D, True)
    of_k, of_v = tl.zeros([BLOCK, D], tl.float32), tl.zeros([BLOCK, D], tl.float32)
    whole = tokens // STEP * STEP
    of_k, of_v = _read_rows(
        k, v, of_k, of_v, own, border, end, start, gradient, log_sums, means,
        key, head, tokens, scale, threshold, H, D, STEP, True, DROPOUT,
    )  # fmt: skip
    of_k, of_v = _read_rows(
        k, v, of_k, of_v, own, border + BLOCK, whole, start, gradient, log_sums, means,
        key, head, tokens, scale, threshold, H, D, STEP, False, DROPOUT,
    )  # fmt: skip
    of_k, of_v = _read_rows(
        k, v, of_k, of_v, own, tl.maximum(border + BLOCK, whole), tokens, start, gradient, log_sums,
        means, key, head, tokens, scale, threshold, H, D, STEP, True, DROPOUT,
    )  # fmt: skip
    _store(result + H * D, own, 3 * H * D, tokens, of_k * factor, D)
    _store(result + 2 * H * D, own, 3 * H * D, tokens, of_v * upscale, D)
    _store_sum(bias_sums, sums_row, head, 1, of_k * factor, H, D)
    _store_sum(bias_sums, sums_row, head, 2, of_v * upscale, H, D)

    q = _load(start, own, 3 * H * D, tokens, D, True)
    g = _load(gradient, own, H * D, tokens, D, True)
    log_sum = tl.load(log_sums + own, own < tokens, 0.0)
    mean = tl.load(means + own, own < tokens, 0.0)
    keys_of_rows = row_keys(key, head, own) if DROPOUT else own
    of_q = tl.zeros([BLOCK, D], tl.float32)
    of_q = _read_columns_again(
        q, g, log_sum, mean, of_q, own, keys_of_rows, 0, border,
        start, tokens, scale, threshold, H, D, STEP, False, DROPOUT,
    )  # fmt: skip
    of_q = _read_columns_again(
        q, g, log_sum, mean, of_q, own, keys_of_rows, border, end,
        start, tokens, scale, threshold, H, D, STEP, True, DROPOUT,
    )  # fmt: skip
    _store(result, own, 3 * H * D, tokens, of_q * factor, D)
    _store_sum(bias_sums, sums_row, head, 0, of_q * factor, H, D)
