"""Answers compared with those of transformers' own pipelines, on generated requests.

The toolkit's service and the pipeline of the installed release run in this process on the same small model. Answers
must be equal (numbers within 1e-4) unless DIFFERENCES gives a reason. 500 requests a task; `-m slow` sends 5,000.
A task that has no pipeline in the installed release is skipped; `make test-differential` runs this file on 4.57.6, too.
"""

import json
import os
import warnings
from pathlib import Path
from typing import NamedTuple

import pytest
import tiny

from hf_inference_toolkit.content import codecs
from hf_inference_toolkit.errors import RequestError
from hf_inference_toolkit.loading.loader import load_model
from hf_inference_toolkit.models.failures import as_request_error
from hf_inference_toolkit.settings import Settings
from hf_inference_toolkit.tasks.service import predict_alone

hypothesis = pytest.importorskip("hypothesis")
transformers = pytest.importorskip("transformers")
st = hypothesis.strategies

if tuple(int(part) for part in transformers.__version__.split(".")[:2]) < (4, 40):
    pytest.skip("the pipelines of this release answer in other forms", allow_module_level=True)
if tiny.FRAMEWORK != "pt":
    pytest.skip("shown on PyTorch", allow_module_level=True)

EXAMPLES = int(os.environ.get("DIFFERENTIAL", "500"))
TOLERANCE = 1e-4
# Tokens that the small models take.
LIMIT = 32


class Difference(NamedTuple):
    """A case in which the toolkit's answer is not the pipeline's."""

    tasks: str
    case: str
    pipeline: str
    toolkit: str
    reason: str


# differences.md has the same table.
DIFFERENCES = {
    "truncation": Difference(
        "text-classification, feature-extraction, fill-mask, summarization, translation, text2text-generation",
        "`truncation` is not given, and an input is longer than the model's limit",
        "fails",
        "the input is truncated, and the answer has `X-Inputs-Truncated: true`",
        "clients do not count tokens",
    ),
    "max_length": Difference(
        "text-classification, feature-extraction, fill-mask",
        "`max_length` is above the model's limit",
        "fails on longer inputs",
        "the model's limit applies",
        "the same request works with models of other limits",
    ),
    "padding": Difference(
        "text-classification, fill-mask",
        "`padding` for a tokenizer without a padding token",
        "fails",
        "ignored",
        "padding does not change these answers",
    ),
    "list of one": Difference(
        "fill-mask, table-question-answering, question-answering",
        "a list of one input, or of one query",
        "the answer without a list",
        "a list of one answer",
        "clients that send lists read lists",
    ),
    "pair alone": Difference(
        "text-classification",
        "one pair of texts, without `top_k`",
        "the answer without a list",
        "a list of one answer, as for one text",
        "an answer has one form",
    ),
    "pairs": Difference(
        "text-classification",
        '`[["query", "document"], ...]`',
        'fails; it takes `[[["query", "document"]], ...]`',
        "each list of two texts is a pair",
        "cross-encoders are called in this form",
    ),
    "words": Difference(
        "token-classification",
        "`aggregation_strategy` is `first`, `average` or `max`",
        "words are guessed from spaces and lengths of tokens",
        "words are those of the tokenizer",
        "the guess joins words across line breaks and tabs, and after characters that a tokenizer normalizes",
    ),
    "long texts": Difference(
        "token-classification",
        "a text is longer than the model's limit, and `stride` is not given",
        "the rest of the text has no entities",
        "the text is read in parts that share a quarter of their tokens; with `aggregation_strategy` the answer is "
        "that of the pipeline with this `stride`",
        "entities must not be lost without notice",
    ),
    "empty entity": Difference(
        "token-classification",
        "a text is read in parts, and the first entity has no characters",
        "this entity twice",
        "this entity once",
        "the pipeline compares the first entity with itself when it looks for entities of several parts",
    ),
    "top_k": Difference(
        "fill-mask",
        "`top_k` is larger than the model's vocabulary",
        "fails",
        "all tokens",
        "the other tasks do the same",
    ),
    "empty label": Difference(
        "zero-shot-classification",
        "an empty label in the list `candidate_labels`",
        "a score for no label",
        "refused with 400",
        "an empty label is a mistake in the request",
    ),
    "rows": Difference(
        "table-question-answering",
        "a table has more rows than the model has row ids",
        "fails",
        "the last rows are dropped, and the answer has `X-Inputs-Truncated: true`",
        "rows with too many tokens are dropped in the same way",
    ),
    "doc_stride": Difference(
        "question-answering",
        "`doc_stride` is not given, and a long question leaves less room than its default",
        "fails",
        "the largest `doc_stride` that is possible",
        "the client did not request this overlap",
    ),
    "max_question_len": Difference(
        "question-answering",
        "the question is longer than `max_question_len`",
        "the question is not truncated, contrary to its documentation",
        "the question is truncated",
        "a long question leaves no room for the context",
    ),
    "impossible spans": Difference(
        "question-answering",
        "`top_k` is larger than the number of possible answers",
        "padded with answers of score 0 whose end is before their start",
        "fewer answers",
        "such spans are not answers",
    ),
    "equal answers": Difference(
        "question-answering",
        "several spans are the same text, on transformers 4.51 and older",
        "an answer for each of them",
        "one answer with the sum of their scores",
        "the pipelines of newer releases do the same",
    ),
    "long prompts": Difference(
        "text-generation",
        "the prompt and `max_new_tokens` together are above the model's limit",
        "fails, or generates beyond the positions that the model was trained for",
        "the start of the prompt is truncated, and the answer has `X-Inputs-Truncated: true`",
        "as in the other tasks; the end of a prompt matters most",
    ),
    "defaults": Difference(
        "text-generation",
        "neither the request nor the model sets how tokens are selected",
        "samples, from transformers 5 on",
        "the most probable token",
        "the same request has the same answer, on all releases",
    ),
}


