"""A trained model as a GGUF file, which llama.cpp and what is built on it run. Needs gguf.

llama.cpp's own converter takes a GPT-2 model to have GPT-2's byte-level tokenizer, which ours is
not, so the file is written here: architecture gpt2, tokenizer of Llama.
"""

from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, LlamaFileType
from numpy.typing import NDArray
from torch import Tensor

from utils.errors import UsageError
from utils.exporting.staging import staged
from utils.exporting.trained import TrainedModel
from utils.exporting.vocabulary import vocabulary
from utils.terminal import warn

_FILE_TYPES = {
    GGMLQuantizationType.F32: LlamaFileType.ALL_F32,
    GGMLQuantizationType.F16: LlamaFileType.MOSTLY_F16,
    GGMLQuantizationType.Q8_0: LlamaFileType.MOSTLY_Q8_0,
    GGMLQuantizationType.Q4_0: LlamaFileType.MOSTLY_Q4_0,
}
_LAYER = "blk.{}"
_EMBEDDING, _POSITIONS = "token_embd", "position_embd"
_NAMES = {
    "token_embedding": _EMBEDDING,
    "position_embedding": _POSITIONS,
    "norm1": "attn_norm",
    "qkv": "attn_qkv",
    "out": "attn_output",
    "norm2": "ffn_norm",
    "up": "ffn_up",
    "down": "ffn_down",
    "norm": "output_norm",
}


def export_file(trained: TrainedModel, path: Path, dtype: str = "f32") -> None:
    """Write `path`, whole or not at all, replacing a file that is there.

    `dtype` is that of the matrices: f32, f16, q8_0 or q4_0 (8 or 4 bits, and a shared scale for 32
    numbers). Raises UsageError if the model's width does not fit q8_0 or q4_0, and what `staged`
    does.
    """
    matrix_type = GGMLQuantizationType[dtype.upper()]
    block, _ = gguf.GGML_QUANT_SIZES[matrix_type]
    width = trained.model.config.model.hidden_size
    if width % block:
        raise UsageError(
            f"--dtype {dtype} packs {block} numbers at a time, but model.hidden_size is {width}",
            "Give --dtype f16 or f32.",
        )
    weights = [
        (name, tensor, _type_of(name, tensor, matrix_type))
        for name, tensor in trained.weights(_NAMES, _LAYER)
    ]
    with staged(path, sum(_bytes_of(tensor, kind) for _, tensor, kind in weights)) as new:
        writer = GGUFWriter(new, "gpt2")
        _describe(writer, trained)
        writer.add_file_type(_FILE_TYPES[matrix_type])
        if block > 1:
            writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        _add_vocabulary(writer, trained)
        for name, tensor, kind in weights:
            data: NDArray[np.generic] = gguf.quantize(tensor.numpy(), kind)
            writer.add_tensor(name, data, raw_dtype=kind)
        try:
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
        finally:
            writer.close()


def _type_of(name: str, tensor: Tensor, matrix_type: GGMLQuantizationType) -> GGMLQuantizationType:
    """Biases, norms and positions stay f32, as llama.cpp expects.

    The embedding, which is the head too, has 8 bits at least: in 4 it costs the demo's model as
    much likelihood as all layers together. llama.cpp's own tool keeps the head in more as well.
    """
    if tensor.dim() == 1 or name.startswith(_POSITIONS):
        return GGMLQuantizationType.F32
    if name.startswith(_EMBEDDING) and matrix_type == GGMLQuantizationType.Q4_0:
        return GGMLQuantizationType.Q8_0
    return matrix_type


def _bytes_of(tensor: Tensor, kind: GGMLQuantizationType) -> int:
    block, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    return tensor.numel() // block * block_bytes


def _describe(writer: GGUFWriter, trained: TrainedModel) -> None:
    shape = trained.model.config.model
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name(trained.name)
    figures = trained.figures().items()
    writer.add_description("; ".join(f"{name}: {value}" for name, value in figures))
    writer.add_context_length(shape.max_position_embeddings)
    writer.add_embedding_length(shape.hidden_size)
    writer.add_block_count(shape.num_layers)
    writer.add_feed_forward_length(4 * shape.hidden_size)
    writer.add_head_count(shape.num_heads)
    writer.add_layer_norm_eps(shape.layer_norm_eps)


def _add_vocabulary(writer: GGUFWriter, trained: TrainedModel) -> None:
    ids = trained.model.config.tokenizer
    found = vocabulary(trained.tokenizer_json, ids.unk_token_id)
    if found.loose_pieces:
        warn(
            f"{found.loose_pieces:,} of {len(found.pieces):,} pieces of this tokenizer have more"
            " ways to be made in GGUF than it allows: llama.cpp may give other ids for some text"
        )
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(found.pieces)
    writer.add_token_scores(found.scores)
    writer.add_token_types(found.kinds)
    writer.add_bos_token_id(ids.bos_token_id)
    writer.add_eos_token_id(ids.eos_token_id)
    writer.add_unk_token_id(ids.unk_token_id)
    writer.add_pad_token_id(ids.pad_token_id)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    writer.add_add_space_prefix(True)
