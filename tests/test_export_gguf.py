"""export.py --to gguf: the gguf package, SentencePiece and llama.cpp as the judges."""

import importlib
import importlib.util
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import sentencepiece
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file
from transformers import AutoConfig, GPT2Config

import export
from tests.small_text import ENGLISH, VOCABULARY
from tests.trained_models import RUN, Trained, write_trained
from utils.errors import UsageError
from utils.exporting.vocabulary import vocabulary
from utils.tokenizer_files import TOKENIZER_FILE

TRANSPOSED = ("c_attn.weight", "c_proj.weight", "c_fc.weight")  # transformers' Conv1D
TEXTS = ["The river", "  two  spaces\n", "</s> <s> 漢字 🧑🏽‍🚀", "1834 engineers' bridge"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer_dir: Path) -> Trained:
    return write_trained(tmp_path_factory.mktemp("trained"), tiny_tokenizer_dir, VOCABULARY)


@pytest.fixture(scope="module")
def codellama(tmp_path_factory: pytest.TempPathFactory, shared_dir: Path) -> Trained:
    tokenizer_dir = shared_dir / "tokenizers" / "codellama_hub_files"
    return write_trained(tmp_path_factory.mktemp("codellama"), tokenizer_dir, 32_016)


def exported(trained: Trained, dtype: str) -> Path:
    path = trained.folder / f"{dtype}.gguf"
    if not path.exists():
        export.main([*trained.export("gguf", path), "--dtype", dtype])
    return path


def tensors_of(path: Path) -> dict[str, Any]:
    return {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}


def contents_of(path: Path) -> dict[str, Any]:
    return {name: field.contents() for name, field in gguf.GGUFReader(path).fields.items()}


# Weights


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("f32", 0.0), ("f16", 1e-3), ("q8_0", 8e-3), ("q4_0", 0.13)]
)
def test_tensors_are_those_of_the_other_export(
    dtype: str, tolerance: float, trained: Trained
) -> None:
    """transformers computes the checkpoint's logits from these; gguf knows what each is called."""
    folder = trained.folder / "exported"
    export.main(trained.export("hf", folder))
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.GPT2, trained.model.config.model.num_layers)
    tensors = tensors_of(exported(trained, dtype))
    for name, expected in load_file(folder / "model.safetensors").items():
        known = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert known is not None
        tensor = tensors.pop(known)
        is_matrix = expected.ndim == 2 and known != "position_embd.weight"
        is_head = known == "token_embd.weight"  # which has 8 bits at least
        kind = dtype if is_matrix else "f32"
        assert tensor.tensor_type.name.lower() == ("q8_0" if is_head and kind == "q4_0" else kind)
        found = gguf.dequantize(tensor.data, tensor.tensor_type)
        expected = expected.T if name.endswith(TRANSPOSED) else expected
        np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * abs(expected).max())
    assert not tensors


@pytest.mark.parametrize("dtype", ["q8_0", "q4_0"])
def test_width_that_cannot_be_quantized_is_refused(
    dtype: str, tmp_path: Path, tiny_tokenizer_dir: Path
) -> None:
    narrow = write_trained(tmp_path, tiny_tokenizer_dir, VOCABULARY, hidden_size=48)
    with pytest.raises(UsageError, match=r"packs 32 numbers .* model\.hidden_size is 48"):
        export.main([*narrow.export("gguf", tmp_path / "out"), "--dtype", dtype])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("quantize", "dtype"), [("int8", "q8_0"), ("int4", "q4_0")])
def test_quantize_is_another_name_of_a_type(
    quantize: str, dtype: str, trained: Trained, tmp_path: Path
) -> None:
    for number, more in enumerate(([], ["--dtype", dtype])):
        path = tmp_path / str(number)
        export.main([*trained.export("gguf", path), "--quantize", quantize, *more])
        assert path.read_bytes() == exported(trained, dtype).read_bytes()


# What is said of the model, by the names that gguf has for it