def differs(name):
    """Mark a place where the reference is adapted to a documented difference."""
    assert name in DIFFERENCES


# Requests

WORDS = [
    *tiny.WORDS,
    *(
        "Anna",
        "Smith",
        "lives",
        "(Paris)",
        "don't",
        "x-ray",
        "3.14",
        "Stra\u00dfe",
        "nai\u0308ve",
        "U.S.A.",
        "$5",
    ),
    *(
        "\u6771\u4eac",
        "\u0645\u0631\u062d\u0628\u0627",
        "\U0001f469\u200d\U0001f467",
        "\U0001f600",
        "e\u0301",
    ),
    *("\u202eabc\u202c", "\x00", "\ufeff", "\u200b", "unbelievableness", '"quoted"', "a/b", "#tag", "!", ","),
]
SEPARATORS = [" ", " ", " ", " ", "  ", "\n", "\t", "\r\n", "\u00a0"]
FILLERS = [0, 0, 0, 0, 0, LIMIT - 6, LIMIT - 4, LIMIT - 3, LIMIT - 2, LIMIT - 1, LIMIT, 3 * LIMIT]


def joined(parts):
    """A text of words and separators, with so many words in front that it is near the model's limit."""
    filler, separator, words, end = parts
    return "the " * filler + separator.join(words) + end


TEXTS = st.builds(
    joined,
    st.tuples(
        st.sampled_from(FILLERS),
        st.sampled_from(SEPARATORS),
        st.lists(st.sampled_from(WORDS), max_size=8),
        st.sampled_from(["", "", "", " ", "\n", "."]),
    ),
)
FULL_TEXTS = TEXTS.filter(lambda text: text.strip())
SHORT_TEXTS = st.builds(" ".join, st.lists(st.sampled_from(WORDS), min_size=1, max_size=4))


def one_or_several(item, most=3):
    """An input or a list of inputs."""
    return st.one_of(item, st.lists(item, min_size=1, max_size=most))


def some_of(**choices):
    """Parameters, each there or not."""
    return st.fixed_dictionaries(
        {}, optional={name: st.sampled_from(values) for name, values in choices.items()}
    )


TRUNCATIONS = [True, False, "longest_first", "only_first", "do_not_truncate"]
LENGTHS = [4, 8, LIMIT, 1000]
PADDINGS = [True, False, "longest", "max_length", "do_not_pad"]
TOKENIZING = some_of(truncation=TRUNCATIONS, max_length=LENGTHS, padding=PADDINGS)

PAIRS = st.tuples(TEXTS, TEXTS)
CLASSIFIED = st.one_of(
    one_or_several(TEXTS),
    one_or_several(st.builds(lambda pair: {"text": pair[0], "text_pair": pair[1]}, PAIRS)),
    st.lists(st.builds(list, PAIRS), min_size=1, max_size=3),
)
MASKED = st.builds(
    lambda words, masks, text: " ".join([*words, *["[MASK]"] * masks, text]),
    st.lists(st.sampled_from(WORDS), max_size=4),
    st.sampled_from([0, 1, 1, 1, 1, 2, 3]),
    TEXTS,
)
LABELS = st.lists(
    st.sampled_from(
        ["refund", "legal", "faq", " the house", "x ", "Stra\u00dfe", "\u6771\u4eac", "a, b", "a{b", ""]
    ),
    min_size=1,
    max_size=4,
    unique=True,
)
CELLS = ["12", "3.5", "-4", "1,000", "", " ", "2021-01-02", "10 %", *WORDS[:40]]


