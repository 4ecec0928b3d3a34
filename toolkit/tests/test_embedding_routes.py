"""/v1/embeddings, the routes of text-embeddings-inference, and what huggingface_hub sends."""

import base64
import json
import threading

import numpy
import pytest
import serving
import tiny

from hf_inference_toolkit import limits
from hf_inference_toolkit.loading.loader import load_model

pytest.importorskip("torch", reason="sentence-embeddings needs PyTorch")
EMBEDDINGS = "/v1/embeddings"
TEXTS = ["I like you", "what is this"]
QUERY = {"query": "what is this", "texts": ["the model", "paris", "my name is sylvain"]}
COMPARED = {"source_sentence": "I like you", "sentences": ["i like you", "paris"]}


@pytest.fixture(scope="module")
def embedder(tmp_path_factory):
    """Vectors of the length 1, with prompts."""
    folder = tiny.embedder(tmp_path_factory.mktemp("embedder"))
    with serving.serve(load_model, model_dir=str(folder), model_id="someone/embedder") as server:
        yield server


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """An encoder without modules.json: vectors of any length."""
    folder = tiny.encoder(tmp_path_factory.mktemp("plain"))
    with serving.serve(load_model, model_dir=str(folder), task="sentence-embeddings") as server:
        yield server


@pytest.fixture(scope="module")
def ranker(tmp_path_factory):
    folder = tiny.ranker(tmp_path_factory.mktemp("ranker"))
    with serving.serve(load_model, model_dir=str(folder), task="text-ranking") as server:
        yield server


def ok(server, body, path="/invocations"):
    reply = server.post(body, path=path)
    assert reply.status == 200, reply.body
    return reply.json


def refused(server, body, path=EMBEDDINGS, status=400):
    """The error; the server still answers."""
    reply = server.post(body, path=path)
    assert reply.status == status, reply.body
    assert server.get("/ping").status == 200
    return reply.json


def vectors(answer):
    return [one["embedding"] for one in answer["data"]]


def test_embeddings_have_the_form_of_openai(embedder):
    answer = ok(embedder, {"model": "any", "input": TEXTS, "user": "me"}, EMBEDDINGS)
    assert answer["object"] == "list"
    assert answer["model"] == "someone/embedder"
    assert [(one["object"], one["index"]) for one in answer["data"]] == [("embedding", 0), ("embedding", 1)]
    # [CLS] and [SEP] are tokens, too.
    assert answer["usage"] == {"prompt_tokens": 10, "total_tokens": 10}
    expected = ok(embedder, {"inputs": TEXTS})
    assert numpy.allclose(vectors(answer), expected, atol=1e-6)
    one = ok(embedder, {"input": TEXTS[0]}, EMBEDDINGS)
    assert numpy.allclose(vectors(one), expected[:1], atol=1e-6)


def test_embeddings_in_base64_are_little_endian_floats(embedder):
    body = {"input": TEXTS, "encoding_format": "base64"}
    found = [
        numpy.frombuffer(base64.b64decode(one), dtype="<f4")
        for one in vectors(ok(embedder, body, EMBEDDINGS))
    ]
    assert numpy.allclose(found, ok(embedder, {"inputs": TEXTS}), atol=1e-6)


def test_embeddings_of_fewer_dimensions_have_the_length_1(embedder, plain):
    """Where the model's vectors have it; otherwise they are only cut."""
    whole = numpy.array(ok(embedder, {"inputs": TEXTS[0]}))
    (short,) = vectors(ok(embedder, {"input": TEXTS[0], "dimensions": 4}, EMBEDDINGS))
    assert numpy.allclose(short, whole[:4] / numpy.linalg.norm(whole[:4]), atol=1e-6)
    (short,) = vectors(ok(plain, {"input": TEXTS[0], "dimensions": 4}, EMBEDDINGS))
    assert numpy.allclose(short, ok(plain, {"inputs": TEXTS[0]})[:4], atol=1e-6)


def test_embeddings_of_token_ids(plain):
    tokens = ok(plain, {"inputs": TEXTS}, "/tokenize")
    ids = [[token["id"] for token in text] for text in tokens]
    expected = vectors(ok(plain, {"input": TEXTS}, EMBEDDINGS))
    assert numpy.allclose(vectors(ok(plain, {"input": ids}, EMBEDDINGS)), expected, atol=1e-6)
    assert numpy.allclose(vectors(ok(plain, {"input": ids[0]}, EMBEDDINGS)), expected[:1], atol=1e-6)


