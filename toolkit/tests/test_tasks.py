"""The twelve tasks, on small models, with the reference document's own requests."""

import json
import math
from pathlib import Path

import pytest
import serving
import tiny

from hf_inference_toolkit.content import codecs
from hf_inference_toolkit.content.payload import Request
from hf_inference_toolkit.errors import RequestError, StartError
from hf_inference_toolkit.loading.loader import load_model
from hf_inference_toolkit.settings import Settings
from hf_inference_toolkit.tasks.service import predict_alone
from hf_inference_toolkit.tasks.translation import Translation

# The reference document's requests, byte for byte; the second name is the file's.
DOCUMENTED = {
    "text-classification": "text-classification",
    "sentiment-analysis": "sentiment-analysis",
    "token-classification": "token-classification",
    "question-answering": "question-answering",
    "zero-shot-classification": "zero-shot-classification",
    "table-question-answering": "table-question-answering",
    "summarization": "parameterized-request",
    "translation_en_to_fr": "parameterized-request",
    "text2text-generation": "parameterized-request",
    "text-generation": "parameterized-request",
}
REQUESTS = Path(__file__).parent / "requests"


def skip_unless_possible(task):
    """Say why a release cannot do a task, instead of failing."""
    if tiny.FRAMEWORK == "tf" and task in ("sentence-embeddings", "sentence-similarity"):
        pytest.skip("sentence-embeddings needs PyTorch")
    if task == "table-question-answering":
        pytest.importorskip("pandas", reason="table-question-answering needs pandas")
        if tiny.FRAMEWORK == "tf":
            pytest.skip("table-question-answering needs tensorflow-probability on TensorFlow")
        import transformers

        if transformers.__version__ < "4.20" and not transformers.file_utils.is_scatter_available():
            pytest.skip("table-question-answering needs torch-scatter on this release")


def has_fast_tokenizers():
    """Whether the release loads a tokenizer.json without a class of its own."""
    import transformers

    return tuple(int(part) for part in transformers.__version__.split(".")[:2]) >= (4, 30)


@pytest.fixture
def served(model_folder, request):
    """A task's server."""
    task = request.param
    skip_unless_possible(task)
    with serving.serve(load_model, model_dir=str(model_folder(task)), task=task) as server:
        assert server.get("/ping").status == 200
        yield task, server


@pytest.mark.parametrize("served", list(tiny.MAKERS), indirect=True)
def test_task_answers_its_documented_request(served):
    """Every request of the document is answered with 200, as it stands; so is the example of /openapi.json."""
    task, server = served
    if task in DOCUMENTED:
        body = (REQUESTS / (DOCUMENTED[task] + ".json")).read_bytes()
        reply = server.post(body)
        assert reply.status == 200, reply.body
        assert ("x-warning" in reply.headers) == (b"paramters" in body)
    document = server.get("/openapi.json").json
    examples = document["paths"]["/invocations"]["post"]["requestBody"]["content"]["application/json"][
        "examples"
    ]
    for example in examples.values():
        assert server.post(example["value"]).status == 200
        several = server.post(dict(example["value"], inputs=[example["value"]["inputs"]] * 2))
        assert several.status == 200
        assert len(several.json) == 2


@pytest.mark.parametrize("served", ["zero-shot-classification"], indirect=True)
def test_zero_shot_answers_the_hub_client_with_a_list(served):
    """At POST / alone; /invocations keeps the documented object."""
    _, server = served
    request = {"inputs": "a", "parameters": {"candidate_labels": ["x", "y"]}}
    documented = server.post(request).json
    pairs = [{"label": a, "score": b} for a, b in zip(documented["labels"], documented["scores"])]
    assert server.post(request, path="/").json == pairs
    several = server.post(dict(request, inputs=["a", "a"]), path="/").json
    assert [[sorted(pair) for pair in one] for one in several] == [[["label", "score"]] * 2] * 2


@pytest.mark.parametrize("served", ["text-classification"], indirect=True)
def test_classification_answers_the_hub_client_with_a_list_for_each_text(served):
    """Which InferenceClient.text_classification reads; /invocations keeps the documented list."""
    _, server = served
    for parameters in ({}, {"top_k": 2}, {"return_all_scores": True}):
        request = {"inputs": "a", "parameters": parameters}
        documented = server.post(request).json
        labels = documented[0] if isinstance(documented[0], list) else documented
        assert server.post(request, path="/").json == [labels]
        several = server.post(dict(request, inputs=["a", "a"]), path="/").json
        assert [[set(label) for label in one] for one in several] == [[{"label", "score"}] * len(labels)] * 2


