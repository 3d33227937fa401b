"""export.py --to gguf: the gguf package, SentencePiece and llama.cpp as the judges."""

import importlib
import importlib.util
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

import export
from tests.small_text import ENGLISH, VOCABULARY
from tests.trained_models import Trained, write_trained
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


@pytest.mark.parametrize(("dtype", "tolerance"), [("f32", 0.0), ("f16", 1e-3), ("q8_0", 8e-3)])
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
        assert tensor.tensor_type.name.lower() == (dtype if is_matrix else "f32")
        found = gguf.dequantize(tensor.data, tensor.tensor_type)
        expected = expected.T if name.endswith(TRANSPOSED) else expected
        np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * abs(expected).max())
    assert not tensors


def test_width_that_does_not_fit_q8_0_is_refused(tmp_path: Path, tiny_tokenizer_dir: Path) -> None:
    narrow = write_trained(tmp_path, tiny_tokenizer_dir, VOCABULARY, hidden_size=48)
    with pytest.raises(UsageError, match=r"packs 32 numbers .* model\.hidden_size is 48"):
        export.main([*narrow.export("gguf", tmp_path / "out"), "--dtype", "q8_0"])
    assert not (tmp_path / "out").exists()


def test_shape_is_told(trained: Trained) -> None:
    found = contents_of(exported(trained, "f32"))
    assert found["general.architecture"] == "gpt2"
    assert found["gpt2.context_length"] == 64
    assert (found["gpt2.block_count"], found["gpt2.attention.head_count"]) == (2, 4)
    assert "validation loss: 3.2500" in found["general.description"]


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
    found = contents_of(exported(trained, "f32"))
    kinds = found["tokenizer.ggml.token_type"]
    assert (kinds[:4], kinds[258], kinds[259]) == ([2, 3, 3, 6], 6, 1)
    assert found["tokenizer.ggml.tokens"] == trained.tokenizer.pieces(range(VOCABULARY))
    assert found["tokenizer.ggml.model"] == "llama"
    assert (found["tokenizer.ggml.bos_token_id"], found["tokenizer.ggml.eos_token_id"]) == (1, 2)


# Without the package, and with llama.cpp


def test_missing_package_is_named_with_its_extra(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"needs the package gguf\n.*the extra `export`"):
        export.main(trained.export("gguf", tmp_path / "out"))


LLAMA_CPP = "llama_cpp"  # of llama-cpp-python, which no requirements file has: it builds llama.cpp


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec(LLAMA_CPP) is None, reason="needs llama-cpp-python (a C++ build)"
)
@pytest.mark.parametrize("dtype", ["f32", "f16"])
def test_llama_cpp_continues_as_the_checkpoint_does(dtype: str, codellama: Trained) -> None:
    llama_cpp: Any = importlib.import_module(LLAMA_CPP)
    engine = llama_cpp.Llama(
        str(exported(codellama, dtype)),
        n_ctx=64,
        n_gpu_layers=0,
        n_threads=1,
        type_k=llama_cpp.GGML_TYPE_F32,
        type_v=llama_cpp.GGML_TYPE_F32,
        verbose=False,
    )
    for text in TEXTS:
        prompt = [1, *codellama.tokenizer.encode(text)]
        assert engine.tokenize(text.encode(), add_bos=True, special=False) == prompt
        new_ids = []
        for token_id in engine.generate(prompt, temp=0.0, top_k=1, repeat_penalty=1.0):
            new_ids.append(token_id)
            if len(new_ids) == 20:
                break
        assert new_ids == codellama.greedy(prompt, 20)
