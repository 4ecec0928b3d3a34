"""Small models with random weights, made on the spot by whatever transformers is installed."""

import importlib.util
import json
import random
from pathlib import Path

WORDS = [
    "the",
    "a",
    "is",
    "i",
    "you",
    "like",
    "my",
    "name",
    "and",
    "in",
    "at",
    "work",
    "live",
    "for",
    "used",
    "model",
    "what",
    "this",
    "with",
    "of",
    "to",
    "sound",
    "track",
    "was",
    "beautiful",
    "paris",
    "berlin",
    "hugging",
    "face",
    "sylvain",
    "philipp",
    "brooklyn",
    "nuremberg",
    "sagemaker",
    "inference",
    "translate",
    "english",
    "french",
    "refund",
    "legal",
    "faq",
    "example",
    "how",
    "many",
    "stars",
    "does",
    "repository",
    "have",
    "device",
    "company",
]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LETTERS = [chr(code) for code in range(33, 127) if not chr(code).isupper()]
VOCABULARY = SPECIAL + WORDS + LETTERS + ["##" + letter for letter in LETTERS]
FRAMEWORK = "pt" if importlib.util.find_spec("torch") else "tf"

BERT = {
    "vocab_size": len(VOCABULARY),
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
}
BART = {
    "vocab_size": len(VOCABULARY),
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 2,
    "eos_token_id": 3,
    "decoder_start_token_id": 3,
    "forced_eos_token_id": 3,
}
GPT2 = {
    "vocab_size": len(VOCABULARY),
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 2,
    "n_positions": 128,
    "pad_token_id": 0,
    "bos_token_id": 2,
    "eos_token_id": 3,
}