@pytest.mark.parametrize("served", ["text-classification"], indirect=True)
def test_classification_gives_as_many_labels_as_asked_for(served):
    """top_k, its null, and the older return_all_scores; pairs of texts."""
    _, server = served
    one = server.post({"inputs": "I like you"}).json
    assert len(one) == 1
    both = server.post({"inputs": "I like you", "parameters": {"top_k": None}}).json
    assert both[0]["label"] == one[0]["label"]
    assert math.isclose(sum(label["score"] for label in both), 1.0, rel_tol=1e-6)
    older = server.post({"inputs": ["I like you"], "parameters": {"return_all_scores": True}}).json
    assert [label["label"] for label in older[0]] == ["NEGATIVE", "POSITIVE"]
    assert server.post({"inputs": {"text": "I like you", "text_pair": "you"}}).status == 200
    raw = server.post({"inputs": "I like you", "parameters": {"function_to_apply": "none", "top_k": 2}}).json
    assert not math.isclose(sum(label["score"] for label in raw), 1.0, rel_tol=1e-3)


@pytest.mark.parametrize(
    "served",
    ["text-classification", "feature-extraction", "fill-mask", "text-generation"],
    indirect=True,
)
def test_long_inputs_are_cut_and_the_answer_says_so(served):
    """Longer than the model takes: cut, with a header; `truncation: false` makes it a 422."""
    task, server = served
    text = "[MASK] " + "I like you " * 200
    more = {"max_new_tokens": 4} if task == "text-generation" else {}
    cut = server.post({"inputs": text, "parameters": more})
    assert cut.status == 200
    assert cut.headers["x-inputs-truncated"] == "true"
    assert "x-inputs-truncated" not in server.post({"inputs": "I like [MASK]", "parameters": more}).headers
    refused = server.post({"inputs": text, "parameters": dict(more, truncation=False)})
    assert refused.status == 422
    assert "tokens" in refused.json["error"]["message"]


@pytest.mark.parametrize("served", ["text-generation"], indirect=True)
def test_generation_takes_its_parameters(served):
    """New text only, several texts, a stop word; wrong values are refused with their range."""
    _, server = served
    full = server.post({"inputs": "I like you", "parameters": {"max_new_tokens": 3}}).json
    assert full[0]["generated_text"].startswith("I like you")
    new = server.post(
        {"inputs": "I like you", "parameters": {"max_new_tokens": 3, "return_full_text": False}}
    ).json
    assert full[0]["generated_text"] == "I like you" + new[0]["generated_text"]
    many = {"max_new_tokens": 3, "num_return_sequences": 2, "num_beams": 2}
    assert len(server.post({"inputs": "I like you", "parameters": many}).json) == 2
    refused = server.post({"inputs": "I", "parameters": {"num_beams": 1000000}})
    assert refused.status == 400
    assert "from 1 to 64" in refused.json["error"]["message"]
    unknown = server.post({"inputs": "I", "parameters": {"temprature": 1.0}})
    assert "did you mean 'temperature'" in unknown.json["error"]["message"]


@pytest.mark.parametrize("served", ["token-classification"], indirect=True)
def test_entities_are_grouped_by_every_strategy(served):
    """Groups have entity_group and words of the text; offsets point at them."""
    _, server = served
    text = "My name is Sylvain and I work at Hugging Face in Brooklyn."
    for strategy in ("simple", "first", "average", "max"):
        parameters = {"aggregation_strategy": strategy, "ignore_labels": ["none"]}
        groups = server.post({"inputs": text, "parameters": parameters}).json
        assert groups
        assert all(set(group) == {"entity_group", "score", "word", "start", "end"} for group in groups)
        assert groups[0]["start"] == 0
        assert groups[-1]["end"] == len(text)


