"""Every setting of the pipeline: one frozen section per phase, as config.json holds them.

The models are the home of names, types, limits, defaults and descriptions; utils/config_file.py
reads files into them.
"""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    ValidationInfo,
    model_validator,
)

UINT16_IDS = 65_536
ADAMW_PEAKS = {"muon": 3e-3, "adamw": 6e-4}  # by training.optimizer; see docs/RESULTS.md


def _beside_config(path: Path, info: ValidationInfo) -> Path:
    base = (info.context or {}).get("base", Path.cwd())
    try:
        return Path(base, path.expanduser()).resolve()
    except RuntimeError as error:  # "~someone" who has no home here
        raise ValueError(str(error)) from None


Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]
NonNegativeInt = Annotated[int, Field(ge=0)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
EngineName = Literal["fastokens", "tokenizers"]
ConfigPath = Annotated[Path, Field(strict=False), AfterValidator(_beside_config)]


class Section(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, protected_namespaces=()
    )


class ModelConfig(Section):
    """Shape and regularisation of the transformer (model.py)."""

    vocab_size: Annotated[int, Field(gt=0, le=UINT16_IDS)] = Field(
        default=32_016, description="Rows of the embedding; must equal the tokenizer's vocabulary."
    )
    hidden_size: PositiveInt = Field(default=512, description="Width of the residual stream.")
    num_layers: PositiveInt = Field(default=32, description="Decoder layers.")
    num_heads: PositiveInt = Field(
        default=16, description="Attention heads; must divide hidden_size."
    )
    max_position_embeddings: PositiveInt = Field(
        default=512, description="Longest sequence, in tokens: the learned positions."
    )
    dropout: Fraction = Field(
        default=0.1, description="Dropout on embeddings and residual branches."
    )
    attention_dropout: Fraction = Field(default=0.1, description="Dropout on attention weights.")
    layer_norm_eps: PositiveFloat = Field(default=1e-5, description="Epsilon of every LayerNorm.")
    initializer_range: PositiveFloat = Field(
        default=0.02, description="Standard deviation of initial weights."
    )
    use_cache: bool = Field(
        default=True,
        description="Generate with a key/value cache; false recomputes the whole context.",
    )

    @model_validator(mode="after")
    def _heads_divide_width(self) -> Self:
        if self.hidden_size % self.num_heads:
            raise ValueError(
                f"hidden_size ({self.hidden_size}) must be a multiple of num_heads"
                f" ({self.num_heads})"
            )
        return self


class TokenizerConfig(Section):
    """Where the tokenizer comes from and which ids are special (tokenizer.py)."""

    source: str = Field(
        default="codellama/CodeLlama-7b-hf",
        description="Hugging Face Hub name, or a local folder with tokenizer.json;"
        " a path starting with ./ or ../ is relative to the configuration file.",
    )
    engine: EngineName = Field(
        default="fastokens",
        description="What encodes in bulk: fastokens, compared with the stock tokenizers library"
        " on every file and many times faster, or that library itself.",
    )
    bos_token_id: NonNegativeInt = Field(default=1, description="Begins every document (<s>).")
    eos_token_id: NonNegativeInt = Field(default=2, description="Ends every document (</s>).")
    unk_token_id: NonNegativeInt = Field(default=0, description="Unknown (<unk>).")
    pad_token_id: NonNegativeInt = Field(default=2, description="Fills finished rows of a batch.")


class PathsConfig(Section):
    """Every place the pipeline reads or writes."""

    raw_dir: ConfigPath = Field(
        default=Path("../data/raw/enwiki_namespace_0"),
        validate_default=True,
        description="Raw Wikipedia dump files.",
    )
    cleaned_dir: ConfigPath = Field(
        default=Path("../data/cleaned_articles"), validate_default=True, description="Cleaned text."
    )
    tokenizer_dir: ConfigPath = Field(
        default=Path("tokenizers/codellama_tokenizer"),
        validate_default=True,
        description="The saved tokenizer.",
    )
    dataset_dir: ConfigPath = Field(
        default=Path("../data/tokenized_datasets/codellama_full_dataset"),
        validate_default=True,
        description="Token windows of the whole corpus.",
    )
    test_dataset_dir: ConfigPath = Field(
        default=Path("../data/tokenized_datasets/codellama_test_dataset"),
        validate_default=True,
        description="Token windows made by dataset_prep.py --test, used by train.py --test.",
    )
    checkpoint_dir: ConfigPath = Field(
        default=Path("checkpoints"),
        validate_default=True,
        description="One folder per training run.",
    )
    log_dir: ConfigPath = Field(
        default=Path("logs"), validate_default=True, description="tensorboard/ and raw_metrics/."
    )
    compile_cache_dir: ConfigPath = Field(
        default=Path(".compile_cache"),
        validate_default=True,
        description="Compiled GPU code, kept between runs; safe to delete.",
    )


class CleanerConfig(Section):
    """Raw dumps to cleaned text (cleaner.py)."""

    workers: PositiveInt = Field(
        default=4, description="Processes; each cleans one file at a time."
    )
    min_characters: NonNegativeInt = Field(
        default=100, description="Articles whose cleaned text is shorter are dropped."
    )
    test_articles: PositiveInt = Field(
        default=50_000, description="With --test, each process stops after this many articles."
    )
    max_bad_share: Annotated[float, Field(ge=0.0, le=1.0)] = Field(
        default=0.01, description="Share of unreadable lines above which a file fails."
    )
    drop_duplicate_texts: bool = Field(
        default=False,
        description="Drop an article whose whole text is that of another; of the same page in"
        " several files the newest alone is kept in any case.",
    )


class DatasetPrepConfig(Section):
    """Cleaned text to token windows (dataset_prep.py)."""

    window: Annotated[int, Field(ge=2)] = Field(default=512, description="Tokens in a window.")
    stride: PositiveInt | None = Field(
        default=None, description="Tokens between window starts; null is half a window."
    )
    batch_articles: PositiveInt = Field(
        default=10_000, description="Most articles of a batch; long ones make a smaller batch."
    )
    workers: PositiveInt = Field(
        default=2,
        description="Files in work at the same time; the tokenizer uses all cores, even for one.",
    )
    test_articles: PositiveInt = Field(default=10_000, description="Articles read with --test.")

    @property
    def stride_tokens(self) -> int:
        return self.stride or self.window // 2

    @model_validator(mode="after")
    def _windows_meet(self) -> Self:
        if self.stride_tokens > self.window:
            raise ValueError(
                f"stride ({self.stride}) must not exceed window ({self.window}):"
                " tokens between windows would be lost"
            )
        return self


class DataloaderConfig(Section):
    """Token windows to batches (dataloader.py)."""

    val_split: Annotated[float, Field(gt=0.0, lt=1.0)] = Field(
        default=0.1, description="Share of the documents held out for validation."
    )
    seed: Seed = Field(
        default=42, description="Decides which documents are held out, and the order of batches."
    )
    train_device: Literal["cuda", "cpu"] = Field(
        default="cuda",
        description="Where the training tokens live when training on a GPU: on it, or in main"
        " memory with batches copied from pinned pages.",
    )
    num_workers: NonNegativeInt = Field(
        default=0,
        description="Loader processes for validation, and for training on the CPU; batches for a"
        " GPU need none.",
    )


class TrainingConfig(Section):
    """The training loop (train.py)."""

    batch_size: PositiveInt = Field(default=64, description="Windows per forward pass.")
    gradient_accumulation_steps: PositiveInt = Field(
        default=1, description="Forward passes per optimizer step."
    )
    epochs: PositiveInt = Field(default=1, description="Passes over the training windows.")
    max_steps: PositiveInt | None = Field(
        default=None, description="End after this many optimizer steps; null is all epochs."
    )
    optimizer: Literal["muon", "adamw"] = Field(
        default="muon",
        description="Muon for the layers' matrices with AdamW for the rest, or AdamW for all.",
    )
    learning_rate: PositiveFloat | None = Field(
        default=None,
        description="AdamW's peak learning rate; null is 0.003 beside Muon, where it trains"
        " embeddings, biases and norms alone, and 0.0006 for a whole model.",
    )
    muon_learning_rate: PositiveFloat = Field(
        default=0.02, description="Muon's peak learning rate; it follows the same schedule."
    )
    muon_momentum: Fraction = Field(default=0.95, description="Muon's Nesterov momentum.")
    min_learning_rate: Annotated[float, Field(ge=0.0)] = Field(
        default=6e-5, description="Learning rate at the end of the cosine."
    )
    warmup_steps: NonNegativeInt = Field(default=200, description="Steps of linear warm-up.")
    weight_decay: Annotated[float, Field(ge=0.0)] = Field(
        default=0.1, description="Weight decay, on matrices only."
    )
    beta1: Fraction = Field(default=0.9, description="AdamW's first-moment decay.")
    beta2: Fraction = Field(default=0.95, description="AdamW's second-moment decay.")
    max_grad_norm: PositiveFloat = Field(
        default=1.0, description="Gradients are clipped to this norm."
    )
    seed: Seed = Field(default=1337, description="Initial weights and dropout.")
    precision: Literal["bf16", "fp32"] = Field(
        default="bf16", description="Autocast type on CUDA; the CPU always trains in fp32."
    )
    compile: bool = Field(default=True, description="torch.compile the model on CUDA.")
    cuda_graphs: bool = Field(
        default=True, description="Replay each step on CUDA as one graph instead of its kernels."
    )
    max_skipped_steps: PositiveInt = Field(
        default=10,
        description="Steps in a row whose loss or gradient is not finite, and which are skipped,"
        " before training stops.",
    )
    spike_deviations: PositiveFloat = Field(
        default=6.0,
        description="A loss so many standard deviations above the mean of recent ones is logged"
        " with its windows.",
    )
    log_interval_steps: PositiveInt = Field(default=10, description="Steps between log lines.")
    metrics_window_steps: PositiveInt = Field(
        default=50, description="Steps over which logged metrics are smoothed."
    )
    validation_interval_epochs: Annotated[float, Field(gt=0.0)] = Field(
        default=0.1, description="Validate every this share of an epoch."
    )
    max_validation_batches: PositiveInt | None = Field(
        default=256,
        description="Batches per validation, always the same ones, a fair sample; null is all.",
    )
    checkpoint_interval_steps: PositiveInt = Field(
        default=1_000, description="Steps between checkpoint_step_N.pt files."
    )
    keep_step_checkpoints: PositiveInt = Field(
        default=3, description="Newest checkpoint_step_N.pt files kept."
    )
    early_stopping_patience: PositiveInt = Field(
        default=10, description="Validations without improvement before training stops."
    )
    early_stopping_min_delta: Annotated[float, Field(ge=0.0)] = Field(
        default=0.0, description="Smallest fall in validation loss that counts as improvement."
    )
    sample_prompts: list[str] = Field(
        default=["The history of", "In mathematics,", "def main():"],
        description="Continued at every validation, to see the model learn.",
    )
    sample_tokens: PositiveInt = Field(
        default=48, description="Tokens generated per sample prompt."
    )

    @property
    def peak_learning_rate(self) -> float:
        return self.learning_rate or ADAMW_PEAKS[self.optimizer]

    @model_validator(mode="after")
    def _cosine_falls(self) -> Self:
        if self.min_learning_rate > self.peak_learning_rate:
            raise ValueError(
                f"min_learning_rate ({self.min_learning_rate}) must not exceed learning_rate"
                f" ({self.peak_learning_rate})"
            )
        return self


class GenerationConfig(Section):
    """Defaults of text generation (Inference.py, model.generate)."""

    max_length: NonNegativeInt = Field(default=200, description="Tokens to generate.")
    temperature: Annotated[float, Field(ge=0.0)] = Field(
        default=0.8, description="Randomness; 0 always takes the likeliest token."
    )
    top_k: NonNegativeInt = Field(default=50, description="Sample from the k likeliest; 0 is all.")
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = Field(
        default=0.95, description="Sample from the likeliest tokens that add up to p; 1 is all."
    )


class Config(Section):
    """The whole config.json."""

    model: ModelConfig = Field(default_factory=ModelConfig)
    tokenizer: TokenizerConfig = Field(default_factory=TokenizerConfig)
    paths: PathsConfig = Field(default_factory=PathsConfig)
    cleaner: CleanerConfig = Field(default_factory=CleanerConfig)
    dataset_prep: DatasetPrepConfig = Field(default_factory=DatasetPrepConfig)
    dataloader: DataloaderConfig = Field(default_factory=DataloaderConfig)
    training: TrainingConfig = Field(default_factory=TrainingConfig)
    generation: GenerationConfig = Field(default_factory=GenerationConfig)

    @model_validator(mode="after")
    def _special_ids_exist(self) -> Self:
        for name, token_id in self.tokenizer:
            if name.endswith("_token_id") and token_id >= self.model.vocab_size:
                raise ValueError(
                    f"tokenizer.{name} ({token_id}) must be below model.vocab_size"
                    f" ({self.model.vocab_size})"
                )
        return self


def all_keys() -> list[str]:
    """Every dotted key, in the order of the sections."""
    return [
        f"{section}.{key}"
        for section, field in Config.model_fields.items()
        for key in _section_class(field.annotation).model_fields
    ]


def _section_class(annotation: object) -> type[Section]:
    assert isinstance(annotation, type)
    assert issubclass(annotation, Section)
    return annotation