@pytest.mark.parametrize(
    ("dtype", "file_type"),
    [
        ("f32", gguf.LlamaFileType.ALL_F32),
        ("f16", gguf.LlamaFileType.MOSTLY_F16),
        ("q8_0", gguf.LlamaFileType.MOSTLY_Q8_0),
        ("q4_0", gguf.LlamaFileType.MOSTLY_Q4_0),
    ],
)
def test_general_keys(dtype: str, file_type: gguf.LlamaFileType, trained: Trained) -> None:
    found, keys = contents_of(exported(trained, dtype)), gguf.Keys.General
    assert found[keys.ARCHITECTURE] == gguf.MODEL_ARCH_NAMES[gguf.MODEL_ARCH.GPT2]
    assert (found[keys.TYPE], found[keys.NAME]) == (gguf.GGUFType.MODEL, RUN)
    assert "validation loss: 3.2500" in found[keys.DESCRIPTION]
    assert found[keys.FILE_TYPE] == file_type
    is_packed = dtype.startswith("q")
    version = gguf.GGML_QUANT_VERSION if is_packed else None
    assert found.get(keys.QUANTIZATION_VERSION) == version


def test_shape_is_told(tmp_path: Path, tiny_tokenizer_dir: Path) -> None:
    shape = {"hidden_size": 64, "num_layers": 3, "num_heads": 2, "layer_norm_eps": 1e-6}
    shape |= {"max_position_embeddings": 48}
    trained = write_trained(tmp_path, tiny_tokenizer_dir, VOCABULARY, **shape)
    path = exported(trained, "f32")
    found = contents_of(path)
    expected = {
        gguf.Keys.LLM.CONTEXT_LENGTH: 48,
        gguf.Keys.LLM.EMBEDDING_LENGTH: 64,
        gguf.Keys.LLM.BLOCK_COUNT: 3,
        gguf.Keys.LLM.FEED_FORWARD_LENGTH: 256,
        gguf.Keys.Attention.HEAD_COUNT: 2,
        gguf.Keys.Attention.LAYERNORM_EPS: np.float32(1e-6),
    }
    keys = {key.format(arch="gpt2"): value for key, value in expected.items()}
    assert {name: found[name] for name in found if name.startswith("gpt2.")} == keys
    config: Any = AutoConfig.from_pretrained(path.parent, gguf_file=path.name)
    assert isinstance(config, GPT2Config)
    assert (config.n_ctx, config.n_embd, config.n_layer, config.n_head) == (48, 64, 3, 2)
    assert config.layer_norm_epsilon == pytest.approx(1e-6)


# The vocabulary


def as_sentencepiece(tokenizer_json: bytes) -> sentencepiece.SentencePieceProcessor:
    """SentencePiece itself with our pieces, scores and kinds: the rule that llama.cpp follows."""
    found = vocabulary(tokenizer_json, unk_id=0)
    messages: Any = importlib.import_module("sentencepiece.sentencepiece_model_pb2")
    proto = messages.ModelProto()
    proto.trainer_spec.model_type = proto.trainer_spec.BPE
    proto.trainer_spec.byte_fallback = True
    proto.normalizer_spec.remove_extra_whitespaces = False
    for piece, score, kind in zip(found.pieces, found.scores, found.kinds, strict=True):
        proto.pieces.add(piece=piece, score=score, type=int(kind))
    return sentencepiece.SentencePieceProcessor(model_proto=proto.SerializeToString())


@pytest.fixture(scope="module")
def judge(codellama: Trained) -> sentencepiece.SentencePieceProcessor:
    folder = codellama.tokenizer_dir
    return as_sentencepiece((folder / TOKENIZER_FILE).read_bytes())