@pytest.mark.parametrize("served", ["token-classification"], indirect=True)
def test_long_text_is_labelled_to_its_end(served):
    """Every token is there once, whatever the parts share; entities do not overlap; `truncation` is as elsewhere."""
    _, server = served
    words = ["I", "like", "Paris"] * 150
    text = " ".join(words)
    for stride in ({}, {"stride": 0}, {"stride": 7}, {"stride": 125}):
        every = dict(stride, ignore_labels=[])
        reply = server.post({"inputs": text, "parameters": every})
        assert reply.status == 200, reply.body
        assert "x-inputs-truncated" not in reply.headers
        assert [one["word"] for one in reply.json] == [word.lower() for word in words]
        assert [one["index"] for one in reply.json] == list(range(1, len(words) + 1))
        assert [text[one["start"] : one["end"]] for one in reply.json] == words
        groups = server.post({"inputs": text, "parameters": dict(every, aggregation_strategy="first")}).json
        assert groups[0]["start"] == 0
        assert groups[-1]["end"] == len(text)
        assert all(one["end"] <= other["start"] for one, other in zip(groups, groups[1:]))
    cut = server.post({"inputs": text, "parameters": {"truncation": True, "ignore_labels": []}})
    assert cut.headers["x-inputs-truncated"] == "true"
    assert len(cut.json) == 126
    assert server.post({"inputs": text, "parameters": {"truncation": False}}).status == 422
    refused = server.post({"inputs": text, "parameters": {"stride": 126}})
    assert refused.status == 422
    assert "must be less than 126" in refused.json["error"]["message"]
    many = server.post({"inputs": "a " * 20000, "parameters": {"stride": 125}})
    assert many.status == 422
    assert "windows" in many.json["error"]["message"]


def bert_of_words(folder):
    """Every label begins an entity, so that every word is one."""
    return tiny.save(
        folder, "BertConfig", "BertForTokenClassification", tiny.BERT, **tiny.labels("B-PER", "B-LOC")
    )


def roberta_of_words(folder):
    """The same with tokens of bytes, which do not say where words begin."""
    import transformers

    tokenizer = tiny.byte_tokenizer(128)
    sizes = dict(tiny.BERT, vocab_size=len(tokenizer), max_position_embeddings=130, pad_token_id=1)
    tiny.save(
        folder, "RobertaConfig", "RobertaForTokenClassification", sizes, **tiny.labels("B-PER", "B-LOC")
    )
    for name in ("vocab.txt", "tokenizer_config.json"):
        (folder / name).unlink()
    config = transformers.RobertaConfig.from_pretrained(str(folder))
    config.tokenizer_class = None
    config.save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))
    return folder


@pytest.mark.parametrize("maker", [bert_of_words, roberta_of_words])
@pytest.mark.parametrize("strategy", ["first", "average", "max"])
def test_words_end_at_any_space(maker, strategy, tmp_path):
    """Spaces, line breaks and tabs separate words, and the pieces of a word stay together."""
    if maker is roberta_of_words and not has_fast_tokenizers():
        pytest.skip("this release cannot load a tokenizer of its own kind")
    service = load_model(Settings(model_dir=str(maker(tmp_path / "m")), task="token-classification"))
    for text in (
        "anna smith\nparis\tberlin",
        "anna\u00a0smith\r\n\r\nberlin",
        "stra\u00dfe paris  nuremberg",
    ):
        request = Request(text, {"aggregation_strategy": strategy}, [])
        groups = predict_alone(service, request, lambda: None).value
        words = [text[group["start"] : group["end"]].strip() for group in groups]
        assert [word for word in words if word] == text.split()


@pytest.mark.parametrize("served", ["text-classification"], indirect=True)
def test_pairs_in_a_list_are_read_as_pairs(served):
    """A list of two texts in the list of inputs, with one more list around it, or as an object: the same answer."""
    _, server = served
    parameters = {"function_to_apply": "none"}
    pairs = [["what is this", "a sound track"], ["what is this", "my name"]]
    objects = [{"text": text, "text_pair": pair} for text, pair in pairs]
    expected = server.post({"inputs": objects, "parameters": parameters}).json
    assert expected[0] != expected[1]
    for inputs in (pairs, [[pair] for pair in pairs]):
        reply = server.post({"inputs": inputs, "parameters": parameters})
        assert reply.status == 200, reply.body
        assert_close(reply.json, expected)
    # Two texts are no pair.
    assert_close(
        server.post({"inputs": pairs[0], "parameters": parameters}).json[1]["score"],
        server.post({"inputs": pairs[0][1], "parameters": parameters}).json[0]["score"],
    )
    for wrong in ([["a"]], [["a", "b", "c"]], [["a", 1]], [[]], [["a", "b"], [["a"]]]):
        refused = server.post({"inputs": wrong})
        assert refused.status == 400
        assert "pair of texts" in refused.json["error"]["message"]


