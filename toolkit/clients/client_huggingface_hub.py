"""huggingface_hub.InferenceClient with the server's address as its model, at / and at /invocations."""

import json
import warnings

import huggingface_hub
import numpy
from checks import MEDIA, answers_or_refuses, check, error_of, main

MAJOR = int(huggingface_hub.__version__.split(".")[0])
BOTH = ("/", "/invocations")
TEXT = "I like you"
IMAGE, SOUND = MEDIA / "image.png", MEDIA / "sound.wav"


def client(url):
    return huggingface_hub.InferenceClient(url)


def scores(labels):
    """Of a list of labels, or of one."""
    labels = labels if isinstance(labels, list) else [labels]
    return [label.score for label in sorted(labels, key=lambda label: label.label)]


@check(
    "text-classification",
    unsupported={
        "/invocations": "the client reads a list in a list; /invocations answers the documented list"
    },
    routes=BOTH,
)
def text_classification(url):
    labels = client(url).text_classification(TEXT)
    assert isinstance(labels, list), f"not a list: {labels!r}"
    assert labels[0].label in ("NEGATIVE", "POSITIVE")
    assert 0 < labels[0].score <= 1


@check(
    "text-classification",
    unsupported={
        "/invocations": "the client reads a list in a list; /invocations answers the documented list"
    },
    routes=BOTH,
)
def text_classification_with_parameters(url):
    labels = client(url).text_classification(TEXT, top_k=2, function_to_apply="softmax")
    assert {label.label for label in labels} == {"NEGATIVE", "POSITIVE"}
    assert abs(sum(label.score for label in labels) - 1) < 1e-4


@check("text-classification", routes=BOTH)
def base_url_is_the_same_as_model(url):
    answer = huggingface_hub.InferenceClient(base_url=url).text_classification(TEXT)
    assert answer == client(url).text_classification(TEXT)


@check("text-classification", routes=BOTH)
def asynchronous_client(url):
    import asyncio

    async def classify():
        made = huggingface_hub.AsyncInferenceClient(url)
        try:
            return await asyncio.gather(*(made.text_classification(TEXT) for _ in range(8)))
        finally:
            if hasattr(made, "close"):
                await made.close()

    expected = client(url).text_classification(TEXT)
    for answer in asyncio.run(classify()):
        assert numpy.allclose(scores(answer), scores(expected), atol=1e-4)


@check("text-classification", routes=BOTH)
def an_error_has_the_message_of_the_server(url):
    error = error_of(lambda: client(url).text_classification(TEXT, top_k="many"))
    assert error.response.status_code == 400
    assert "top_k" in error.response.text


@check("token-classification", routes=BOTH)
def token_classification(url):
    text = "my name is sylvain and i work at hugging face in brooklyn"
    for entity in client(url).token_classification(text):
        assert entity.entity
        assert text[entity.start : entity.end] == entity.word


@check("token-classification", routes=BOTH)
def token_classification_with_parameters(url):
    text = "my name is sylvain and i work at hugging face in brooklyn"
    entities = client(url).token_classification(
        text, aggregation_strategy="simple", ignore_labels=["O", "PER"], stride=2
    )
    assert all(entity.entity_group == "LOC" for entity in entities)


@check("fill-mask", routes=BOTH)
def fill_mask(url):
    words = client(url).fill_mask("i like [MASK]", top_k=3)
    assert len(words) == 3
    assert words[0].sequence.startswith("i like")
    assert words[0].token_str


@check("fill-mask", routes=BOTH)
def fill_mask_with_targets(url):
    words = client(url).fill_mask("i like [MASK]", targets=["paris", "berlin"])
    assert {word.token_str for word in words} == {"paris", "berlin"}


@check("feature-extraction", routes=BOTH)
def feature_extraction(url):
    array = client(url).feature_extraction(TEXT)
    assert isinstance(array, numpy.ndarray)
    assert array.shape == (1, 5, 32)


