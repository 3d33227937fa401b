"""A trained model as a folder that Hugging Face transformers loads: GPT2LMHeadModel.

transformers itself is not needed to write it. GPT-2's matrices are Conv1D there, which keeps them
transposed; the head is the embedding, so it is not in the file.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from utils.config import GenerationConfig
from utils.errors import UsageError
from utils.exporting.model_card import model_card
from utils.exporting.staging import staged
from utils.exporting.trained import TrainedModel
from utils.exporting.vocabulary import pieces_by_id
from utils.files import write_json
from utils.tokenizer_files import TOKENIZER_FILE

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}

_RECORD = "export.json"  # names the files of an export, so that a later one may replace them
_CARD = "README.md"
_LAYER = "transformer.h.{}"
_NAMES = {
    "token_embedding": "transformer.wte",
    "position_embedding": "transformer.wpe",
    "norm1": "ln_1",
    "qkv": "attn.c_attn",
    "out": "attn.c_proj",
    "norm2": "ln_2",
    "up": "mlp.c_fc",
    "down": "mlp.c_proj",
    "norm": "transformer.ln_f",
}
_EMBEDDINGS = ("wte.weight", "wpe.weight")


def export_folder(trained: TrainedModel, folder: Path, dtype: str = "f32") -> None:
    """Write `folder`, whole or not at all: AutoModelForCausalLM and AutoTokenizer load it.

    Raises UsageError where `check_replaceable` does, and what `staged` does.
    """
    check_replaceable(folder)
    config = trained.model.config
    pieces = pieces_by_id(trained.tokenizer_json)
    needed_bytes = trained.parameters * DTYPES[dtype].itemsize + len(trained.tokenizer_json)
    with staged(folder, needed_bytes) as new:
        new.mkdir()
        weights = {
            name: (tensor if tensor.dim() == 1 or name.endswith(_EMBEDDINGS) else tensor.T)
            .to(DTYPES[dtype])
            .clone(memory_format=torch.contiguous_format)
            for name, tensor in trained.weights(_NAMES, _LAYER)
        }
        write_json(new / "config.json", model_config(trained, dtype))
        weights_path = new / "model.safetensors"
        save_file(weights, weights_path, metadata={"format": "pt"})
        weights_path.chmod((new / "config.json").stat().st_mode)  # it was for its owner alone
        write_json(new / "generation_config.json", generation_config(trained))
        (new / TOKENIZER_FILE).write_bytes(trained.tokenizer_json)
        write_json(new / "tokenizer_config.json", tokenizer_config(trained, pieces))
        card = model_card(trained, pieces[config.tokenizer.bos_token_id])
        (new / _CARD).write_text(card, encoding="utf-8")
        files = sorted(path.name for path in new.iterdir())
        write_json(new / _RECORD, {**trained.figures(), "dtype": dtype, "files": files})


def check_replaceable(folder: Path) -> None:
    """Raise UsageError if there is something else than an earlier export."""
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder}: is a file, not a folder", "Name another folder.")
    if not folder.exists():
        return
    found = {path.name for path in folder.iterdir()}
    if found - _exported_names(folder):
        raise UsageError(
            f"{folder}: holds {min(found - _exported_names(folder))}, which no export put there",
            "Name another folder: only earlier exports are replaced.",
        )


def model_config(trained: TrainedModel, dtype: str) -> dict[str, Any]:
    """config.json: GPT2Config's keys, and `n_ctx`, which llama.cpp's converter reads."""
    shape, ids = trained.model.config.model, trained.model.config.tokenizer
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": shape.vocab_size,
        "n_positions": shape.max_position_embeddings,
        "n_ctx": shape.max_position_embeddings,
        "n_embd": shape.hidden_size,
        "n_layer": shape.num_layers,
        "n_head": shape.num_heads,
        "n_inner": 4 * shape.hidden_size,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": shape.layer_norm_eps,
        "initializer_range": shape.initializer_range,
        "embd_pdrop": shape.dropout,
        "resid_pdrop": shape.dropout,
        "attn_pdrop": shape.attention_dropout,
        "scale_attn_weights": True,
        "add_cross_attention": False,
        "tie_word_embeddings": True,
        "bos_token_id": ids.bos_token_id,
        "eos_token_id": ids.eos_token_id,
        "pad_token_id": ids.pad_token_id,
        "use_cache": True,
        "dtype": str(DTYPES[dtype]).removeprefix("torch."),
    }


def generation_config(trained: TrainedModel) -> dict[str, Any]:
    """generation_config.json: our sampling; text ends at </s>, or where the positions do.

    transformers counts the prompt in `max_length` and fails beyond the last position, so
    generation.max_length, which counts new tokens, is left to the caller.
    """
    config = trained.model.config
    ids = config.tokenizer
    return {
        "bos_token_id": ids.bos_token_id,
        "eos_token_id": ids.eos_token_id,
        "pad_token_id": ids.pad_token_id,
        "max_length": config.model.max_position_embeddings,
        **_sampling(config.generation),
    }


def tokenizer_config(trained: TrainedModel, pieces: dict[int, str]) -> dict[str, Any]:
    """tokenizer_config.json: tokenizer.json as it is, with no class that would rewrite it.

    LlamaTokenizer and its kin build a tokenizer of their own. `split_special_tokens` keeps text
    that looks like a control token text, as in training.
    """
    ids = trained.model.config.tokenizer
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": pieces[ids.bos_token_id],
        "eos_token": pieces[ids.eos_token_id],
        "unk_token": pieces[ids.unk_token_id],
        "pad_token": pieces[ids.pad_token_id],
        "padding_side": "left",
        "split_special_tokens": True,
        "clean_up_tokenization_spaces": False,
        "model_max_length": trained.model.max_positions,
    }


def _sampling(generation: GenerationConfig) -> dict[str, Any]:
    if generation.temperature == 0:
        return {"do_sample": False}
    return {
        "do_sample": True,
        "temperature": generation.temperature,
        "top_k": generation.top_k,
        "top_p": generation.top_p,
    }


def _exported_names(folder: Path) -> set[str]:
    """The files that an earlier export wrote here; none if there was none."""
    try:
        record = json.loads((folder / _RECORD).read_bytes())
        return {_RECORD, *record["files"]}
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return set()