@pytest.mark.parametrize("served", ["text-classification"], indirect=True)
def test_options_of_the_tokenizer_are_honoured(served):
    """As the pipeline does: max_length cuts, truncation says which text, padding changes nothing."""
    _, server = served

    def score(inputs, **parameters):
        reply = server.post({"inputs": inputs, "parameters": dict(parameters, function_to_apply="none")})
        assert reply.status == 200, reply.body
        return reply.json[0]["score"], reply.headers.get("x-inputs-truncated")

    whole, cut = "the model is beautiful", "the model"
    assert score(whole, truncation="longest_first", max_length=4) == (
        pytest.approx(score(cut)[0], abs=1e-5),
        "true",
    )
    assert score(whole, max_length=4)[1] == "true"
    assert score(whole, max_length=4, truncation="do_not_truncate")[1] is None
    assert score(whole, max_length=1000000)[1] is None
    assert score(cut, padding="max_length", max_length=20)[0] == pytest.approx(score(cut)[0], abs=1e-5)
    assert score(cut, padding=True, truncation=True)[0] == pytest.approx(score(cut)[0], abs=1e-5)
    pair = {"text": whole, "text_pair": whole}
    first = score({"text": cut, "text_pair": whole})[0]
    assert score(pair, truncation="only_first", max_length=9)[0] == pytest.approx(first, abs=1e-5)
    for parameters, words in (
        ({"truncation": "only_second", "max_length": 4}, "cannot be truncated to 4 tokens"),
        ({"max_length": 2}, "special tokens"),
    ):
        refused = server.post({"inputs": pair, "parameters": parameters})
        assert refused.status == 422
        assert words in refused.json["error"]["message"]
    refused = server.post({"inputs": whole, "parameters": {"truncation": "longest"}})
    assert refused.status == 400
    assert "true, false or one of longest_first" in refused.json["error"]["message"]


@pytest.mark.parametrize("served", ["feature-extraction"], indirect=True)
def test_tokenize_kwargs_are_honoured(served):
    """Cut and filled up to a length: a list of numbers for each token, padding included."""
    _, server = served
    for length in (4, 12):
        parameters = {"tokenize_kwargs": {"max_length": length, "padding": "max_length", "truncation": True}}
        assert len(server.post({"inputs": "I like you , Paris", "parameters": parameters}).json[0]) == length
    refused = server.post({"inputs": "a", "parameters": {"tokenize_kwargs": {"return_tensors": "pt"}}})
    assert refused.status == 400
    assert "return_tensors" in refused.json["error"]["message"]
    plain = server.post({"inputs": "a"}).json
    # InferenceClient.feature_extraction(..., normalize=False, truncate=True)
    assert server.post({"inputs": "a", "parameters": {"normalize": False, "truncate": True}}).json == plain
    refused = server.post({"inputs": "a", "parameters": {"normalize": True}})
    assert refused.status == 400
    assert "'normalize'" in refused.json["error"]["message"]


@pytest.mark.parametrize("task", list(tiny.MAKERS))
def test_null_is_a_parameter_that_is_not_given(task, model_folder):
    """Clients that write all their fields send null for those that were not set."""
    skip_unless_possible(task)
    service = load_model(Settings(model_dir=str(model_folder(task)), task=task))
    known = service.schema()["properties"]["parameters"]["properties"]
    for example in service.examples():
        given = example.get("parameters", {})
        absent = dict.fromkeys(
            name for name in known if name not in given and not known[name].get("nullable")
        )
        assert absent
        body = json.dumps(dict(example, parameters=dict(absent, **given))).encode()
        request = service.read(body, codecs.parse("application/json"), "application/json")
        expected = predict_alone(service, Request(request.inputs, given, []), lambda: None).value
        assert_close(predict_alone(service, request, lambda: None).value, expected)


@pytest.mark.parametrize("pad", [None, 0, 4])
def test_classifier_made_from_a_decoder_takes_lists(pad, tmp_path):
    """Without a padding token in its config, or with another one than the tokenizer's: as if they came one by one."""
    sizes = dict(tiny.GPT2, pad_token_id=pad, initializer_range=0.4)
    folder = tiny.save(
        tmp_path / "m", "GPT2Config", "GPT2ForSequenceClassification", sizes, **tiny.labels("a", "b")
    )
    texts = ["I like you", "the name", "paris"]
    with serving.serve(load_model, model_dir=str(folder), task="text-classification") as server:
        several = server.post({"inputs": texts, "parameters": {"top_k": None}})
        assert several.status == 200, several.body
        for text, answer in zip(texts, several.json):
            assert_close(server.post({"inputs": text, "parameters": {"top_k": None}}).json, answer)