def test_embeddings_with_a_prompt(embedder):
    (found,) = vectors(ok(embedder, {"input": "paris", "prompt_name": "query"}, EMBEDDINGS))
    assert numpy.allclose(found, ok(embedder, {"inputs": "what is paris"}), atol=1e-6)


@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        ({}, "input", "'input' must be a text"),
        ({"input": []}, "input", "'input' must be a text"),
        ({"input": ""}, "input", "'input' is empty"),
        ({"input": ["a", ""]}, "input", "'input[1]' is empty"),
        ({"input": ["a", 7]}, "input", "'input[1]' must be a text or a list of token ids, not a number"),
        ({"input": [5, "a"]}, "input", "input[0]: a list in the list of inputs must be token ids"),
        ({"input": 7}, "input", "must be a string or a list"),
        ({"input": [[100000]]}, "input", "input[0]: token id 100000 is not in the vocabulary"),
        ({"input": "a", "dimensions": 33}, "dimensions", "must be a whole number from 1 to 32"),
        ({"input": "a", "dimensions": 0}, "dimensions", "must be a whole number from 1"),
        ({"input": "a", "encoding_format": "int8"}, "encoding_format", "must be one of float, base64"),
        ({"input": "a", "prompt_name": "title"}, "prompt_name", "must be one of document, passage, query"),
        ({"input": "a", "inputs": "a"}, "inputs", "unknown parameter 'inputs' (did you mean 'input'?)"),
        ({"input": "a", "store": True}, "store", "parameter 'store' is not supported"),
    ],
)
def test_invalid_request_for_embeddings(embedder, body, param, message):
    error = refused(embedder, body)["error"]
    assert error["param"] == param
    assert message in error["message"]
    assert error["type"] == "invalid_request_error"
    assert set(error) == {"message", "type", "param", "code"}


def test_too_many_texts_for_embeddings(embedder, monkeypatch):
    monkeypatch.setattr(embedder.app.model.service, "dimension", 384)
    error = refused(embedder, {"input": ["a"] * 100000}, status=422)["error"]
    assert "send at most 26041 texts" in error["message"]


def test_long_texts_are_truncated_and_the_answer_says_so(embedder):
    for body, path in (({"input": "paris " * 500}, EMBEDDINGS), ({"inputs": "paris " * 500}, "/embed")):
        reply = embedder.post(body, path=path)
        assert reply.status == 200
        assert reply.headers["x-inputs-truncated"] == "true"
        assert "x-inputs-truncated" not in embedder.post(dict.fromkeys(body, "a"), path=path).headers


def test_invocations_take_the_body_of_openai(embedder):
    """What SageMaker forwards; errors have OpenAI's form, too."""
    body = {"input": TEXTS, "encoding_format": "base64"}
    assert ok(embedder, body) == ok(embedder, body, EMBEDDINGS)
    assert refused(embedder, {"input": ""}, "/invocations")["error"]["param"] == "input"
    assert "'inputs'" in refused(embedder, {"imput": "a"}, "/invocations")["error"]["message"]
    assert refused(embedder, {"prompt": "a"}, "/invocations")["error"]["code"] == "unsupported_value"


def test_embeddings_of_another_task(ranker):
    error = refused(ranker, {"input": "a"}, status=404)["error"]
    assert error["code"] == "not_found"
    assert (
        "served by models of sentence-embeddings, and the task of this model is text-ranking"
        in error["message"]
    )
    unknown = refused(ranker, {"input": "a"}, "/invocations")["error"]
    assert "unknown key 'input'" in unknown["message"]


def test_embed_answers_normalized_vectors(embedder, plain):
    expected = ok(plain, {"inputs": TEXTS})
    lengths = numpy.linalg.norm(expected, axis=1, keepdims=True)
    assert numpy.allclose(ok(plain, {"inputs": TEXTS}, "/embed"), expected / lengths, atol=1e-6)
    raw = ok(plain, {"inputs": TEXTS, "normalize": False}, "/embed")
    assert numpy.allclose(raw, expected, atol=1e-6)
    one = ok(embedder, {"inputs": "paris", "prompt_name": "query", "truncate": True}, "/embed")
    assert numpy.allclose(one, [ok(embedder, {"inputs": "what is paris"})], atol=1e-6)
    short = ok(embedder, {"inputs": "paris", "dimensions": 4, "truncation_direction": "Left"}, "/embed")
    assert numpy.linalg.norm(short) == pytest.approx(1, abs=1e-6)
    assert len(short[0]) == 4