@check("feature-extraction", routes=BOTH)
def feature_extraction_with_parameters(url):
    for name, value in (("normalize", True), ("truncate", True), ("prompt_name", "query")):
        answers_or_refuses(lambda given={name: value}: client(url).feature_extraction(TEXT, **given), name)


@check("feature-extraction", "the server answers a vector for each token, not for a text", routes=BOTH)
def sentence_similarity(url):
    assert len(client(url).sentence_similarity(TEXT, other_sentences=[TEXT, "paris"])) == 2


@check("sentence-embeddings", routes=BOTH)
def feature_extraction_of_sentences(url):
    array = client(url).feature_extraction(TEXT)
    assert isinstance(array, numpy.ndarray)
    assert array.shape == (32,)
    several = client(url).feature_extraction([TEXT, "paris"])
    assert several.shape == (2, 32)
    assert numpy.allclose(several[0], array, atol=1e-5)


@check("sentence-embeddings", routes=BOTH)
def feature_extraction_of_sentences_with_parameters(url):
    """The client writes them beside the inputs."""
    plain = client(url).feature_extraction("what is paris")
    given = {"prompt_name": "query", "normalize": True, "truncate": True, "truncation_direction": "right"}
    assert numpy.allclose(client(url).feature_extraction("paris", **given), plain, atol=1e-5)
    raw = client(url).feature_extraction("paris", normalize=False)
    assert abs(numpy.linalg.norm(raw) - 1) > 1e-3
    error = error_of(lambda: client(url).feature_extraction("paris", prompt_name="title"))
    assert "prompt_name" in error.response.text


@check("sentence-embeddings", routes=BOTH)
def similarity_of_sentences(url):
    scores = client(url).sentence_similarity(TEXT, other_sentences=[TEXT, "paris"])
    assert len(scores) == 2
    assert abs(scores[0] - 1) < 1e-5 > scores[1] - 1


@check("sentence-similarity", routes=BOTH)
def similarity_by_its_own_task(url):
    scores = client(url).sentence_similarity(TEXT, other_sentences=[TEXT, "paris"])
    assert len(scores) == 2
    assert abs(scores[0] - 1) < 1e-5


@check("question-answering", routes=BOTH)
def question_answering(url):
    context = "my name is philipp and i live in nuremberg"
    answer = client(url).question_answering(question="what is my name", context=context)
    assert context[answer.start : answer.end] == answer.answer


@check("question-answering", routes=BOTH)
def question_answering_with_parameters(url):
    answers = client(url).question_answering(
        question="what is my name",
        context="my name is philipp and i live in nuremberg",
        top_k=2,
        max_answer_len=3,
        max_seq_len=64,
        max_question_len=16,
        doc_stride=8,
        handle_impossible_answer=False,
        align_to_words=True,
    )
    assert len(answers) == 2


@check("table-question-answering", routes=BOTH)
def table_question_answering(url):
    table = {"repository": ["Transformers", "Datasets"], "stars": ["36542", "4512"]}
    answer = client(url).table_question_answering(table, "how many stars does the repository have")
    assert isinstance(answer.answer, str)
    assert all(len(place) == 2 for place in answer.coordinates)


@check("table-question-answering", routes=BOTH)
def table_question_answering_with_parameters(url):
    table = {"repository": ["Transformers", "Datasets"], "stars": ["36542", "4512"]}
    for name, value in (("padding", "longest"), ("sequential", False), ("truncation", True)):
        answers_or_refuses(
            lambda given={name: value}: client(url).table_question_answering(table, "how many", **given), name
        )


ZERO_SHOT_SHAPES = (
    {"/invocations": "the client reads a list; /invocations answers the documented object"}
    if MAJOR >= 1
    else {"/": "this release of the client reads the object, which /invocations answers"}
)