UNUSUAL = [
    "\x00",
    "a\x00b",
    "\U0001f600",
    "\u0645\u0631\u062d\u0628\u0627",
    "\u202ex\u202c",
    "\u200b",
    "\ufeff",
    "e\u0301",
    "\x7f",
]


@pytest.mark.parametrize(
    "task", ["text-classification", "token-classification", "feature-extraction", "zero-shot-classification"]
)
def test_unusual_characters_are_text(task, model_folder):
    """NUL, a lone emoji, right-to-left text and characters without a width are answered, alone and beside others."""
    service = load_model(Settings(model_dir=str(model_folder(task)), task=task))
    # Two labels that the tokenizer does not know would have equal scores, in any order.
    parameters = {"candidate_labels": ["legal", UNUSUAL[2]]} if task == "zero-shot-classification" else {}
    if task == "token-classification":
        parameters = {"ignore_labels": []}
    answers = predict_alone(service, Request(UNUSUAL, parameters, []), lambda: None).value
    assert len(answers) == len(UNUSUAL)
    for text, answer in zip(UNUSUAL, answers):
        single = predict_alone(service, Request(text, parameters, []), lambda: None).value
        assert_close(single[0] if task == "text-classification" else single, answer)
        if task == "token-classification":
            assert all(0 <= one["start"] <= one["end"] <= len(text) for one in answer)


@pytest.mark.parametrize("served", ["question-answering"], indirect=True)
def test_answers_are_found_in_contexts_of_any_length(served):
    """A context of many parts is read whole; offsets are right; parts that cannot overlap so are a 422."""
    _, server = served
    context = "I like you and the name is Sylvain. " * 80
    found = server.post(
        {"inputs": {"question": "what is the name", "context": context}, "parameters": {"top_k": 5}}
    ).json
    assert len(found) == 5
    assert all(context[one["start"] : one["end"]].lower() == one["answer"].lower() for one in found)
    # 4 tokens of the question and 3 special ones leave 9 for the context.
    for doc_stride, status in ((1, 200), (8, 200), (9, 422), (10, 422), (15, 422), (16, 422)):
        parameters = {"max_seq_len": 16, "doc_stride": doc_stride}
        reply = server.post(
            {"inputs": {"question": "what is the name", "context": context[:200]}, "parameters": parameters}
        )
        assert reply.status == status, (doc_stride, reply.body)


@pytest.mark.parametrize(
    ("made_for", "requested"),
    [
        ("text-classification", "fill-mask"),
        ("feature-extraction", "text-classification"),
        ("fill-mask", "token-classification"),
        ("text2text-generation", "question-answering"),
        ("text-classification", "text-generation"),
        ("text-classification", "summarization"),
    ],
)
def test_task_that_does_not_fit_stops_the_start(model_folder, made_for, requested):
    """A head that would be made up, or an architecture without one: refused, with what to set."""
    with pytest.raises(StartError) as refused:
        load_model(Settings(model_dir=str(model_folder(made_for)), task=requested))
    assert "HF_TASK=" + requested in str(refused.value)


def test_unknown_task_names_the_nearest(model_folder):
    """A misspelled task is refused with a suggestion."""
    with pytest.raises(StartError) as refused:
        load_model(Settings(model_dir=str(model_folder("text-classification")), task="text-clasification"))
    assert "did you mean 'text-classification'" in str(refused.value)


@pytest.mark.parametrize(
    ("made_for", "inferred"),
    [
        ("text-classification", "text-classification"),
        ("token-classification", "token-classification"),
        ("fill-mask", "fill-mask"),
        ("question-answering", "question-answering"),
        ("text-generation", "text-generation"),
        ("summarization", "text2text-generation"),
        ("feature-extraction", "feature-extraction"),
    ],
)
def test_task_is_inferred_from_the_architecture(model_folder, made_for, inferred):
    """Without HF_TASK the model's own architecture decides."""
    assert load_model(Settings(model_dir=str(model_folder(made_for)))).task == inferred