@st.composite
def tables(draw):
    """A question about a table that is small, wide or tall; columns of text."""
    width, height = draw(
        st.sampled_from(4 * [(1, 1), (2, 3), (3, 2), (4, 4)] + [(1, 40), (15, 1), (20, 1), (9, 9)])
    )
    cells = draw(st.lists(st.sampled_from(CELLS), min_size=5, max_size=5))
    names = ["{} {}".format(cells[0], number) for number in range(width)]
    rows = [[cells[(row * width + column) % 5] for row in range(height)] for column in range(width)]
    question = draw(st.one_of(SHORT_TEXTS, st.lists(SHORT_TEXTS, min_size=1, max_size=2)))
    return {"query": question, "table": dict(zip(names, rows))}


ROLES = st.sampled_from(["system", "user", "assistant"])
MESSAGES = st.builds(lambda role, text: {"role": role, "content": text}, ROLES, SHORT_TEXTS)
CHATS = st.lists(MESSAGES, min_size=1, max_size=4)
PROMPTS = st.one_of(one_or_several(FULL_TEXTS), CHATS, st.lists(CHATS, min_size=1, max_size=2))
# Without sampling and with a number of beams: see the difference "defaults".
WRITING = st.fixed_dictionaries(
    {
        "max_new_tokens": st.sampled_from([1, 3, 5]),
        "do_sample": st.just(False),
        "num_beams": st.sampled_from([1, 1, 2]),
    },
    optional={
        name: st.sampled_from(values)
        for name, values in {
            "repetition_penalty": [1.0, 1.3, 0.7],
            "no_repeat_ngram_size": [2],
            "min_new_tokens": [2],
            "eos_token_id": [5, [2, 40]],
            "bad_words_ids": [[[5], [7, 8]]],
            "suppress_tokens": [[9, 10]],
            "renormalize_logits": [True],
            "forced_eos_token_id": [2],
        }.items()
    },
)
QUESTIONS = st.builds(
    lambda question, context: {"question": question, "context": context},
    SHORT_TEXTS.filter(str.strip),
    st.builds(lambda text, times: text * times, FULL_TEXTS, st.sampled_from([1, 1, 1, 2, 10])).filter(
        str.strip
    ),
)


def merged(first, second):
    return dict(first, **second)


# References: the pipeline's answer, adapted where a difference is documented


def classified(pipe, inputs, parameters):
    answers = []
    for item in inputs if isinstance(inputs, list) else [inputs]:
        if isinstance(item, list):
            differs("pairs")
            item = {"text": item[0], "text_pair": item[1]}
        answers.append(pipe(item, **cut(pipe, parameters)))
    if "top_k" in parameters:
        return answers if isinstance(inputs, list) else answers[0]
    differs("pair alone")
    return [answer[0] if isinstance(answer, list) else answer for answer in answers]


def cut(pipe, parameters):
    """Tokenizer options as the toolkit completes them."""
    differs("truncation")
    options = dict({"truncation": True}, **parameters)
    if options.get("max_length", 0) > pipe.tokenizer.model_max_length:
        differs("max_length")
        options["max_length"] = pipe.tokenizer.model_max_length
    if pipe.tokenizer.pad_token is None:
        differs("padding")
        options.pop("padding", None)
    return options


