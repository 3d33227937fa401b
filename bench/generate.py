"""How fast text is generated: ours against Hugging Face's generate and nanoGPT's.

`python -m bench.generate [--checkpoint FILE] [--nanogpt FOLDER]` continues the same prompts with
all of them in one process, in turns, sampling at temperature 0.8 from the 50 likeliest tokens, and
none ends early. Hugging Face has the same weights, through export.py's folder; nanoGPT's are random
and of the same shape. Without a checkpoint all weights are random: speed does not depend on them.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from sys import stderr
from typing import Any

import torch

from bench.measure import (
    Timing,
    bench_parser,
    environment_of,
    paragraph,
    positive,
    publish,
    side_by_side,
    table,
    times_as_fast,
)
from bench.nanogpt import PEER, add_options, load_module, synchronize
from model import create_model
from utils.checkpoint import Checkpoint
from utils.cli import config_from, run_script
from utils.compile_cache import use_compile_cache
from utils.config import Config
from utils.device import autocast, choose_device
from utils.errors import UsageError
from utils.exporting.hugging_face import export_folder
from utils.exporting.trained import TrainedModel
from utils.generation import NEVER, Engine
from utils.inference_model import InferenceModel
from utils.loading import inference_dtype, load_for_inference
from utils.sampling import Sampling
from utils.tokenizer_files import TOKENIZER_FILE, read_tokenizer_files

OURS, HUGGING_FACE = "ours", "Hugging Face"
PACKAGES = ("torch", "transformers", "triton", "numpy")
TEMPERATURE, TOP_K = 0.8, 50
PROMPT_TOKENS, LONG_PROMPT_TOKENS = 16, 256
COPIED_BYTES = 2**30

Generate = Callable[[list[list[int]], int], object]  # prompts of one length; how many tokens to add


def main(arguments: Sequence[str]) -> None:
    args = _parser().parse_args(arguments)
    config = config_from(args)
    if PROMPT_TOKENS + args.tokens > config.model.max_position_embeddings:
        raise UsageError(
            f"--tokens {args.tokens}: with a prompt of {PROMPT_TOKENS} that is more than the window"
            f" of {config.model.max_position_embeddings}, which others cannot leave"
        )
    device = choose_device(args.device)
    environment = environment_of(PACKAGES, args.commit, with_gpu=True)
    use_compile_cache(config.paths.compile_cache_dir)
    synchronize(device)  # starts CUDA, which takes its time once
    began = time.perf_counter()
    model, checkpoint = _model(args.checkpoint, config, device)
    synchronize(device)
    loading_seconds = time.perf_counter() - began if args.checkpoint else None
    engine = Engine(model, NEVER, 0)
    began = time.perf_counter()
    engine.warm_up()
    ready_seconds = time.perf_counter() - began
    contenders: dict[str, Generate] = {OURS: _ours(engine)}
    with tempfile.TemporaryDirectory() as folder:
        if not args.no_hugging_face:
            contenders[HUGGING_FACE] = _hugging_face(config, checkpoint, device, Path(folder))
        if args.nanogpt:
            contenders[PEER] = _nanogpt(args, model.config, device)
        timings = {
            rows: _time(contenders, model.config, rows, PROMPT_TOKENS, args.tokens, args.repeats)
            for rows in args.rows
        }
        long_prompt = min(LONG_PROMPT_TOKENS, model.max_positions // 2)
        first = _time(contenders, model.config, 1, long_prompt, 1, args.repeats)
    limits = {rows: _limit(model, rows, args.tokens) for rows in args.rows}
    values = {
        "tokens": args.tokens,
        "loading_seconds": loading_seconds,
        "ready_seconds": ready_seconds,
        "limit_tokens_per_second": limits,
        "rows": {rows: _values(found) for rows, found in timings.items()},
        "first_token": _values(first),
    }
    body = _body(args, timings, first, long_prompt, limits, device)
    loading = f"Loading the checkpoint: {loading_seconds:.2f} s. " if loading_seconds else ""
    ready = f"From the loaded model to ready: {ready_seconds:.2f} s."
    body += f"\n\n{paragraph(loading + ready)}"
    publish(args, "generate", "Generating text", body, values, environment, device.type)


def _parser() -> argparse.ArgumentParser:
    parser = bench_parser("generate", "Compare generating: ours, others'.", repeats=5)
    add_options(parser)
    parser.add_argument("--checkpoint", type=Path, metavar="FILE", help="(default: random weights)")
    parser.add_argument("--device", help="cuda (default), cuda:N or cpu")
    parser.add_argument("--rows", type=positive, nargs="+", default=[1, 32], help="(default: 1 32)")
    parser.add_argument(
        "--tokens", type=positive, default=200, metavar="N", help="to generate (default: 200)"
    )
    parser.add_argument("--no-hugging-face", action="store_true", help="leave it out")
    return parser


def _model(
    path: Path | None, config: Config, device: torch.device
) -> tuple[InferenceModel, Checkpoint]:
    if path is not None:
        return load_for_inference(path, config, device)
    torch.manual_seed(config.training.seed)
    fresh = Checkpoint(config, create_model(config).state_dict(), name="random weights")
    return _of(fresh, device, inference_dtype(device)), fresh


def _of(checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype) -> InferenceModel:
    return InferenceModel.from_weights(checkpoint.config, checkpoint.model, device, dtype)


def _ours(engine: Engine) -> Generate:
    sampling = {"temperature": TEMPERATURE, "top_k": TOP_K, "top_p": 1.0, "seed": 1}

    def generate(prompts: list[list[int]], tokens: int) -> object:
        return list(engine.generate(prompts, Sampling(max_length=tokens, **sampling)))  # type: ignore[arg-type]

    return generate


def _hugging_face(
    config: Config, checkpoint: Checkpoint, device: torch.device, folder: Path
) -> Generate:
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.set_verbosity_error()  # type: ignore[no-untyped-call]

    _, files = read_tokenizer_files(config.paths.tokenizer_dir)
    cpu = _of(checkpoint, torch.device("cpu"), torch.float32)
    exported = folder / "exported"
    export_folder(TrainedModel(cpu, checkpoint, "bench", files[TOKENIZER_FILE]), exported)
    model: Any = AutoModelForCausalLM.from_pretrained(exported, dtype=inference_dtype(device))
    model = model.to(device).eval()
    model.generation_config.eos_token_id = None  # no text ends early

    def generate(prompts: list[list[int]], tokens: int) -> object:
        input_ids = torch.tensor(prompts, device=device)
        options = {"do_sample": True, "temperature": TEMPERATURE, "top_k": TOP_K, "top_p": 1.0}
        return model.generate(
            input_ids,
            attention_mask=torch.ones_like(input_ids),
            max_new_tokens=tokens,
            pad_token_id=0,
            **options,
        ).tolist()

    return generate


def _nanogpt(args: argparse.Namespace, config: Config, device: torch.device) -> Generate:
    """Under bf16 autocast on a GPU, as in its sample.py."""
    module, shape = load_module(args.nanogpt), config.model
    with redirect_stdout(stderr):
        model = module.GPT(
            module.GPTConfig(
                block_size=shape.max_position_embeddings,
                vocab_size=args.nanogpt_vocab or shape.vocab_size,
                n_layer=shape.num_layers,
                n_head=shape.num_heads,
                n_embd=shape.hidden_size,
                dropout=0.0,
                bias=True,
            )
        )
    model = model.to(device).eval()

    def generate(prompts: list[list[int]], tokens: int) -> object:
        with torch.no_grad(), autocast(device, "bf16"):
            ids = torch.tensor(prompts, device=device)
            return model.generate(ids, tokens, temperature=TEMPERATURE, top_k=TOP_K).tolist()

    return generate


def _time(
    contenders: Mapping[str, Generate],
    config: Config,
    rows: int,
    prompt_tokens: int,
    tokens: int,
    repeats: int,
) -> dict[str, Timing]:
    """Every contender's seconds for the same prompts, warm."""
    generator = torch.Generator().manual_seed(1)
    size = (rows, prompt_tokens)
    prompts = torch.randint(3, config.model.vocab_size, size, generator=generator).tolist()

    def call(generate: Generate) -> Callable[[], object]:
        return lambda: generate(prompts, tokens)

    for generate in contenders.values():
        generate(prompts, min(tokens, 8))
    return side_by_side({name: call(each) for name, each in contenders.items()}, repeats)