@check("zero-shot-classification", unsupported=ZERO_SHOT_SHAPES, routes=BOTH)
def zero_shot_classification(url):
    labels = client(url).zero_shot_classification(TEXT, ["refund", "legal", "faq"])
    assert {label.label for label in labels} == {"refund", "legal", "faq"}
    assert [label.score for label in labels] == sorted(scores(labels), reverse=True)
    assert abs(sum(scores(labels)) - 1) < 1e-4


@check("zero-shot-classification", unsupported=ZERO_SHOT_SHAPES, routes=BOTH)
def zero_shot_classification_with_parameters(url):
    labels = client(url).zero_shot_classification(
        TEXT, ["refund", "legal"], multi_label=True, hypothesis_template="this is {}"
    )
    assert len(labels) == 2


@check("summarization", routes=BOTH)
def summarization(url):
    assert isinstance(client(url).summarization(TEXT).summary_text, str)


@check("summarization", routes=BOTH)
def summarization_with_parameters(url):
    answer = client(url).summarization(TEXT, clean_up_tokenization_spaces=True, truncation="longest_first")
    assert isinstance(answer.summary_text, str)
    answers_or_refuses(
        lambda: client(url).summarization(TEXT, generate_parameters={"max_new_tokens": 3}),
        "generate_parameters",
    )


@check("translation_en_to_fr", routes=BOTH)
def translation(url):
    assert isinstance(client(url).translation(TEXT).translation_text, str)


@check("translation_en_to_fr", routes=BOTH)
def translation_with_parameters(url):
    answer = client(url).translation(TEXT, clean_up_tokenization_spaces=True, truncation="only_first")
    assert isinstance(answer.translation_text, str)
    # This model knows no languages; the message names the one that was requested.
    answers_or_refuses(lambda: client(url).translation(TEXT, src_lang="en", tgt_lang="fr"), "fr")


@check("text-generation", routes=BOTH)
def text_generation(url):
    text = client(url).text_generation(TEXT, max_new_tokens=5)
    assert isinstance(text, str)
    new = client(url).text_generation(TEXT, max_new_tokens=5, return_full_text=False)
    assert client(url).text_generation(TEXT, max_new_tokens=5, return_full_text=True).endswith(new)


@check("text-generation", routes=BOTH)
def text_generation_stream(url):
    made = client(url)  # a client that is collected closes its streams
    tokens = list(made.text_generation(TEXT, max_new_tokens=5, stream=True))
    whole = made.text_generation(TEXT, max_new_tokens=5, return_full_text=False)
    assert 1 <= len(tokens) <= 5
    assert "".join(tokens).strip() == whole.strip()


@check("text-generation", routes=BOTH)
def text_generation_stream_with_details(url):
    made = client(url)
    events = list(made.text_generation(TEXT, max_new_tokens=5, stream=True, details=True))
    assert all(isinstance(event.token.id, int) for event in events)
    assert events[-1].generated_text is not None
    assert all(event.generated_text is None for event in events[:-1])
    assert events[-1].details.generated_tokens == len(events)
    assert events[-1].details.finish_reason == "length"


@check("text-generation", routes=BOTH)
def text_generation_with_details(url):
    answer = answers_or_refuses(
        lambda: client(url).text_generation(TEXT, max_new_tokens=5, details=True), "details"
    )
    if answer is not None:
        assert answer.details.generated_tokens == 5
        assert answer.details.finish_reason == "length"
        assert len(answer.details.tokens) == 5


