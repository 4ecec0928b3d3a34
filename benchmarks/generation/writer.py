"""What is run in the servers' environment. Each command prints one line of JSON.

`python writer.py model FOLDER`, `T5 FOLDER`, `BART FOLDER`, `alone FOLDER REQUESTS PRECISION`.
"""

import json
import random
import sys
import time
from pathlib import Path
from typing import Any

LETTERS = "abcdefghijklmnopqrstuvwxyz"
WORDS = 4000
CHAT = (
    "{% for message in messages %}<{{ message['role'] }}> {{ message['content'] }} {% endfor %}"
    "{% if add_generation_prompt %}<assistant> {% endif %}"
)


def words() -> list[str]:
    """Words that the tokenizer knows: each is one token."""
    chance = random.Random(0)
    made: dict[str, None] = {}
    while len(made) < WORDS:
        made["".join(chance.choices(LETTERS, k=chance.randint(3, 9)))] = None
    return list(made)


def tokenizer() -> Any:
    """A byte-level tokenizer as Llama's, with whole words in its vocabulary."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = ["<s>", "<pad>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    merges: list[tuple[str, str]] = []
    known = set(vocabulary)
    for word in words():
        piece = "\u0120"
        for letter in word:
            if piece + letter not in known:
                known.add(piece + letter)
                vocabulary.append(piece + letter)
                merges.append((piece, letter))
            piece += letter
    numbers = {token: number for number, token in enumerate(vocabulary)}
    made = Tokenizer(models.BPE(vocab=numbers, merges=merges))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(token, special=True) for token in vocabulary[:3]])
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        bos_token="<s>",
        pad_token="<pad>",
        eos_token="</s>",
        model_max_length=2048,
        chat_template=CHAT,
    )


def model(folder: Path) -> dict[str, Any]:
    """A Llama of about 40 million parameters with random weights, which never writes its last token."""
    import torch
    import transformers

    torch.manual_seed(0)
    encoder = tokenizer()
    config = transformers.LlamaConfig(
        vocab_size=len(encoder),
        hidden_size=512,
        intermediate_size=1376,
        num_hidden_layers=10,
        num_attention_heads=8,
        num_key_value_heads=8,
        max_position_embeddings=2048,
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=2,
        tie_word_embeddings=True,
    )
    made = transformers.LlamaForCausalLM(config)
    return saved(made, encoder, folder)


def saved(made: Any, encoder: Any, folder: Path) -> dict[str, Any]:
    """Save a model that never writes its last token."""
    # The score of the last token is 0, and never the highest: each text has its full length.
    made.get_output_embeddings().weight.data[2] = 0
    made.save_pretrained(folder)
    encoder.save_pretrained(folder)
    return {"parameters": sum(one.numel() for one in made.parameters()), "vocabulary": len(encoder)}


def encoder_decoder(name: str, folder: Path) -> dict[str, Any]:
    """A T5 or BART of about 53 million parameters with random weights."""
    import torch
    import transformers

    torch.manual_seed(0)
    encoder = tokenizer()
    ids = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}
    sizes = {"vocab_size": len(encoder), "d_model": 512, **ids}
    if name == "T5":
        # It repeats the token with which it starts. Special ones would make no text.
        start = len(encoder) - 1
        config = transformers.T5Config(
            **sizes, d_ff=2048, d_kv=64, num_layers=6, num_heads=8, decoder_start_token_id=start
        )
        return saved(transformers.T5ForConditionalGeneration(config), encoder, folder)
    parts = {"layers": 6, "attention_heads": 8, "ffn_dim": 2048}
    config = transformers.BartConfig(
        **sizes,
        **{f"{part}_{key}": value for part in ("encoder", "decoder") for key, value in parts.items()},
        max_position_embeddings=1024,
        decoder_start_token_id=2,
        forced_eos_token_id=None,
    )
    return saved(transformers.BartForConditionalGeneration(config), encoder, folder)


def alone(folder: Path, requests: Path, precision: str) -> dict[str, Any]:
    """Tokens a second of `generate`, one request after the other."""
    import torch
    import transformers

    made = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, precision)).eval()
    encoder = transformers.AutoTokenizer.from_pretrained(folder)
    work = [json.loads(line) for line in requests.read_text().splitlines()]

    def write(one: dict[str, Any]) -> int:
        inputs = encoder(one["prompt"], return_tensors="pt")
        inputs.pop("token_type_ids", None)
        length = inputs["input_ids"].shape[1]
        written = made.generate(**inputs, max_new_tokens=one["tokens"], do_sample=False)
        return int(written.shape[1] - length)

    write(work[0])
    began = time.perf_counter()
    tokens = sum(map(write, work))
    return {"tokens": tokens, "seconds": time.perf_counter() - began}


if __name__ == "__main__":
    command, *rest = sys.argv[1:]
    if command == "model":
        print(json.dumps(model(Path(rest[0]))))
    elif command in ("T5", "BART"):
        print(json.dumps(encoder_decoder(command, Path(rest[0]))))
    else:
        print(json.dumps(alone(Path(rest[0]), Path(rest[1]), rest[2])))
