"""A trained model as a GGUF file, which llama.cpp and what is built on it run. Needs gguf.

llama.cpp's own converter takes a GPT-2 model to have GPT-2's byte-level tokenizer, which ours is
not, so the file is written here: architecture gpt2, tokenizer of Llama.
"""

from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, LlamaFileType
from numpy.typing import NDArray

from utils.errors import UsageError
from utils.exporting.staging import staged
from utils.exporting.trained import TrainedModel
from utils.exporting.vocabulary import vocabulary
from utils.terminal import warn

_FILE_TYPES = {
    GGMLQuantizationType.F32: LlamaFileType.ALL_F32,
    GGMLQuantizationType.F16: LlamaFileType.MOSTLY_F16,
    GGMLQuantizationType.Q8_0: LlamaFileType.MOSTLY_Q8_0,
}
_LAYER = "blk.{}"
_POSITIONS = "position_embd"
_NAMES = {
    "token_embedding": "token_embd",
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

    `dtype` is that of the matrices: f32, f16 or q8_0 (8 bits and a shared scale for 32 numbers).
    Biases, norms and positions stay f32, as llama.cpp expects. Raises UsageError if the model's
    width does not fit q8_0, and what `staged` does.
    """
    matrix_type = GGMLQuantizationType[dtype.upper()]
    block, block_bytes = gguf.GGML_QUANT_SIZES[matrix_type]
    width = trained.model.config.model.hidden_size
    if width % block:
        raise UsageError(
            f"--dtype {dtype} packs {block} numbers at a time, but model.hidden_size is {width}",
            "Give --dtype f16 or f32.",
        )
    with staged(path, trained.parameters * block_bytes // block) as new:
        writer = GGUFWriter(new, "gpt2")
        _describe(writer, trained)
        writer.add_file_type(_FILE_TYPES[matrix_type])
        if block > 1:
            writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        _add_vocabulary(writer, trained)
        for name, tensor in trained.weights(_NAMES, _LAYER):
            is_matrix = tensor.dim() == 2 and not name.startswith(_POSITIONS)
            kept = matrix_type if is_matrix else GGMLQuantizationType.F32
            data: NDArray[np.generic] = gguf.quantize(tensor.numpy(), kept)
            writer.add_tensor(name, data, raw_dtype=kept)
        try:
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
        finally:
            writer.close()


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