def labelled(pipe, inputs, parameters):
    strategy = parameters.get("aggregation_strategy", "none")
    options = dict(parameters)
    if strategy != "none":
        differs("long texts")
        options.setdefault("stride", LIMIT // 4)
    elif any(is_long(pipe, text) for text in as_list(inputs)):
        # Compared in test_tasks: the pipeline has no answer for the rest of the text.
        hypothesis.reject()
    return pipe(inputs, **options)


def is_long(pipe, text):
    return len(pipe.tokenizer(text)["input_ids"]) > LIMIT


def as_list(inputs):
    return inputs if isinstance(inputs, list) else [inputs]


def with_words_of_the_encoding(pipe):
    """The pipeline, its words those of the tokenizer (see the difference "words")."""
    differs("words")
    gather = pipe.gather_pre_entities

    def gather_pre_entities(sentence, *args, **kwargs):
        entities = gather(sentence, *args, **kwargs)
        encoding = pipe.tokenizer(sentence).encodings[0]
        words = dict(zip(encoding.offsets, encoding.word_ids))
        last = None
        for entity in entities:
            word = words[entity["start"], entity["end"]]
            entity["is_subword"] = word is not None and word == last
            last = word
        return entities

    pipe.gather_pre_entities = gather_pre_entities
    return pipe


def with_first_entity_once(pipe):
    """The pipeline, without a second copy of the first entity (see the difference "empty entity")."""
    differs("empty entity")
    merge = pipe.aggregate_overlapping_entities

    def aggregate_overlapping_entities(entities):
        merged = merge(entities)
        return merged[1:] if len(merged) > 1 and merged[0] is merged[1] else merged

    pipe.aggregate_overlapping_entities = aggregate_overlapping_entities
    return pipe


def with_sums_of_equal_answers(pipe):
    """The pipeline, with the scores of equal answers added as in newer releases."""
    differs("equal answers")
    best = pipe.postprocess

    def postprocess(parts, top_k=1, handle_impossible_answer=False, align_to_words=True, **options):
        sums = {}
        null = 1000000.0
        options["align_to_words"] = align_to_words
        for part in parts:
            for answer in as_list(best([part], top_k=top_k * 2 + 10 if align_to_words else top_k, **options)):
                known = sums.setdefault(answer["answer"].lower(), dict(answer, score=0.0))
                known["score"] += answer["score"]
            every = best([part], top_k=100000, handle_impossible_answer=True, **options)
            # Beside spans of score 0.
            null = min(null, max(answer["score"] for answer in as_list(every) if not answer["answer"]))
        answers = list(sums.values())
        if handle_impossible_answer:
            answers.append({"score": null, "start": 0, "end": 0, "answer": ""})
        answers = sorted(answers, key=lambda answer: -answer["score"])[:top_k]
        return answers[0] if len(answers) == 1 else answers

    pipe.postprocess = postprocess


def extracted(pipe, inputs, parameters):
    own = dict(parameters)
    own.update(own.pop("tokenize_kwargs", {}))
    return pipe(inputs, tokenize_kwargs=cut(pipe, own))


def filled(pipe, inputs, parameters):
    options = dict(parameters)
    options["tokenizer_kwargs"] = cut(pipe, parameters.get("tokenizer_kwargs", {}))
    if options.get("top_k", 0) > pipe.model.config.vocab_size:
        differs("top_k")
        options["top_k"] = pipe.model.config.vocab_size
    answer = pipe(inputs, **options)
    return one_in_a_list(inputs, answer)


def one_in_a_list(inputs, answer):
    """The answer to a list of one, which some pipelines take out of its list."""
    if isinstance(inputs, list) and len(inputs) == 1:
        differs("list of one")
        return [answer]
    return answer


def sorted_into_labels(pipe, inputs, parameters):
    labels = parameters["candidate_labels"]
    if isinstance(labels, list) and "" in labels:
        differs("empty label")
        raise ValueError("empty label")
    return pipe(inputs, **parameters)


def answered_from_tables(pipe, inputs, parameters):
    answers = []
    for item in as_list(inputs):
        if len(next(iter(item["table"].values()))) > 15:
            differs("rows")
            item = dict(item, table={name: column[:15] for name, column in item["table"].items()})
        answer = pipe(dict(item), **parameters)
        answers.append(one_in_a_list(item["query"], answer))
    return answers if isinstance(inputs, list) else answers[0]


def answered(pipe, inputs, parameters):
    answers = []
    for item in as_list(inputs):
        differs("max_question_len")
        question = shortened(pipe, item["question"], parameters.get("max_question_len", 64))
        options = dict({"max_seq_len": LIMIT}, **parameters)
        if "doc_stride" not in options:
            differs("doc_stride")
            requested = len(pipe.tokenizer(question, add_special_tokens=False)["input_ids"])
            room = options["max_seq_len"] - requested - pipe.tokenizer.num_special_tokens_to_add(pair=True)
            options["doc_stride"] = min(options["max_seq_len"] // 2, max(0, room - 1))
        answer = pipe(question=question, context=item["context"], **options)
        differs("impossible spans")
        found = [one for one in as_list(answer) if one["score"] > 0]
        answers.append(
            found if len(found) > 1 else (found or [{"score": 0.0, "start": 0, "end": 0, "answer": ""}])[0]
        )
    differs("list of one")
    return answers if isinstance(inputs, list) else answers[0]


def shortened(pipe, question, most):
    offsets = pipe.tokenizer(question, add_special_tokens=False, return_offsets_mapping=True)[
        "offset_mapping"
    ]
    return question if len(offsets) <= most else question[: offsets[most - 1][1]]


def continued(pipe, inputs, parameters):
    several = isinstance(inputs, list) and not isinstance(inputs[0], dict)
    for prompt in inputs if several else [inputs]:
        is_text = isinstance(prompt, str)
        whole = (
            prompt
            if is_text
            else pipe.tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
        )
        length = len(pipe.tokenizer(whole, add_special_tokens=is_text)["input_ids"])
        if length + parameters["max_new_tokens"] > pipe.tokenizer.model_max_length:
            # The toolkit cuts prompts, as README says. What the pipeline does depends on the model.
            differs("long prompts")
            hypothesis.reject()
    return pipe(inputs, **parameters)


def rewritten(pipe, inputs, parameters):
    return pipe(inputs, truncation=True, **parameters)


class Task(NamedTuple):
    """What is compared for a task: models, inputs and parameters, and the reference."""

    models: tuple
    inputs: object
    parameters: object
    reference: object


TASKS = {
    "text-classification": Task(
        ("bert 2", "bert 5", "bert many", "bert number", "bytes 2", "decoder 2", "decoder without pad 2"),
        CLASSIFIED,
        st.builds(
            merged,
            some_of(top_k=[1, 2, 3, None, 10], function_to_apply=["softmax", "sigmoid", "none"]),
            TOKENIZING,
        ),
        classified,
    ),
    "token-classification": Task(
        ("bert", "bytes"),
        one_or_several(TEXTS),
        some_of(
            aggregation_strategy=["none", "simple", "first", "average", "max"],
            ignore_labels=[["O"], [], ["B-PER", "O"], ["PER"], ["LOC", "B-LOC"]],
        ),
        labelled,
    ),
    "feature-extraction": Task(
        ("bert", "bytes"),
        one_or_several(TEXTS),
        st.one_of(
            some_of(truncation=TRUNCATIONS),
            st.fixed_dictionaries({}, optional={"tokenize_kwargs": TOKENIZING}),
        ),
        extracted,
    ),
    "fill-mask": Task(
        ("bert", "bytes"),
        one_or_several(MASKED),
        st.builds(
            merged,
            some_of(
                top_k=[1, 3, 3, 5, 7, 7, 500],
                targets=[
                    "paris",
                    ["paris", "berlin"],
                    ["the", "zzzqq"],
                    ["Paris"],
                    [" paris"],
                    [""],
                    "\U0001f600",
                ],
            ),
            st.fixed_dictionaries({}, optional={"tokenizer_kwargs": TOKENIZING}),
        ),
        filled,
    ),
    "zero-shot-classification": Task(
        ("entailment last", "entailment first", "entailment of two", "bytes entailment last"),
        one_or_several(FULL_TEXTS),
        st.fixed_dictionaries(
            {"candidate_labels": st.one_of(LABELS, st.builds(", ".join, LABELS))},
            optional={
                "hypothesis_template": st.sampled_from(["This example is {}.", "{}", "it is {} , really"]),
                "multi_label": st.booleans(),
            },
        ),
        sorted_into_labels,
    ),
    "table-question-answering": Task(
        ("tapas", "tapas without aggregation"),
        one_or_several(tables(), 2),
        some_of(sequential=[True, False], padding=[True, "longest"], truncation=[True, "drop_rows_to_fit"]),
        answered_from_tables,
    ),
    "question-answering": Task(
        ("bert", "bytes"),
        one_or_several(QUESTIONS),
        some_of(
            top_k=[1, 2, 5, 20],
            doc_stride=[4, 8],
            max_answer_len=[1, 3, 40],
            max_seq_len=[24, 30],
            max_question_len=[4, 8],
            handle_impossible_answer=[True, False],
            align_to_words=[True, False],
        ),
        answered,
    ),
    "text-generation": Task(("gpt2", "gpt2 without pad"), PROMPTS, WRITING, continued),
    "text2text-generation": Task(("bart", "t5"), one_or_several(FULL_TEXTS), WRITING, rewritten),
    "summarization": Task(("bart", "t5"), one_or_several(FULL_TEXTS), WRITING, rewritten),
    "translation_en_to_fr": Task(("bart", "t5"), one_or_several(FULL_TEXTS), WRITING, rewritten),
}


# Models


SIZES = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
LARGE = {"initializer_range": 0.6}
HEADS = {
    "text-classification": "ForSequenceClassification",
    "zero-shot-classification": "ForSequenceClassification",
    "token-classification": "ForTokenClassification",
    "question-answering": "ForQuestionAnswering",
    "fill-mask": "ForMaskedLM",
    "feature-extraction": "Model",
}
ENTITIES = tiny.labels("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
CONFIGS = {
    "bert 2": tiny.labels("NEGATIVE", "POSITIVE"),
    "bert 5": tiny.labels(*"abcde"),
    "bert many": dict(tiny.labels(*"abc"), problem_type="multi_label_classification"),
    "bert number": {"problem_type": "regression", "num_labels": 1},
    "bytes 2": tiny.labels("no", "yes"),
    "decoder 2": dict(tiny.labels("no", "yes"), pad_token_id=1),
    "decoder without pad 2": tiny.labels("no", "yes"),
    "entailment last": tiny.labels("contradiction", "neutral", "entailment"),
    "entailment first": tiny.labels("entailment", "neutral", "contradiction"),
    "entailment of two": tiny.labels("entailment", "not_entailment"),
    "bytes entailment last": tiny.labels("contradiction", "neutral", "entailment"),
}


def make(folder, task, name):
    """A model and its tokenizer in a folder."""
    tiny.seed()
    more = CONFIGS.get(name, ENTITIES if task == "token-classification" else {})
    if name.startswith(("bart", "t5", "gpt2", "decoder")):
        make_generator(folder, task, name, more)
    elif name.startswith("bytes"):
        tokenizer = tiny.byte_tokenizer(LIMIT)
        config = transformers.RobertaConfig(
            vocab_size=len(tokenizer),
            max_position_embeddings=LIMIT + 2,
            pad_token_id=1,
            bos_token_id=0,
            eos_token_id=2,
            type_vocab_size=1,
            **dict(SIZES, **dict(LARGE, **more)),
        )
        getattr(transformers, "Roberta" + HEADS[task])(config).save_pretrained(str(folder))
        tokenizer.save_pretrained(str(folder))
    elif name.startswith("tapas"):
        make_tapas(folder, name)
    else:
        sizes = dict(tiny.BERT, max_position_embeddings=LIMIT, **dict(SIZES, **LARGE))
        tiny.save(folder, "BertConfig", "Bert" + HEADS[task], sizes, **more)
        set_tokenizer(folder, model_max_length=LIMIT)
    return folder


def make_generator(folder, task, name, more):
    tokenizer = tiny.byte_tokenizer(2 * LIMIT, "without pad" not in name, is_encoder=False)
    ids = {"bos_token_id": 0, "eos_token_id": 2}
    if tokenizer.pad_token is not None:
        ids["pad_token_id"] = 1
    if name.startswith("bart"):
        sizes = {key: 16 if "dim" in key or key == "d_model" else value for key, value in tiny.BART.items()}
        sizes.update(
            ids, vocab_size=len(tokenizer), decoder_start_token_id=2, forced_eos_token_id=2, init_std=0.6
        )
        model = transformers.BartForConditionalGeneration(transformers.BartConfig(**sizes))
    elif name.startswith("t5"):
        config = transformers.T5Config(
            vocab_size=len(tokenizer),
            d_model=16,
            d_ff=16,
            d_kv=8,
            num_layers=1,
            num_heads=2,
            decoder_start_token_id=1,
            **ids,
        )
        model = transformers.T5ForConditionalGeneration(config)
    else:
        config = transformers.GPT2Config(
            vocab_size=len(tokenizer),
            n_embd=16,
            n_layer=1,
            n_head=2,
            n_positions=2 * LIMIT,
            **dict(LARGE, **dict(ids, **more)),
        )
        kind = "GPT2LMHeadModel" if task == "text-generation" else "GPT2ForSequenceClassification"
        model = getattr(transformers, kind)(config)
    model.save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))


def make_tapas(folder, name):
    # Small numbers of columns and rows, because the model computes a mean for each possible cell.
    sizes = dict(tiny.BERT, max_position_embeddings=96, type_vocab_sizes=[3, 16, 16, 2, 16, 16, 10])
    sizes.update(max_num_rows=16, max_num_columns=16)
    if "without" not in name:
        sizes.update(num_aggregation_labels=4)
        sizes.update(aggregation_labels={0: "NONE", 1: "SUM", 2: "AVERAGE", 3: "COUNT"})
    tiny.save(folder, "TapasConfig", "TapasForQuestionAnswering", dict(sizes, **dict(SIZES, **LARGE)))
    set_tokenizer(folder, tokenizer_class="TapasTokenizer", model_max_length=96)


def set_tokenizer(folder, **values):
    path = Path(str(folder)) / "tokenizer_config.json"
    path.write_text(json.dumps(dict(json.loads(path.read_text()), **values)))


# Comparison


def refused_or_answer(service, request):
    """The toolkit's answer as a client reads it; RequestError for a refusal. Anything else that fails is a fault."""
    read = service.read(json.dumps(request).encode(), codecs.parse("application/json"), "application/json")
    try:
        value = predict_alone(service, read, lambda: None).value
    except Exception as problem:
        error = as_request_error(problem, service, read) if not isinstance(problem, RequestError) else problem
        if error.kind == "internal":
            raise
        raise error from None
    return json.loads(service.write(value, "application/json")[0].decode())


def first_difference(ours, theirs, path="answer"):
    """Where two answers differ; nothing where they do not."""
    if is_number(ours) and is_number(theirs):
        is_close = abs(ours - theirs) <= TOLERANCE * max(1.0, abs(theirs))
        return None if is_close else "{}: {!r} is not {!r}".format(path, ours, theirs)
    if isinstance(ours, dict) and isinstance(theirs, dict) and set(ours) == set(theirs):
        ours, theirs = labels_with_scores(ours), labels_with_scores(theirs)
        found = (first_difference(ours[key], theirs[key], path + "." + key) for key in ours)
        return next(filter(None, found), None)
    if isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        parts = enumerate(zip(ours, theirs))
        found = (first_difference(one, other, "{}[{}]".format(path, place)) for place, (one, other) in parts)
        difference = next(filter(None, found), None)
        if difference and is_ranking(ours) and is_ranking(theirs):
            return first_difference_of_rankings(ours, theirs, path)
        return difference
    is_equal = type(ours) is type(theirs) and ours == theirs
    return None if is_equal else "{}: {!r} is not {!r}".format(path, ours, theirs)


def labels_with_scores(answer):
    """The two lists of zero-shot-classification as one."""
    if set(answer) != {"sequence", "labels", "scores"}:
        return answer
    pairs = zip(answer["labels"], answer["scores"])
    return {
        "sequence": answer["sequence"],
        "labels": [{"label": one, "score": score} for one, score in pairs],
    }


def is_ranking(value):
    """Whether a list is the best of something: its order and its last items depend on small differences of scores."""
    if len(value) < 2 or not all(
        isinstance(one, dict) and "score" in one and RANKED & set(one) for one in value
    ):
        return False
    scores = [one["score"] for one in value]
    return scores == sorted(scores, reverse=True) and len({name_of(one) for one in value}) == len(value)


RANKED = {"label", "token", "answer"}


def first_difference_of_rankings(ours, theirs, path):
    """Items are compared by name, and may be missing where they are as good as the last one."""
    ours, theirs = ({name_of(one): one for one in ranking} for ranking in (ours, theirs))
    last = min(one["score"] for one in theirs.values())
    for name in set(ours) | set(theirs):
        if name in ours and name in theirs:
            found = first_difference(ours[name], theirs[name], "{}[{}]".format(path, name))
            if found:
                return found
        elif abs((ours.get(name) or theirs[name])["score"] - last) > TOLERANCE:
            return "{}: only one has {!r}".format(path, name)
    return None


def name_of(item):
    return next(item[key] for key in sorted(RANKED) if key in item)


def is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def plain(value):
    """What the pipeline's answer is in JSON."""
    return json.loads(json.dumps(value, default=lambda array: array.tolist()))


def with_token_types(pipe):
    """Without them the pipeline fails; the tokenizer of transformers 5.0 leaves them out."""
    names = pipe.tokenizer.model_input_names
    if "token_type_ids" not in names:
        pipe.tokenizer.model_input_names = [*names, "token_type_ids"]


# The test


@pytest.fixture(scope="module")
def served_and_pipeline(tmp_path_factory):
    """The toolkit's service of a small model, and the installed release's pipeline of it; made once."""
    made = {}

    def get(task, name):
        if (task, name) not in made:
            folder = make(tmp_path_factory.mktemp("differential"), task, name)
            pipe = transformers.pipeline(task, model=str(folder), device=-1)
            if task == "token-classification":
                with_words_of_the_encoding(pipe)
                with_first_entity_once(pipe)
            if task == "table-question-answering":
                with_token_types(pipe)
            if task == "question-answering" and not hasattr(pipe, "get_answer"):
                with_sums_of_equal_answers(pipe)
            service = load_model(Settings(model_dir=str(folder), task=task))
            service.warm_up(lambda: None)
            made[task, name] = service, pipe
        return made[task, name]

    return get


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    """One thread, because the models are smaller than what threads cost; no warnings of the pipelines."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    verbosity = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity(transformers.logging.CRITICAL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    transformers.logging.set_verbosity(verbosity)
    torch.set_num_threads(threads)


def compare(task, served_and_pipeline, **settings):
    """Send generated requests to both, until one is answered differently."""
    wanted = TASKS[task]
    if task not in transformers.pipelines.SUPPORTED_TASKS and not task.startswith("translation_"):
        pytest.skip("transformers {} has no {} pipeline".format(transformers.__version__, task))
    if task.startswith("translation_") and "translation" not in transformers.pipelines.SUPPORTED_TASKS:
        pytest.skip("transformers {} has no translation pipeline".format(transformers.__version__))
    if task == "table-question-answering":
        pytest.importorskip("pandas")

    @hypothesis.settings(
        deadline=None,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
        report_multiple_bugs=False,
        phases=[hypothesis.Phase.generate, hypothesis.Phase.shrink],
        **settings,
    )
    @hypothesis.given(st.sampled_from(wanted.models), wanted.inputs, wanted.parameters)
    def check(name, inputs, parameters):
        service, pipe = served_and_pipeline(task, name)
        try:
            ours = refused_or_answer(service, {"inputs": inputs, "parameters": parameters})
        except RequestError as refusal:
            ours = refusal
        try:
            theirs = plain(wanted.reference(pipe, inputs, parameters))
        except hypothesis.errors.UnsatisfiedAssumption:
            raise
        except BaseException as problem:
            # A failure in a tokenizer's code in Rust is not an Exception.
            if not isinstance(problem, Exception) and type(problem).__name__ != "PanicException":
                raise
            theirs = problem
        hypothesis.note("{}\ntoolkit: {!r}\npipeline: {!r}".format(name, ours, theirs))
        hypothesis.event("refused" if isinstance(ours, RequestError) else "answered")
        if isinstance(theirs, BaseException):
            assert isinstance(ours, RequestError), "only the pipeline fails"
        else:
            assert not isinstance(ours, RequestError), "only the toolkit refuses"
            assert first_difference(ours, theirs) is None

    check()


@pytest.mark.parametrize("task", list(TASKS))
def test_answers_equal_those_of_the_pipeline(task, served_and_pipeline):
    """The same requests in every run."""
    compare(task, served_and_pipeline, max_examples=EXAMPLES, derandomize=True)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ([{"label": "a", "score": 0.5}], [{"label": "a", "score": 0.501}]),
        ([{"label": "a", "score": 0.5}], [{"label": "b", "score": 0.5}]),
        ([{"label": "a", "score": 0.6}, {"label": "b", "score": 0.4}], [{"label": "a", "score": 0.6}]),
        (
            [{"token": 1, "score": 0.5}, {"token": 2, "score": 0.1}],
            [{"token": 1, "score": 0.5}, {"token": 3, "score": 0.2}],
        ),
        (
            {"sequence": "x", "labels": ["a", "b"], "scores": [0.7, 0.3]},
            {"sequence": "x", "labels": ["b", "a"], "scores": [0.7, 0.3]},
        ),
        ([[0.1, 0.2]], [[0.1, 0.2, 0.3]]),
        ({"score": 0.5}, {"score": 0.5, "start": 1}),
        ("a", "b"),
        (1, True),
    ],
)
def test_comparison_finds_differences(ours, theirs):
    """In both directions."""
    assert first_difference(ours, theirs)
    assert first_difference(theirs, ours)
    assert first_difference(ours, ours) is None


def test_comparison_accepts_another_order_of_equal_scores():
    """Two sums of floats in another order may exchange their places, and one of them may be left out."""
    one, other, third = ({"token": number, "score": 0.3} for number in (1, 2, 3))
    assert first_difference([one, other], [other, one]) is None
    assert first_difference([one, other], [one, third]) is None


def test_document_lists_the_differences():
    """differences.md is `python tests/test_differential.py > differences.md`."""
    path = Path(__file__).parent.parent / "differences.md"
    if not path.exists():
        pytest.skip("the documentation is not here")
    assert path.read_text(encoding="utf-8") == document()


def document():
    """The table of differences in Markdown."""
    lines = [
        "# Differences from the pipelines of transformers",
        "",
        "Answers are those of `transformers.pipeline`, within 1e-4, with these exceptions.",
        "[test_differential.py](tests/test_differential.py) compares them on generated requests, and writes this page.",
        "",
        "| task | case | pipeline | toolkit | reason |",
        "|---|---|---|---|---|",
    ]
    lines += ["| {} |".format(" | ".join(difference)) for difference in DIFFERENCES.values()]
    return "\n".join([*lines, ""])


@pytest.mark.slow
@pytest.mark.parametrize("task", list(TASKS))
def test_answers_to_many_requests_equal_those_of_the_pipeline(task, served_and_pipeline):
    """Other requests in each run."""
    compare(task, served_and_pipeline, max_examples=10 * EXAMPLES)


if __name__ == "__main__":
    print(document(), end="")