def write_tokenizer(folder):
    """A tokenizer that every release can load: files of BERT's, whatever the model is."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "BertTokenizer", "do_lower_case": True})
    )


def save(folder, config_class, model_class, sizes, **more):
    """A model of a class by its name in transformers, with its tokenizer, in a folder."""
    import transformers

    seed()
    # Releases of 2021 look for the tokenizer's class here, later ones in the tokenizer's own file.
    config = getattr(transformers, config_class)(tokenizer_class="BertTokenizer", **dict(sizes, **more))
    prefix = "TF" if FRAMEWORK == "tf" else ""
    model = getattr(transformers, prefix + model_class)(config)
    if FRAMEWORK == "tf":
        import tensorflow

        ids = tensorflow.constant([[2, 3]])
        model(
            {"input_ids": ids, "decoder_input_ids": ids} if config.is_encoder_decoder else {"input_ids": ids}
        )
    # Releases of early 2021 leave that out for TensorFlow's models.
    config.architectures = [type(model).__name__]
    model.save_pretrained(str(folder))
    write_tokenizer(Path(str(folder)))
    return folder


CHAT_TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}> {{ m['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def byte_tokenizer(limit, has_pad=True, is_encoder=True):
    """Tokens of bytes, as those of RoBERTa, or of GPT-2 for decoders; a fast tokenizer only."""
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<s>", "<pad>", "</s>", "<unk>", "[MASK]"],
    )
    tokenizer.train_from_iterator([" " + " ".join(WORDS), *WORDS] * 5, trainer)
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    if has_pad:
        special["pad_token"] = "<pad>"
    if is_encoder:
        tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), True, False)
        special.update(cls_token="<s>", sep_token="</s>", mask_token="[MASK]")
    made = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=limit, **special)
    made.chat_template = CHAT_TEMPLATE
    return made


def seed():
    """The same weights on every run."""
    random.seed(0)
    if FRAMEWORK == "pt":
        import torch

        torch.manual_seed(0)
    else:
        import tensorflow

        tensorflow.random.set_seed(0)


def labels(*names):
    """id2label and label2id for a config."""
    return {"id2label": dict(enumerate(names)), "label2id": {name: index for index, name in enumerate(names)}}


def classifier(folder):
    return save(folder, "BertConfig", "BertForSequenceClassification", BERT, **labels("NEGATIVE", "POSITIVE"))


def entailment(folder):
    return save(
        folder,
        "BertConfig",
        "BertForSequenceClassification",
        BERT,
        **labels("contradiction", "neutral", "entailment"),
    )


def tagger(folder):
    return save(
        folder,
        "BertConfig",
        "BertForTokenClassification",
        BERT,
        **labels("O", "B-PER", "I-PER", "B-LOC", "I-LOC"),
    )


def encoder(folder):
    return save(folder, "BertConfig", "BertModel", BERT)


def write(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def save_modules(folder, modules, settings=None, transformer=None):
    """The files of sentence-transformers: modules are pairs of a class and its configuration."""
    folder, entries = Path(str(folder)), []
    for place, (kind, config) in enumerate(modules):
        path = "{}_{}".format(place, kind) if place else ""
        name = kind if "." in kind else "sentence_transformers.models." + kind
        entries.append({"idx": place, "name": str(place), "path": path, "type": name})
        if place and config is not None:
            write(folder / path / "config.json", config)
    write(folder / "modules.json", entries)
    write(folder / "config_sentence_transformers.json", settings or {})
    write(folder / "sentence_bert_config.json", transformer or {})
    return folder


def pooling(*modes):
    """The configuration of Pooling as releases before 5.2 write it."""
    names = {"lasttoken": "pooling_mode_lasttoken", "cls": "pooling_mode_cls_token"}
    config = {"word_embedding_dimension": 32}
    for mode in ("cls", "mean", "max", "mean_sqrt_len", "weightedmean", "lasttoken"):
        config[names.get(mode, "pooling_mode_{}_tokens".format(mode))] = mode in modes
    return config


PROMPTS = {"query": "what is ", "passage": "this is "}


def embedder(folder):
    """A saved model of sentence-transformers, as all-MiniLM-L6-v2 is."""
    encoder(folder)
    modules = [("Transformer", None), ("Pooling", pooling("mean")), ("Normalize", None)]
    return save_modules(folder, modules, {"prompts": PROMPTS}, {"max_seq_length": 64})


def ranker(folder):
    return save(folder, "BertConfig", "BertForSequenceClassification", BERT, num_labels=1)


def masked(folder):
    return save(folder, "BertConfig", "BertForMaskedLM", BERT)


def answerer(folder):
    return save(folder, "BertConfig", "BertForQuestionAnswering", BERT)


def rewriter(folder):
    return save(folder, "BartConfig", "BartForConditionalGeneration", BART)


def writer(folder):
    return save(folder, "GPT2Config", "GPT2LMHeadModel", GPT2)


def table_reader(folder):
    more = dict(
        BERT,
        type_vocab_sizes=[3, 256, 256, 2, 256, 256, 10],
        max_position_embeddings=512,
        num_aggregation_labels=4,
        aggregation_labels={0: "NONE", 1: "SUM", 2: "AVERAGE", 3: "COUNT"},
    )
    save(folder, "TapasConfig", "TapasForQuestionAnswering", more)
    config = json.loads((Path(str(folder)) / "tokenizer_config.json").read_text())
    (Path(str(folder)) / "tokenizer_config.json").write_text(
        json.dumps(dict(config, tokenizer_class="TapasTokenizer"))
    )
    return folder


MAKERS = {
    "text-classification": classifier,
    "sentiment-analysis": classifier,
    "token-classification": tagger,
    "feature-extraction": encoder,
    "sentence-embeddings": embedder,
    "sentence-similarity": embedder,
    "text-ranking": ranker,
    "fill-mask": masked,
    "summarization": rewriter,
    "translation_en_to_fr": rewriter,
    "text2text-generation": rewriter,
    "text-generation": writer,
    "question-answering": answerer,
    "zero-shot-classification": entailment,
    "table-question-answering": table_reader,
}