def test_similarity_scores(embedder):
    scores = ok(embedder, {"inputs": COMPARED, "parameters": {"truncate": True}}, "/similarity")
    assert scores[0] == pytest.approx(1, abs=1e-6)
    assert scores == pytest.approx(ok(embedder, {"inputs": COMPARED}))
    prompted = ok(embedder, {"inputs": COMPARED, "parameters": {"prompt_name": "query"}}, "/similarity")
    assert prompted != scores


def test_rerank_sorts_by_score(ranker):
    ranks = ok(ranker, QUERY, "/rerank")
    assert sorted(rank["index"] for rank in ranks) == [0, 1, 2]
    assert [rank["score"] for rank in ranks] == sorted((rank["score"] for rank in ranks), reverse=True)
    assert ranks == ok(ranker, {"inputs": QUERY}) == ok(ranker, QUERY)
    raw = ok(ranker, dict(QUERY, raw_scores=True, return_text=True, truncate=True), "/rerank")
    assert [rank["text"] for rank in raw] == [QUERY["texts"][rank["index"]] for rank in ranks]
    for rank, logit in zip(ranks, raw):
        assert rank["score"] == pytest.approx(1 / (1 + numpy.exp(-logit["score"])), abs=1e-6)


def test_tokenize_names_places(embedder, ranker):
    ((first, *_, last),) = ok(embedder, {"inputs": "I like you"}, "/tokenize")
    assert first == {"id": 2, "text": "[CLS]", "special": True, "start": None, "stop": None}
    assert last["special"]
    for server in (embedder, ranker):
        tokens = ok(server, {"inputs": TEXTS, "add_special_tokens": False}, "/tokenize")
        assert [token["text"] for token in tokens[0]] == ["I", "like", "you"]
        assert (tokens[0][1]["start"], tokens[0][1]["stop"]) == (2, 6)
        assert len(tokens) == 2
    prompted = ok(embedder, {"inputs": "a", "prompt_name": "query", "add_special_tokens": False}, "/tokenize")
    assert [token["text"] for token in prompted[0]] == ["what", "is", "a"]


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        ("/embed", {}, 400, "'inputs' is missing"),
        ("/embed", {"inputs": []}, 400, "empty list"),
        ("/embed", {"inputs": ""}, 400, "'inputs[0]' is empty"),
        ("/embed", {"inputs": ["a", 7]}, 400, "'inputs[1]' must be a text or a list of token ids"),
        ("/embed", {"inputs": {"a": 1}}, 400, "'inputs' must be a text or a list, not an object"),
        ("/embed", {"inputs": "a", "dimensions": 33}, 400, "from 1 to 32"),
        ("/embed", {"inputs": "a", "prompt_name": "title"}, 400, "must be one of document, passage, query"),
        ("/embed", {"inputs": "a", "normalise": True}, 400, "did you mean 'normalize'"),
        ("/embed", {"inputs": "a", "truncation_direction": "up"}, 400, "must be one of left, right"),
        ("/embed", {"inputs": "paris " * 500, "truncate": False}, 422, "tokens, and the model takes 64"),
        ("/embed", [], 400, "the body must be an object"),
        ("/similarity", {"inputs": "a"}, 400, "'inputs' must be {\"source_sentence\""),
        ("/similarity", {"inputs": {"source_sentence": "a"}}, 400, "an object must be"),
        ("/similarity", {"inputs": COMPARED, "parameters": 1}, 400, "'parameters' must be an object"),
        ("/similarity", {"inputs": COMPARED, "parameters": {"top": 1}}, 400, "unknown parameter 'top'"),
        ("/tokenize", {"inputs": 7}, 400, "'inputs' must be a text or a list"),
        ("/tokenize", {"inputs": []}, 400, "'inputs' must be a text or a list of texts"),
        ("/tokenize", {"inputs": "a", "add_special_tokens": 1}, 400, "must be true or false"),
        ("/tokenize", {"inputs": "a" * (limits.TEXT_CHARACTERS + 1)}, 422, "at most 1000000 are allowed"),
        ("/rerank", QUERY, 404, "/rerank is served by models of text-ranking"),
    ],
)
def test_invalid_request_of_text_embeddings_inference(embedder, path, body, status, message):
    """Errors have the form of text-embeddings-inference."""
    error = refused(embedder, body, path, status)
    assert set(error) == {"error", "error_type"}
    assert message in error["error"]


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        ("/rerank", {"query": "a"}, 400, "'texts' is missing"),
        ("/rerank", dict(QUERY, texts=[]), 400, "'texts' must be a list of texts that is not empty"),
        ("/rerank", dict(QUERY, texts=["a", ""]), 400, "'texts[1]' is empty"),
        ("/rerank", dict(QUERY, raw_score=True), 400, "did you mean 'raw_scores'"),
        ("/embed", {"inputs": "a"}, 404, "/embed is served by models of sentence-embeddings"),
        ("/similarity", {"inputs": COMPARED}, 404, "/similarity is served by models of sentence-embeddings"),
    ],
)
def test_invalid_request_for_ranks(ranker, path, body, status, message):
    assert message in refused(ranker, body, path, status)["error"]


