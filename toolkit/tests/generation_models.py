"""Small models with a byte-level tokenizer, as GPT-2 and Llama have: any text comes back as it was."""

import tiny

TEXT = [
    "hugging face builds models and tools for natural language in paris and berlin",
    "my name is anna smith and i work in brooklyn at acme",
    "Q: where is paris?\nA: in france\nQ: where is berlin?\nA: in germany",
    "The Quick Brown Fox jumps over the Lazy Dog 0123456789, really !",
] * 20
# A template that takes strings, one that also takes lists of parts, and one that alternates user and assistant.
CHAT = (
    "{% for m in messages %}<{{ m['role'] }}> {{ m['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<assistant> {% endif %}"
)
PARTS_CHAT = (
    "{% for m in messages %}<{{ m['role'] }}{% if m['name'] %} {{ m['name'] }}{% endif %}> "
    "{% if m['content'] is string %}{{ m['content'] }}{% else %}"
    "{% for p in m['content'] %}[{{ p['text'] }}]{% endfor %}{% endif %}"
    "{% for c in m['tool_calls'] or [] %}{{ c['function']['name'] }}{% endfor %}</s>{% endfor %}"
    "{% if add_generation_prompt %}<assistant> {% endif %}"
)
STRICT_CHAT = (
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant') }}{% endif %}"
    "<{{ m['role'] }}> {{ m['content'] }}</s>{% endfor %}"
)


# A template with tools in the format of Hermes and Qwen, and the marks that other formats have.
TOOLS_CHAT = (
    "{% if tools %}<tools>{% for t in tools %}{{ t | tojson }}{% endfor %}</tools> as <tool_call>{% endif %}"
    "{% for m in messages %}<{{ m['role'] }}> {{ m['content'] }}"
    "{% for c in m['tool_calls'] or [] %}{{ c['function']['name'] }}{{ c['function']['arguments'] | tojson }}"
    "{% endfor %}"
    "</s>{% endfor %}{% if add_generation_prompt %}<assistant> {% endif %}"
)
LLAMA_CHAT = TOOLS_CHAT.replace("<tool_call>", "<|python_tag|>")
MISTRAL_CHAT = TOOLS_CHAT.replace("<tool_call>", "[TOOL_CALLS]")


def byte_level_tokenizer(limit, chat_template=None, with_eos=False, marks=()):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<s>", "<pad>", "</s>", *marks]
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, special_tokens=special)
    tokenizer.train_from_iterator(TEXT, trainer)
    if with_eos:
        tokenizer.post_processor = processors.RobertaProcessing(
            ("</s>", 2), ("<s>", 0), trim_offsets=True, add_prefix_space=False
        )
    made = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        pad_token="<pad>",
        eos_token="</s>",
        model_max_length=limit,
        **({"additional_special_tokens": list(marks)} if marks else {}),
    )
    if chat_template:
        made.chat_template = chat_template
    return made


def decoder(folder, chat_template=None, positions=128, marks=()):
    """A small GPT-2; its weights are large enough that greedy texts differ."""
    import transformers

    tiny.seed()
    tokenizer = byte_level_tokenizer(positions, chat_template, marks=marks)
    sizes = dict(tiny.GPT2, vocab_size=len(tokenizer), n_positions=positions)
    config = transformers.GPT2Config(
        **dict(sizes, bos_token_id=0, pad_token_id=1, eos_token_id=2),
        initializer_range=0.4,
    )
    transformers.GPT2LMHeadModel(config).save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))
    return folder


def encoder_decoder(folder):
    """A small BART."""
    import transformers

    tiny.seed()
    tokenizer = byte_level_tokenizer(128, with_eos=True)
    sizes = dict(tiny.BART, vocab_size=len(tokenizer), bos_token_id=0, pad_token_id=1, eos_token_id=2)
    config = transformers.BartConfig(
        **dict(sizes, decoder_start_token_id=2, forced_eos_token_id=2), init_std=0.4
    )
    transformers.BartForConditionalGeneration(config).save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))
    return folder


def unlimited(folder):
    """A small T5, which has no last position."""
    import transformers

    tiny.seed()
    tokenizer = byte_level_tokenizer(128)
    config = transformers.T5Config(
        vocab_size=len(tokenizer),
        d_model=32,
        d_ff=64,
        d_kv=16,
        num_layers=2,
        num_heads=2,
        pad_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
    )
    transformers.T5ForConditionalGeneration(config).save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))
    return folder