PIPELINES = {
    "text-classification": [{"inputs": "I like you"}, {"inputs": ["I like you", "the name"]}],
    "feature-extraction": [{"inputs": "I like you"}],
    "token-classification": [
        {"inputs": "My name is Sylvain and I work in Brooklyn."},
        {"inputs": "My name is Sylvain.", "parameters": {"aggregation_strategy": "simple"}},
        {"inputs": "My name is Sylvain.", "parameters": {"aggregation_strategy": "first"}},
        {"inputs": "My name is Sylvain.", "parameters": {"aggregation_strategy": "average"}},
        {"inputs": "My name is Sylvain.", "parameters": {"aggregation_strategy": "max"}},
    ],
    "fill-mask": [
        {"inputs": "I like [MASK]."},
        {"inputs": "I [MASK] like [MASK]."},
        {"inputs": "I like [MASK].", "parameters": {"targets": ["you", "paris"], "top_k": 2}},
    ],
    "zero-shot-classification": [
        {"inputs": "I like you", "parameters": {"candidate_labels": ["refund", "legal"]}},
        {"inputs": "I like you", "parameters": {"candidate_labels": "refund,legal", "multi_label": True}},
    ],
    "question-answering": [
        {
            "inputs": {
                "question": "What is used?",
                "context": "This model is used with sagemaker for inference.",
            }
        },
        {
            "inputs": {
                "question": "What is used?",
                "context": "This model is used with sagemaker for inference.",
            },
            "parameters": {"top_k": 3},
        },
    ],
    "summarization": [{"inputs": "I like you", "parameters": {"max_new_tokens": 9}}],
    "translation_en_to_fr": [{"inputs": "I like you", "parameters": {"max_new_tokens": 9}}],
    "text2text-generation": [{"inputs": "I like you", "parameters": {"max_new_tokens": 9, "num_beams": 3}}],
    # transformers 5 samples by default; the toolkit is greedy on every release.
    "text-generation": [{"inputs": "I like you", "parameters": {"max_new_tokens": 9, "do_sample": False}}],
}


# Releases of 2025 fail without torch if the precision is not given.
WITHOUT_TORCH = {"dtype": None} if tiny.FRAMEWORK == "tf" else {}


@pytest.mark.parametrize("task", list(PIPELINES))
def test_answers_are_those_of_the_pipeline(model_folder, task):
    """Where the installed release has the pipeline, ours gives the same values in the same form."""
    import transformers

    version = tuple(int(part) for part in transformers.__version__.split(".")[:2])
    if version < (4, 40):
        pytest.skip("this release has another form of answers than those from 4.40 on")
    try:
        pipeline = transformers.pipeline(task, model=str(model_folder(task)), **WITHOUT_TORCH)
    except KeyError:
        pytest.skip("transformers {} has no {} pipeline".format(transformers.__version__, task))
    with serving.serve(load_model, model_dir=str(model_folder(task)), task=task) as server:
        for request in PIPELINES[task]:
            parameters = request.get("parameters", {})
            inputs = request["inputs"]
            theirs = (
                pipeline(**dict(inputs, **parameters))
                if isinstance(inputs, dict)
                else pipeline(inputs, **parameters)
            )
            assert_close(
                server.post(request).json, json.loads(json.dumps(theirs, default=lambda x: x.item()))
            )


def assert_close(ours, theirs):
    """Equal values; floats within the noise of float32."""
    if isinstance(theirs, dict):
        assert set(ours) == set(theirs)
        for key in theirs:
            assert_close(ours[key], theirs[key])
    elif isinstance(theirs, list):
        assert len(ours) == len(theirs)
        for our, their in zip(ours, theirs):
            assert_close(our, their)
    elif isinstance(theirs, float):
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-5)
    else:
        assert ours == theirs


def test_language_of_a_request_is_not_that_of_the_next_one(model_folder):
    """Tokenizers of many languages keep the one that was set last."""
    loaded = load_model(
        Settings(model_dir=str(model_folder("translation_en_to_fr")), task="translation", runtime="torch")
    )
    loaded.tokenizer.add_tokens(["eng_Latn", "deu_Latn"])
    loaded.tokenizer.src_lang = "eng_Latn"
    service = Translation(loaded.task_name, loaded.runtime, loaded.tokenizer, {})
    languages = []
    # NLLB's tokenizer takes any code, and reads an unknown one as <unk>.
    with pytest.raises(RequestError, match="the model does not know the language 'deu'"):
        service.encode("I like you", service.read_options({"src_lang": "deu"}))
    for given in ({}, {"src_lang": "deu_Latn"}, {}, {"src_lang": ""}):
        service.encode("I like you", service.read_options(given))
        languages.append(service.tokenizer.src_lang)
    assert languages == ["eng_Latn", "deu_Latn", "eng_Latn", "eng_Latn"]
