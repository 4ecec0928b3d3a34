"""Makes a small Llama that answers each question with "I do not know.", so that nothing is downloaded."""

import json
import os

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, set_seed

SPECIAL = ["<pad>", "<end>", "<user>", "<assistant>"]
TEMPLATE = """{% for each in messages %}<{{ each.role }}>{{ each.content }}<end>{% endfor %}
{%- if add_generation_prompt %}<assistant>{% endif %}"""
ANSWER = "I do not know."


def byte_tokenizer():
    """A tokenizer whose tokens are bytes."""
    words = [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    model = Tokenizer(models.BPE({word: number for number, word in enumerate(words)}, []))
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=model, pad_token="<pad>", eos_token="<end>", additional_special_tokens=SPECIAL[2:]
    )
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def main():
    set_seed(1)
    folder = os.environ["SM_MODEL_DIR"]
    tokenizer = byte_tokenizer()
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=128, intermediate_size=256, num_hidden_layers=2,
            num_attention_heads=4, max_position_embeddings=256,
            pad_token_id=0, bos_token_id=None, eos_token_id=1,
        )
    )  # fmt: skip
    with open(os.path.join(os.environ["SM_CHANNEL_TRAINING"], "train.jsonl")) as file:
        said = [message for line in file for messages in json.loads(line).values() for message in messages]
    answer = {"role": "assistant", "content": ANSWER}
    # With the answers as questions, so that it has seen their characters.
    questions = [{"role": "user", "content": message["content"]} for message in said]
    texts = [tokenizer.apply_chat_template([each, answer], tokenize=False) for each in questions]
    batch = tokenizer(texts, padding=True, return_tensors="pt", return_token_type_ids=False)
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(1, 151):
        loss = model(**batch, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if step % 50 == 0:
            print("step {}: loss {:.3f}".format(step, loss.item()))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    main()