def _limit(model: InferenceModel, rows: int, tokens: int) -> float:
    """Tokens a second if a step took only the time to read all weights, and keys and values, once.

    The speed of memory is that of a copy, counted as bytes read and written.
    """
    memory = torch.empty(COPIED_BYTES, dtype=torch.uint8, device=model.device)
    target = torch.empty_like(memory)
    seconds = []
    for _ in range(5):
        synchronize(model.device)
        began = time.perf_counter()
        target.copy_(memory)
        synchronize(model.device)
        seconds.append(time.perf_counter() - began)
    bytes_per_second = 2 * COPIED_BYTES / min(seconds)
    shape, item_bytes = model.config.model, model.token_embedding.weight.element_size()
    weight_bytes = sum(p.numel() * p.element_size() for p in model.parameters())
    context = PROMPT_TOKENS + tokens // 2  # in the mean
    cache_bytes = 2 * shape.num_layers * shape.hidden_size * context * item_bytes * rows
    return rows * bytes_per_second / (weight_bytes + cache_bytes)


def _values(timings: Mapping[str, Timing]) -> dict[str, object]:
    return {name: timing.values() for name, timing in timings.items()}


def _body(
    args: argparse.Namespace,
    timings: Mapping[int, Mapping[str, Timing]],
    first: Mapping[str, Timing],
    long_prompt: int,
    limits: Mapping[int, float],
    device: torch.device,
) -> str:
    about = (
        f"{args.tokens} tokens behind prompts of {PROMPT_TOKENS}; {args.repeats} rounds, in turns,"
        " by the median round; the ratio is the median of the rounds' ratios. The limit is reading"
        " all weights, and keys and values, once a step, at the speed of a copy."
    )
    rows = [
        [
            f"{name}, batch {batch}",
            f"{batch * args.tokens / timing.wall_median:,.0f}",
            f"{1e3 * timing.wall_median / args.tokens:.2f}",
            f"{times_as_fast(found[OURS].wall, timing.wall):.1f} x",
            f"{batch * args.tokens / timing.wall_median / limits[batch]:.1%}",
        ]
        for batch, found in timings.items()
        for name, timing in found.items()
    ]
    header = ["", "tokens/s", "ms a step", "ours is", "of the limit"]
    firsts = ", ".join(f"{name} {1e3 * each.wall_median:.1f} ms" for name, each in first.items())
    numbers = str(inference_dtype(device)).removeprefix("torch.")
    rest = f"Weights of {numbers}. First token of a prompt of {long_prompt} tokens: {firsts}."
    return f"{paragraph(about)}\n\n{table(header, rows)}\n\n{paragraph(rest)}"


if __name__ == "__main__":
    run_script(main)