@check("text-generation", routes=BOTH)
def text_generation_stops_at_a_sequence(url):
    whole = client(url).text_generation(TEXT, max_new_tokens=8, return_full_text=False)
    stop = whole[len(whole) // 2 :][:2]
    text = client(url).text_generation(TEXT, max_new_tokens=8, return_full_text=False, stop=[stop])
    assert whole.startswith(text)
    assert stop not in text or text.rstrip().endswith(stop)
    assert len(text) < len(whole)


@check("text-generation", routes=BOTH)
def text_generation_with_parameters(url):
    given = {"max_new_tokens": 5, "do_sample": True, "temperature": 0.7, "top_k": 5, "top_p": 0.9}
    given.update(typical_p=0.95, repetition_penalty=1.1, seed=7)
    texts = {client(url).text_generation(TEXT, **given) for _ in range(3)}
    assert len(texts) == 1, "the same seed gave different texts"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, value in (
            ("truncate", 4),
            ("watermark", True),
            ("best_of", 2),
            ("top_n_tokens", 2),
            ("frequency_penalty", 0.5),
            ("grammar", {"type": "regex", "value": "a+"}),
            ("adapter_id", "someone/adapter"),
        ):
            answers_or_refuses(
                lambda given={name: value}: client(url).text_generation(TEXT, max_new_tokens=3, **given), name
            )


@check("text-generation", routes=BOTH)
def text_generation_accepts_parameters_that_change_nothing(url):
    given = {"stop": [], "watermark": False, "best_of": 1, "details": False, "decoder_input_details": False}
    text = client(url).text_generation(TEXT, max_new_tokens=5, **given)
    assert text == client(url).text_generation(TEXT, max_new_tokens=5)


@check("text-generation", routes=BOTH)
def an_error_of_text_generation_has_the_message_of_the_server(url):
    error = error_of(lambda: client(url).text_generation(TEXT, max_new_tokens=-1))
    assert "max_new_tokens" in str(error) + error.response.text


MESSAGES = [{"role": "user", "content": TEXT}]
SCHEMA = {
    "type": "object",
    "properties": {"age": {"type": "integer"}},
    "required": ["age"],
    "additionalProperties": False,
}
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "weather",
        "parameters": {
            "type": "object",
            "properties": {"place": {"enum": ["paris"]}},
            "required": ["place"],
            "additionalProperties": False,
        },
    },
}
# The client appends /v1/chat/completions to an address.
CHAT = ("", "/v1")


def chat(url, **given):
    given = dict({"max_tokens": 8, "temperature": 0}, **given)
    return huggingface_hub.InferenceClient(base_url=url).chat_completion(MESSAGES, **given)


def needs_grammar(call):
    """A grammar is followed, or refused by the name of the package that the server lacks."""
    try:
        return call()
    except Exception as error:
        assert "llguidance" in str(error) + error.response.text, str(error)
        return None


@check("text-generation", routes=CHAT)
def chat_completion(url):
    answer = chat(url)
    assert isinstance(answer.choices[0].message.content, str)
    assert answer.usage.completion_tokens == 8
    made = huggingface_hub.InferenceClient(url)
    again = made.chat_completion(MESSAGES, max_tokens=8, temperature=0)
    assert again.choices[0].message.content == answer.choices[0].message.content


@check("text-generation", routes=CHAT)
def chat_completion_stream(url):
    made = huggingface_hub.InferenceClient(base_url=url)
    chunks = list(
        made.chat_completion(
            MESSAGES, max_tokens=8, temperature=0, stream=True, stream_options={"include_usage": True}
        )
    )
    text = "".join(one.choices[0].delta.content or "" for one in chunks if one.choices)
    assert text == chat(url).choices[0].message.content
    assert chunks[-1].usage.completion_tokens == 8


@check("text-generation", routes=CHAT)
def chat_completion_with_parameters(url):
    answer = chat(
        url,
        n=2,
        seed=3,
        stop=["###"],
        temperature=1.2,
        top_p=0.9,
        frequency_penalty=0.5,
        presence_penalty=0.5,
        logprobs=True,
        top_logprobs=2,
    )
    assert len(answer.choices) == 2
    assert len(answer.choices[0].logprobs.content[0].top_logprobs) == 2


