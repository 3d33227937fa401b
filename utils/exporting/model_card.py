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
from transformers import AutoModelForCausalLM, AutoTokenizer

name = "this folder, or its name on the Hub"
tokenizer, model = AutoTokenizer.from_pretrained(name), AutoModelForCausalLM.from_pretrained(name)
output = model.generate(**tokenizer({prompt}, return_tensors="pt"))
print(tokenizer.decode(output[0], skip_special_tokens=True))
```

`pipeline("text-generation", name)` works as well, but that of transformers 5.23 loses the space
before a continuation, as with Llama's tokenizer, since it decodes that alone.

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