@settings(max_examples=200, deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"])) | st.sampled_from([*TEXTS, ENGLISH]))
def test_ids_of_codellama_by_the_rule_of_sentencepiece(
    text: str, codellama: Trained, judge: sentencepiece.SentencePieceProcessor
) -> None:
    assert judge.encode(text) == codellama.tokenizer.encode(text)


def test_scores_have_the_order_of_codellama_own(codellama: Trained) -> None:
    content = (codellama.tokenizer_dir / TOKENIZER_FILE).read_bytes()
    found = vocabulary(content, unk_id=0)
    model = str(codellama.tokenizer_dir / "tokenizer.model")
    own = sentencepiece.SentencePieceProcessor(model_file=model)
    merged = [i for i, kind in enumerate(found.kinds) if kind == 1 and len(found.pieces[i]) > 1]
    assert sorted(merged, key=lambda i: -found.scores[i]) == sorted(
        merged, key=lambda i: (-own.get_score(i), i)
    )
    assert found.loose_pieces == 0


def test_a_vocabulary_with_loose_pieces_is_warned_of(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each piece of a freshly trained vocabulary has one way to be made; SentencePiece has more."""
    export.main(trained.export("gguf", tmp_path / "out"))
    assert "pieces of this tokenizer have more ways" in capsys.readouterr().err


def test_vocabulary_in_the_file(trained: Trained) -> None:
    keys, kind = gguf.Keys.Tokenizer, gguf.TokenType
    fields = gguf.GGUFReader(exported(trained, "f32")).fields
    found = {name: field.contents() for name, field in fields.items()}
    assert found[keys.LIST] == trained.tokenizer.pieces(range(VOCABULARY))
    specials, of_bytes = [kind.UNKNOWN, kind.CONTROL, kind.CONTROL], [kind.BYTE] * 256
    ordinary = [kind.NORMAL] * (VOCABULARY - 259)
    assert found[keys.TOKEN_TYPE] == [*specials, *of_bytes, *ordinary]
    assert len(found[keys.SCORES]) == VOCABULARY
    # llama.cpp takes both arrays as they lie in the file, without asking what they hold.
    assert fields[keys.SCORES].types[-1] == gguf.GGUFValueType.FLOAT32
    assert fields[keys.TOKEN_TYPE].types[-1] == gguf.GGUFValueType.INT32
    expected = {
        **{keys.MODEL: "llama", keys.PRE: "default"},
        **{keys.BOS_ID: 1, keys.EOS_ID: 2, keys.UNK_ID: 0, keys.PAD_ID: 2},
        **{keys.ADD_BOS: True, keys.ADD_EOS: False, keys.ADD_PREFIX: True},
    }
    assert {key: found[key] for key in expected} == expected


# Without the package, and with llama.cpp


def test_missing_package_is_named_with_its_extra(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"needs the package gguf\n.*the extra `export`"):
        export.main(trained.export("gguf", tmp_path / "out"))


LLAMA_CPP = "llama_cpp"  # of llama-cpp-python, which no requirements file has: it builds llama.cpp


needs_llama_cpp = pytest.mark.skipif(
    importlib.util.find_spec(LLAMA_CPP) is None, reason="needs llama-cpp-python (a C++ build)"
)


def opened_by_llama_cpp(path: Path, **options: Any) -> Any:
    llama_cpp: Any = importlib.import_module(LLAMA_CPP)
    exact = {"type_k": llama_cpp.GGML_TYPE_F32, "type_v": llama_cpp.GGML_TYPE_F32}
    where = {"n_gpu_layers": 0, "n_threads": 1, "verbose": False}
    return llama_cpp.Llama(str(path), n_ctx=64, **exact, **where, **options)


@pytest.mark.slow
@needs_llama_cpp
@pytest.mark.parametrize("dtype", ["f32", "f16"])
def test_llama_cpp_continues_as_the_checkpoint_does(dtype: str, codellama: Trained) -> None:
    engine = opened_by_llama_cpp(exported(codellama, dtype))
    for text in TEXTS:
        prompt = [1, *codellama.tokenizer.encode(text)]
        assert engine.tokenize(text.encode(), add_bos=True, special=False) == prompt
        new_ids = []
        for token_id in engine.generate(prompt, temp=0.0, top_k=1, repeat_penalty=1.0):
            new_ids.append(token_id)
            if len(new_ids) == 20:
                break
        assert new_ids == codellama.greedy(prompt, 20)


@pytest.mark.slow
@needs_llama_cpp
@pytest.mark.parametrize(("dtype", "tolerance"), [("f32", 1e-3), ("q8_0", 0.03), ("q4_0", 0.3)])
def test_llama_cpp_computes_nearly_the_same_with_fewer_bits(
    dtype: str, tolerance: float, codellama: Trained
) -> None:
    """Its mean error, in standard deviations of the logits."""
    ids = [1, *codellama.tokenizer.encode(ENGLISH)][:48]
    engine = opened_by_llama_cpp(exported(codellama, dtype), logits_all=True)
    engine.eval(ids)
    with torch.no_grad():
        expected = codellama.model(torch.tensor([ids]))["logits"][0].numpy()
    error = np.abs(engine.scores[: len(ids)] - expected).mean()
    assert error < tolerance * expected.std()
