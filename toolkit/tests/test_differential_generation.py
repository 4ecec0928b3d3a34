"""Generated texts compared with those of transformers' own pipelines, on generated requests.

The toolkit's service and the pipeline of the installed release run in this process on the same small model. Documented
differences are the functions whose names begin with `differs`. 500 requests a task; `-m slow` sends 5,000. A task that
has no pipeline in the installed release is skipped: summarization, translation and text2text-generation on
transformers 5.
"""

import os

import generation_models
import pytest
import tiny

from hf_inference_toolkit.content.payload import Request
from hf_inference_toolkit.errors import RequestError
from hf_inference_toolkit.loading.loader import load_model
from hf_inference_toolkit.settings import Settings
from hf_inference_toolkit.tasks.service import predict_alone

hypothesis = pytest.importorskip("hypothesis")
transformers = pytest.importorskip("transformers")
st = hypothesis.strategies

if tuple(int(part) for part in transformers.__version__.split(".")[:2]) < (4, 46):
    pytest.skip(
        "the pipelines of this release have neither chats nor stop sequences", allow_module_level=True
    )
if tiny.FRAMEWORK != "pt":
    pytest.skip("shown on PyTorch", allow_module_level=True)

# transformers warns of combinations of parameters.
pytestmark = pytest.mark.filterwarnings("ignore")
EXAMPLES = int(os.environ.get("DIFFERENTIAL", "500"))
# Tokens that the small models take.
LIMIT = 128


def differs_in_sampling(parameters):
    """The pipelines of transformers 5 sample by default, with a seed of the process. The toolkit does not."""
    return dict(parameters, do_sample=False)


def differs_for_long_prompts(parameters):
    """Without handle_long_generation the pipeline fails behind the last position. The toolkit cuts the prompt."""
    return dict(parameters, handle_long_generation="hole")


def differs_in_length(parameters):
    """256 new tokens by default, and 20 before transformers 4.52. This test always sends a number, to be fast."""
    return parameters


def differs_in_stops_before_5(parameters):
    """The pipelines of transformers 4 take the first token of a stop sequence as the end-of-sequence token instead."""
    if transformers.__version__.startswith("4."):
        parameters.pop("stop_sequence", None)


def differs_after_stop(text, stops):
    """The pipeline keeps the rest of the token that completes a stop sequence. The toolkit's text ends with it."""
    ends = [text.find(stop) + len(stop) for stop in stops if stop in text]
    return text[: min(ends)] if ends else text


WORDS = [
    *("hugging", "face", "paris", "is", "my", "name", "anna", "don't", "0123", "Q:", "A:", "The", "!"),
    *(
        "\u6771\u4eac",
        "\u0645\u0631\u062d\u0628\u0627",
        "\U0001f469\u200d\U0001f467",
        "\U0001f600",
        "e\u0301",
        "\n",
    ),
]
FILLERS = [0] * 8 + [LIMIT - 12, LIMIT - 6, LIMIT - 4, LIMIT - 2, LIMIT - 1, LIMIT, LIMIT + 1, 3 * LIMIT]
TEXTS = st.builds(
    lambda filler, separator, words: "a" * filler + separator.join(words),
    st.sampled_from(FILLERS),
    st.sampled_from([" ", " ", "", "\n", "  "]),
    st.lists(st.sampled_from(WORDS), min_size=1, max_size=8),
)
CONTENTS = st.lists(st.sampled_from(WORDS), max_size=5).map(" ".join)
PARTS = st.lists(CONTENTS.map(lambda text: {"type": "text", "text": text}), min_size=1, max_size=3)
MESSAGES = st.builds(
    lambda role, content: {"role": role, "content": content},
    st.sampled_from(["user", "user", "assistant", "system"]),
    CONTENTS,
)
# Of the last message the pipeline keeps role and content only, and it cannot continue parts.
EARLIER_MESSAGES = st.one_of(
    MESSAGES,
    st.builds(lambda message, name: dict(message, name=name), MESSAGES, CONTENTS),
    st.builds(lambda message, parts: dict(message, content=parts), MESSAGES, PARTS),
)
CHATS = st.builds(lambda earlier, last: [*earlier, last], st.lists(EARLIER_MESSAGES, max_size=3), MESSAGES)


def some_of(**choices):
    """Parameters, each there or not."""
    return st.fixed_dictionaries(
        {}, optional={name: st.sampled_from(values) for name, values in choices.items()}
    )


def one_or_several(item):
    """An input or a list of inputs."""
    return st.one_of(item, item, st.lists(item, min_size=1, max_size=3))


COMMON = {
    "num_beams": [1, 2, 3],
    "num_return_sequences": [1, 2],
    "repetition_penalty": [1.0, 1.3],
    "no_repeat_ngram_size": [0, 1, 2],
    "min_new_tokens": [0, 3],
    "early_stopping": [True, False],
    "suppress_tokens": [[5, 6, 7]],
    "clean_up_tokenization_spaces": [True, False],
}
GENERATION = some_of(
    **COMMON,
    return_full_text=[True, False],
    continue_final_message=[True, False],
    prefix=["", "my name"],
    add_special_tokens=[True, False],
    stop_sequence=["e", "a", " "],
)
SEQ2SEQ = some_of(**COMMON, length_penalty=[0.5, 2.0], min_length=[0, 4])
NEW_TOKENS = st.sampled_from([1, 2, 3, 5, 8])


