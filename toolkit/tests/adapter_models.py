"""Small adapters of PEFT for the models of tests, and the models that PEFT itself merges them into."""

import json
import shutil
from pathlib import Path

import tiny


def peft_config(kind="Lora", **options):
    import peft

    if kind == "Lora":
        options = dict({"r": 4, "lora_alpha": 16}, **options)
    return getattr(peft, kind + "Config")(**options)


def add(base, folder, config, auto="AutoModelForCausalLM", seed=1, tokens=0, **loading):
    """Write an adapter with random weights over the model in a folder; `tokens` is a new size of its vocabulary."""
    import peft
    import torch
    import transformers

    model = getattr(transformers, auto).from_pretrained(str(base), **loading)
    torch.manual_seed(seed)
    if tokens:
        model.resize_token_embeddings(tokens, mean_resizing=False)
    adapted = peft.get_peft_model(model, config)
    with torch.no_grad():
        for weight in adapted.parameters():
            if weight.requires_grad:
                weight.add_(torch.randn_like(weight) * 0.3)
    adapted.save_pretrained(str(folder))
    # What a training on another machine writes.
    change(folder, base_model_name_or_path="someone/base")
    return Path(str(folder))


def change(folder, **values):
    path = Path(str(folder)) / "adapter_config.json"
    path.write_text(json.dumps(dict(json.loads(path.read_text()), **values)))


def merged(base, adapter, folder, auto="AutoModelForCausalLM", tokens=0, **loading):
    """The model that PEFT merges, saved with the tokenizer of the base model or of the adapter."""
    import peft
    import transformers

    model = getattr(transformers, auto).from_pretrained(str(base), **loading)
    if tokens:
        model.resize_token_embeddings(tokens, mean_resizing=False)
    peft.PeftModel.from_pretrained(model, str(adapter)).merge_and_unload().save_pretrained(str(folder))
    for source in (base, adapter):
        for path in Path(str(source)).iterdir():
            is_new = path.is_file() and not (Path(str(folder)) / path.name).exists()
            if is_new and "adapter" not in path.name and path.suffix not in (".safetensors", ".bin"):
                shutil.copy(str(path), str(folder))
    if (Path(str(adapter)) / "tokenizer.json").is_file():
        transformers.AutoTokenizer.from_pretrained(str(adapter)).save_pretrained(str(folder))
    return Path(str(folder))


def with_base(base, adapter, folder):
    """A folder with an adapter and its base model inside."""
    shutil.copytree(str(adapter), str(folder))
    shutil.copytree(str(base), str(Path(str(folder)) / "base"))
    return Path(str(folder))


def classifier(folder):
    """A small BERT with weights that are large enough that labels differ."""
    return tiny.save(
        folder,
        "BertConfig",
        "BertForSequenceClassification",
        dict(tiny.BERT, initializer_range=0.4),
        **tiny.labels("NEGATIVE", "POSITIVE"),
    )


def encoder(folder):
    return tiny.save(folder, "BertConfig", "BertModel", dict(tiny.BERT, initializer_range=0.4))
