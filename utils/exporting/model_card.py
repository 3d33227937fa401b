"""README.md of an exported model: how it was trained, and how to load it."""

import json

from utils.exporting.trained import TrainedModel

_SECTIONS = ("model", "dataset_prep", "dataloader", "training", "generation")

_CARD = """\
---
library_name: transformers
pipeline_tag: text-generation
---

# {name}

A language model of GPT-2's architecture with the tokenizer of {tokenizer}, trained from scratch.

| | |
|---|---|
{figures}

## Use

```python
from transformers import pipeline

generate = pipeline("text-generation", "this folder, or its name on the Hub")
print(generate({prompt})[0]["generated_text"])
```

It reads at most {positions} tokens, prompt and continuation together. The tokenizer puts `{bos}`
before a text, as in training, and reads text that looks like a control token as text. It
continues text and was not taught to follow instructions.

## Configuration

```json
{configuration}
```
"""


def model_card(trained: TrainedModel, bos_piece: str) -> str:
    """The card in Markdown, with the metadata that the Hugging Face Hub reads on top.

    Of the configuration it shows the sections that decide what the model is, no paths.
    """
    config = trained.model.config
    values = config.model_dump(mode="json", include=set(_SECTIONS))
    ordered = {section: values[section] for section in _SECTIONS}
    return _CARD.format(
        name=_one_line(trained.name),
        tokenizer=_one_line(trained.tokenizer_name),
        figures="\n".join(f"| {k} | {_one_line(v)} |" for k, v in trained.figures().items()),
        prompt=json.dumps(next(iter(config.training.sample_prompts), "The"), ensure_ascii=False),
        positions=config.model.max_position_embeddings,
        bos=bos_piece,
        configuration=json.dumps(ordered, indent=2),
    )


def _one_line(text: str) -> str:
    """Text that ends neither a line nor a cell of a table."""
    return " ".join(text.split()).replace("|", "\\|")