def possible(parameters, most_sequences):
    """Without combinations that transformers refuses."""
    if parameters.get("num_return_sequences", 1) > most_sequences:
        parameters = {name: value for name, value in parameters.items() if name != "num_return_sequences"}
    return parameters


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The models' folders."""
    root = tmp_path_factory.mktemp("models")
    return {
        "text-generation": generation_models.decoder(root / "decoder", generation_models.PARTS_CHAT),
        "seq2seq": generation_models.encoder_decoder(root / "encoder_decoder"),
    }


def pair(folder, task):
    """The service and the pipeline of a model."""
    try:
        pipeline = transformers.pipeline(task, model=str(folder), device=-1)
    except KeyError:
        pytest.skip("transformers {} has no {} pipeline".format(transformers.__version__, task))
    return load_model(Settings(model_dir=str(folder), task=task)), pipeline


def answer(service, inputs, parameters):
    """The toolkit's answer."""
    return predict_alone(service, Request(inputs, parameters, []), lambda: None).value


def compare(examples, strategy, check):
    """Run `check` on so many examples."""

    @hypothesis.settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=examples <= 500,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(strategy)
    def run(example):
        check(*example)

    run()


def compare_text_generation(service, pipeline, examples):
    """Prompts and conversations, predict_alone and in lists."""
    size = service.tokenizer

    def check(inputs, parameters, new_tokens):
        is_chat = isinstance(inputs, list) and not isinstance(inputs[0], str)
        parameters = dict(possible(parameters, parameters.get("num_beams", 1)), max_new_tokens=new_tokens)
        differs_in_stops_before_5(parameters)
        if is_chat:
            parameters = {name: value for name, value in parameters.items() if name not in ("prefix",)}
        theirs = differs_in_length(differs_for_long_prompts(differs_in_sampling(parameters)))
        stops = [parameters["stop_sequence"]] if "stop_sequence" in parameters else []
        if stops:
            # Beams that reached a stop sequence are ranked in another order.
            parameters.pop("num_beams", None), theirs.pop("num_beams", None)
            parameters.pop("num_return_sequences", None), theirs.pop("num_return_sequences", None)
        try:
            expected = pipeline(inputs, **theirs)
        except ValueError:
            # Nothing to continue in an empty message.
            with pytest.raises(RequestError):
                answer(service, inputs, parameters)
            return
        if stops:
            prompts = [inputs] if isinstance(inputs, str) or isinstance(inputs[0], dict) else inputs
            results = [expected] if prompts == [inputs] else expected
            for prompt, result in zip(prompts, results):
                for one in result:
                    one["generated_text"] = cut(prompt, one["generated_text"], parameters, stops)
        assert answer(service, inputs, parameters) == expected

    assert size.model_max_length == LIMIT
    inputs = st.one_of(one_or_several(TEXTS), one_or_several(CHATS))
    compare(examples, st.tuples(inputs, GENERATION, NEW_TOKENS), check)


def cut(prompt, value, parameters, stops):
    """The pipeline's answer with its new text cut after a stop sequence."""
    if not parameters.get("return_full_text", True):
        return differs_after_stop(value, stops)
    if isinstance(prompt, str):
        return prompt + differs_after_stop(value[len(prompt) :], stops)
    old = prompt[-1]["content"] if len(value) == len(prompt) else ""
    last = dict(value[-1], content=old + differs_after_stop(value[-1]["content"][len(old) :], stops))
    return [*value[:-1], last]


def compare_seq2seq(service, pipeline, examples):
    """Texts, predict_alone and in lists; the pipeline cuts only if it is asked to."""

    # Without num_beams: four, and one before transformers 4.5x.
    default = getattr(getattr(pipeline, "_default_generation_config", None), "num_beams", None) or 1

    def check(inputs, parameters, new_tokens):
        beams = parameters.get("num_beams", default)
        parameters = dict(possible(parameters, beams), max_new_tokens=new_tokens)
        expected = pipeline(inputs, **dict(parameters, truncation=True))
        assert answer(service, inputs, parameters) == expected

    compare(examples, st.tuples(one_or_several(TEXTS), SEQ2SEQ, NEW_TOKENS), check)


def test_text_generation_equals_the_pipeline(folders):
    """500 requests."""
    service, pipeline = pair(folders["text-generation"], "text-generation")
    compare_text_generation(service, pipeline, EXAMPLES)


@pytest.mark.parametrize("task", ["summarization", "text2text-generation", "translation_en_to_fr"])
def test_seq2seq_equals_the_pipeline(folders, task):
    """500 requests."""
    service, pipeline = pair(folders["seq2seq"], task)
    compare_seq2seq(service, pipeline, EXAMPLES)


@pytest.mark.slow
def test_text_generation_equals_the_pipeline_often(folders):
    """5,000 requests."""
    service, pipeline = pair(folders["text-generation"], "text-generation")
    compare_text_generation(service, pipeline, 10 * EXAMPLES)


@pytest.mark.slow
@pytest.mark.parametrize("task", ["summarization", "text2text-generation", "translation_en_to_fr"])
def test_seq2seq_equals_the_pipeline_often(folders, task):
    """5,000 requests."""
    service, pipeline = pair(folders["seq2seq"], task)
    compare_seq2seq(service, pipeline, 10 * EXAMPLES)


def test_space_after_the_prompt_is_kept(model_folder):
    """transformers 5 decodes new tokens alone: with WordPiece and SentencePiece, the space before them is lost.

    The toolkit decodes them behind the prompt, as transformers 4 did.
    """
    service, pipeline = pair(model_folder("text-generation"), "text-generation")
    parameters = {"max_new_tokens": 4, "do_sample": False}
    (theirs,) = pipeline("i like you", **parameters)
    (ours,) = answer(service, "i like you", parameters)
    assert ours["generated_text"].replace(" ", "") == theirs["generated_text"].replace(" ", "")