def test_tokenize_of_another_task(model_folder):
    with serving.serve(load_model, model_dir=str(model_folder("fill-mask"))) as server:
        assert "text-ranking" in refused(server, {"inputs": "a"}, "/tokenize", 404)["error"]


def test_hub_client_sends_parameters_beside_the_inputs(embedder):
    """huggingface_hub's feature_extraction and sentence_similarity, at / and at /invocations."""
    whole = ok(embedder, {"inputs": "paris"})
    for path in ("/", "/invocations"):
        body = {"inputs": "paris", "normalize": True, "truncate": True, "dimensions": 4}
        assert len(ok(embedder, body, path)) == 4
        assert ok(embedder, {"inputs": "paris", "prompt_name": None}, path) == whole
        assert ok(embedder, {"inputs": COMPARED, "parameters": {}}, path)[0] == pytest.approx(1, abs=1e-6)
        assert ok(embedder, COMPARED, path)[0] == pytest.approx(1, abs=1e-6)
    twice = {"inputs": "a", "normalize": True, "parameters": {"normalize": False}}
    error = refused(embedder, twice, "/invocations")["error"]
    assert "'normalize' is both in \"parameters\" and beside it" in error["message"]


def test_other_types_of_answers(embedder):
    """A vector is an array of numbers; JSON Lines are texts."""
    reply = embedder.post({"inputs": TEXTS}, {"Accept": "application/x-npy"})
    import io

    array = numpy.load(io.BytesIO(reply.body))
    assert array.shape == (2, 32)
    lines = "\n".join(json.dumps({"inputs": text, "normalize": False}) for text in TEXTS).encode()
    reply = embedder.post(lines, {"Content-Type": "application/jsonlines", "Accept": "application/jsonlines"})
    assert reply.status == 200, reply.body
    assert len(reply.body.splitlines()) == 2


def test_openapi_describes_the_routes(embedder, ranker):
    import copy

    paths = embedder.get("/openapi.json").json["paths"]
    for path in (EMBEDDINGS, "/embed", "/similarity", "/tokenize"):
        content = paths[path]["post"]["requestBody"]["content"]["application/json"]
        assert embedder.post(copy.deepcopy(content["example"]), path=path).status == 200
    assert "/v1/models" in paths
    assert "/v1/chat/completions" not in paths
    assert "/rerank" not in paths
    document = embedder.get("/openapi.json").json
    known = document["components"]["schemas"]["Request"]["properties"]["parameters"]["properties"]
    assert known["prompt_name"]["enum"] == ["document", "passage", "query"]
    assert known["truncate_dim"]["maximum"] == 32
    paths = ranker.get("/openapi.json").json["paths"]
    example = paths["/rerank"]["post"]["requestBody"]["content"]["application/json"]["example"]
    assert ranker.post(example, path="/rerank").status == 200
    assert EMBEDDINGS not in paths
    assert "/embed" not in paths


def test_token_ids_are_checked_outside_the_event_loop(embedder, monkeypatch):
    """Those of a body of 25 MB take more than a second, in which the server would answer nothing else."""
    service, threads = embedder.app.model.service, []
    check = service.check_item

    def recorded(item):
        threads.append(threading.current_thread().name)
        check(item)

    monkeypatch.setattr(service, "check_item", recorded)
    for path, body in ((EMBEDDINGS, {"input": [[5] * 10000]}), ("/invocations", {"inputs": [[5] * 10000]})):
        ok(embedder, body, path)
    assert {name.partition("_")[0].partition("-")[0] for name in threads} == {"codec", "prediction"}


def test_lists_have_the_limit_of_all_requests(embedder, monkeypatch):
    monkeypatch.setattr(limits, "ITEMS", 2)
    for path in ("/tokenize", "/embed", "/invocations"):
        ok(embedder, {"inputs": TEXTS}, path)
        assert "at most 2" in json.dumps(refused(embedder, {"inputs": TEXTS * 2}, path))