@check("text-generation", routes=CHAT)
def chat_completion_with_a_schema(url):
    """In the form of the hub's own API, which has `value`, and in OpenAI's."""
    for given in (
        {"type": "json_object", "value": SCHEMA},
        {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}},
    ):
        answer = needs_grammar(lambda given=given: chat(url, response_format=given, max_tokens=100))
        if answer is not None:
            assert set(json.loads(answer.choices[0].message.content)) == {"age"}


@check("text-generation", routes=CHAT)
def chat_completion_with_tools(url):
    assert chat(url, tools=[TOOL], tool_choice="auto").choices
    answer = needs_grammar(lambda: chat(url, tools=[TOOL], tool_choice="required", max_tokens=100))
    if answer is not None and answer.choices[0].finish_reason == "tool_calls":
        assert answer.choices[0].message.tool_calls[0].function.name == "get_weather"


@check("text-generation", routes=CHAT)
def an_error_of_chat_completion_has_the_message_of_the_server(url):
    error = error_of(lambda: chat(url, n=1000))
    assert "parameter 'n'" in str(error) + error.response.text


@check("image-classification", routes=BOTH)
def image_classification(url):
    forms = (str(IMAGE), IMAGE, IMAGE.read_bytes())
    answers = [client(url).image_classification(form) for form in forms]
    assert {label.label for label in answers[0]} == {"cat", "dog", "eel"}
    assert all(answer == answers[0] for answer in answers)


@check("image-classification", routes=BOTH)
def image_classification_with_parameters(url):
    labels = client(url).image_classification(IMAGE, top_k=1, function_to_apply="softmax")
    assert len(labels) == 1


@check("object-detection", routes=BOTH)
def object_detection(url):
    assert isinstance(client(url).object_detection(IMAGE), list)
    found = client(url).object_detection(IMAGE, threshold=0.0)
    assert {one.label for one in found} <= {"cat", "dog"}
    assert all(isinstance(one.box.xmin, int) for one in found)


@check("image-segmentation", routes=BOTH)
def image_segmentation(url):
    segments = client(url).image_segmentation(IMAGE)
    assert segments
    assert all(segment.mask.size == (40, 40) for segment in segments)


@check("image-segmentation", routes=BOTH)
def image_segmentation_with_parameters(url):
    assert client(url).image_segmentation(IMAGE, subtask="semantic")


@check("zero-shot-image-classification", routes=BOTH)
def zero_shot_image_classification(url):
    labels = client(url).zero_shot_image_classification(IMAGE, ["paris", "berlin"])
    assert {label.label for label in labels} == {"paris", "berlin"}
    assert client(url).zero_shot_image_classification(
        IMAGE, ["paris", "berlin"], hypothesis_template="this is {}"
    )


@check("document-question-answering", routes=BOTH)
def document_question_answering(url):
    boxes = [["sylvain", [0, 0, 500, 100]], ["brooklyn", [0, 200, 500, 300]]]
    answers = client(url).document_question_answering(IMAGE, "what is my name", word_boxes=boxes)
    assert answers[0].answer


@check("automatic-speech-recognition", routes=BOTH)
def automatic_speech_recognition(url):
    forms = (str(SOUND), SOUND, SOUND.read_bytes())
    answers = [client(url).automatic_speech_recognition(form) for form in forms]
    assert isinstance(answers[0].text, str)
    assert all(answer == answers[0] for answer in answers)


@check("automatic-speech-recognition", routes=BOTH)
def automatic_speech_recognition_with_parameters(url):
    answer = client(url).automatic_speech_recognition(SOUND, extra_body={"return_timestamps": "word"})
    assert answer.chunks is not None


@check("audio-classification", routes=BOTH)
def audio_classification(url):
    labels = client(url).audio_classification(SOUND)
    assert {label.label for label in labels} == {"yes", "no"}
    assert len(client(url).audio_classification(SOUND, top_k=1, function_to_apply="softmax")) == 1
    assert client(url).audio_classification(SOUND.read_bytes()) == labels


if __name__ == "__main__":
    main()
