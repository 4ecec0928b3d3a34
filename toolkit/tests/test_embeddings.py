"""sentence-embeddings, sentence-similarity and text-ranking: the numbers of sentence-transformers, and bad input.

The expected numbers are computed with plain PyTorch; where sentence-transformers is installed, it is asked too.
"""

import inspect
import json
import shutil
from pathlib import Path

import numpy
import pytest
import tiny

from hf_inference_toolkit import limits
from hf_inference_toolkit.content import codecs
from hf_inference_toolkit.errors import RequestError, StartError
from hf_inference_toolkit.loading import hub
from hf_inference_toolkit.loading.adapter_folder import ModelFiles
from hf_inference_toolkit.loading.loader import build, load_model
from hf_inference_toolkit.runtimes.base import Runtime
from hf_inference_toolkit.settings import Settings
from hf_inference_toolkit.tasks import registry
from hf_inference_toolkit.tasks.sentence_model import normalized, pooled

transformers = pytest.importorskip("transformers")
torch = pytest.importorskip("torch", reason="sentence-embeddings needs PyTorch")
JSON = codecs.MediaType(codecs.JSON, {})
WITHOUT_SAFETENSORS = "needs safetensors, which this image does not have"
TEXTS = [
    "I like you",
    "what is this",
    "",
    "the model of my work in paris was beautiful " * 3,
    "hugging face",
]
LONG = "the model of my work in paris was beautiful " * 30
MEAN = [("Transformer", None), ("Pooling", tiny.pooling("mean"))]


def load(folder, **settings):
    settings.setdefault("runtime", "torch")
    service = load_model(Settings(model_dir=str(folder), **settings))
    service.warm_up(lambda: None)
    return service


def predict(service, inputs, **parameters):
    body = {"inputs": inputs, "parameters": parameters}
    request = service.read(json.dumps(body).encode(), JSON, codecs.JSON)
    return service.predict(request, lambda: None)


def ask(service, inputs, **parameters):
    return predict(service, inputs, **parameters).value


def refusal(service, inputs, **parameters):
    with pytest.raises(RequestError) as refused:
        ask(service, inputs, **parameters)
    assert refused.value.status in (400, 422)
    return refused.value.message


def start_refusal(folder, **settings):
    with pytest.raises(StartError) as refused:
        load(folder, **settings)
    return str(refused.value)


@pytest.fixture
def encoder(tmp_path):
    """The folder of a model without modules.json."""
    return tiny.encoder(tmp_path / "model")


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return load(tiny.encoder(tmp_path_factory.mktemp("plain")), task="sentence-embeddings")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """As all-MiniLM-L6-v2 is saved, with prompts."""
    return load(tiny.embedder(tmp_path_factory.mktemp("saved")))


@pytest.fixture(scope="module")
def ranker(tmp_path_factory):
    return load(tiny.ranker(tmp_path_factory.mktemp("ranker")), task="text-ranking")


def hidden_states(folder, text, limit=128, kind="AutoModel"):
    """The last hidden state of one text, by transformers alone."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder))
    model = getattr(transformers, kind).from_pretrained(str(folder)).float().eval()
    inputs = tokenizer(text, truncation=True, max_length=limit, return_tensors="pt")
    known = inspect.signature(model.forward).parameters
    with torch.no_grad():
        return model(**{name: inputs[name] for name in inputs if name in known})[0][0].numpy()


def expected(folder, text, mode, limit=128):
    """What a mode of pooling makes of a text's hidden states."""
    hidden = torch.from_numpy(hidden_states(folder, text, limit))
    count = len(hidden)
    if mode == "weightedmean":
        weights = torch.arange(1, count + 1, dtype=torch.float32)[:, None]
        return ((hidden * weights).sum(0) / weights.sum()).numpy()
    found = {
        "cls": lambda: hidden[0],
        "lasttoken": lambda: hidden[-1],
        "max": lambda: hidden.max(0).values,
        "mean": lambda: hidden.mean(0),
        "mean_sqrt_len": lambda: hidden.sum(0) / count**0.5,
    }
    return found[mode]().numpy()


def by_sentence_transformers(folder, texts=TEXTS, **options):
    """The vectors of the real package; the test is skipped without it."""
    package = pytest.importorskip(
        "sentence_transformers", reason="sentence-transformers is not installed: no comparison with it"
    )
    model = package.SentenceTransformer(str(folder), device="cpu")
    return model.encode(texts, batch_size=2, show_progress_bar=False, **options)


MODES = ("cls", "mean", "max", "mean_sqrt_len", "weightedmean", "lasttoken")
CHAINS = {
    "one": [("Pooling", tiny.pooling("mean"))],
    "normalized": [("Pooling", tiny.pooling("cls")), ("Normalize", None)],
    "concatenated": [
        ("Pooling", tiny.pooling("lasttoken", "cls", "max", "weightedmean")),
        ("Normalize", None),
    ],
    "dense": [("Pooling", tiny.pooling("mean")), ("Dense", 32), ("Normalize", None)],
    "normalized first": [("Pooling", tiny.pooling("mean")), ("Normalize", None), ("Dense", 32)],
    "two projections": [("Pooling", tiny.pooling("mean", "max")), ("Dense", 64), ("Dense", 8)],
}


def with_modules(folder, chain, suffix="safetensors", **more):
    """Write modules behind an encoder; the number beside Dense is the length of the vectors that it takes."""
    tiny.seed()
    written = [("Transformer", None)]
    for place, (kind, config) in enumerate(chain, 1):
        if kind != "Dense":
            written.append((kind, config))
            continue
        layer = torch.nn.Linear(config, 8)
        path = Path(str(folder)) / "{}_Dense".format(place)
        path.mkdir()
        if suffix == "safetensors":
            safetensors = pytest.importorskip("safetensors.torch", reason=WITHOUT_SAFETENSORS)
            weights = {"linear." + name: tensor for name, tensor in layer.state_dict().items()}
            safetensors.save_file(weights, str(path / "model.safetensors"))
        else:
            torch.save({"linear." + k: v for k, v in layer.state_dict().items()}, path / "pytorch_model.bin")
        name = "torch.nn.modules.activation.Tanh" if config == 32 else "torch.nn.modules.linear.Identity"
        written.append(
            (kind, {"in_features": config, "out_features": 8, "bias": True, "activation_function": name})
        )
    return tiny.save_modules(folder, written, **more)


@pytest.mark.parametrize("mode", MODES)
def test_pooling_is_that_of_the_folder(encoder, mode):
    tiny.save_modules(encoder, [("Transformer", None), ("Pooling", tiny.pooling(mode))])
    found = ask(load(encoder), TEXTS)
    right = [expected(encoder, text, mode) for text in TEXTS]
    assert numpy.allclose(found, right, atol=1e-5)


@pytest.mark.parametrize("mode", ["mean", ["cls", "lasttoken"]])
def test_newer_configuration_of_pooling(encoder, mode):
    """Releases from 5.2 on write the modes by name, and classes in other packages."""
    chain = [
        ("sentence_transformers.base.modules.transformer.Transformer", None),
        ("sentence_transformers.sentence_transformer.modules.pooling.Pooling", {"pooling_mode": mode}),
    ]
    tiny.save_modules(encoder, chain)
    modes = [mode] if isinstance(mode, str) else mode
    right = numpy.concatenate([expected(encoder, TEXTS[0], one) for one in modes])
    assert numpy.allclose(ask(load(encoder), TEXTS[0]), right, atol=1e-5)


def test_projection_and_normalization(encoder):
    """Dense and Normalize by plain PyTorch; weights as safetensors, or as PyTorch's own file."""
    safetensors = pytest.importorskip("safetensors.torch", reason=WITHOUT_SAFETENSORS)
    with_modules(encoder, CHAINS["dense"])
    weights = safetensors.load_file(str(encoder / "2_Dense/model.safetensors"))
    vector = torch.from_numpy(expected(encoder, TEXTS[0], "mean"))
    projected = torch.tanh(
        torch.nn.functional.linear(vector, weights["linear.weight"], weights["linear.bias"])
    )
    right = torch.nn.functional.normalize(projected, dim=0).numpy()
    assert numpy.allclose(ask(load(encoder), TEXTS[0]), right, atol=1e-5)
    torch.save(weights, str(encoder / "2_Dense/pytorch_model.bin"))
    (encoder / "2_Dense/model.safetensors").unlink()
    assert numpy.allclose(ask(load(encoder), TEXTS[0]), right, atol=1e-5)


@pytest.mark.parametrize("name", list(CHAINS))
@pytest.mark.parametrize("runtime", ["torch", "openvino"])
def test_vectors_are_those_of_sentence_transformers(encoder, name, runtime):
    if runtime == "openvino":
        pytest.importorskip("openvino", reason="this image has no OpenVINO")
    with_modules(encoder, CHAINS[name])
    right = by_sentence_transformers(encoder)
    service = load(encoder, runtime=runtime)
    assert service.engine.name == {"torch": "PyTorch", "openvino": "OpenVINO"}[runtime]
    found = numpy.array(ask(service, TEXTS))
    assert found.shape == right.shape
    assert numpy.abs(found - right).max() <= (1e-5 if runtime == "torch" else 1e-4)


@pytest.mark.parametrize("mode", MODES)
def test_each_mode_is_that_of_sentence_transformers(encoder, mode):
    tiny.save_modules(encoder, [("Transformer", None), ("Pooling", tiny.pooling(mode))])
    assert numpy.allclose(ask(load(encoder), TEXTS), by_sentence_transformers(encoder), atol=1e-5)


def test_openvino_pools_as_pytorch(encoder):
    pytest.importorskip("openvino", reason="this image has no OpenVINO")
    with_modules(encoder, CHAINS["concatenated"])
    right = ask(load(encoder), TEXTS)
    service = load(encoder, runtime="auto")
    service.optimize()
    assert service.engine.name == "OpenVINO"
    assert numpy.allclose(ask(service, TEXTS), right, atol=1e-4)


@pytest.mark.parametrize("is_included", [True, False])
def test_prompts_are_those_of_sentence_transformers(encoder, is_included):
    """With include_prompt false, the tokens of the prompt are not pooled."""
    chain = [("Pooling", dict(tiny.pooling("mean", "weightedmean"), include_prompt=is_included))]
    settings = {"prompts": tiny.PROMPTS, "default_prompt_name": "passage"}
    with_modules(encoder, chain, settings=settings)
    service = load(encoder)
    texts = [text for text in TEXTS if text]
    for given in ({}, {"prompt_name": "query"}, {"prompt_name": "document"}):
        right = by_sentence_transformers(encoder, texts, **given)
        assert numpy.allclose(ask(service, texts, **given), right, atol=1e-5), given


def test_prompt_is_before_the_text(saved, encoder):
    text = "the model"
    right = ask(saved, "what is the model")
    assert ask(saved, text, prompt_name="query") == right
    assert ask(saved, text, prompt_name="document") == ask(saved, text) != right


def test_prompt_that_is_not_pooled(encoder):
    chain = [("Pooling", dict(tiny.pooling("mean"), include_prompt=False))]
    with_modules(encoder, chain, settings={"prompts": tiny.PROMPTS})
    # [CLS] what is | the model [SEP]
    right = hidden_states(encoder, "what is the model")[3:].mean(axis=0)
    service = load(encoder)
    assert numpy.allclose(ask(service, "the model", prompt_name="query"), right, atol=1e-5)
    numbers = transformers.AutoTokenizer.from_pretrained(str(encoder))("the model")["input_ids"]
    found = ask(service, [numbers, "the model"], prompt_name="query")
    assert numpy.allclose(found, [expected(encoder, "the model", "mean"), right], atol=1e-5)


def test_default_prompt_of_the_folder(encoder):
    with_modules(encoder, MEAN[1:], settings={"prompts": tiny.PROMPTS, "default_prompt_name": "query"})
    service = load(encoder)
    right = expected(encoder, "what is the model", "mean")
    assert numpy.allclose(ask(service, "the model"), right, atol=1e-5)


def test_maximum_length_and_case_of_the_folder(encoder):
    tiny.save_modules(encoder, MEAN, transformer={"max_seq_length": 16, "do_lower_case": True})
    service = load(encoder)
    prediction = predict(service, LONG)
    assert prediction.is_truncated
    assert prediction.tokens_in == 16
    assert numpy.allclose(prediction.value, expected(encoder, LONG, "mean", 16), atol=1e-5)
    assert ask(service, "THE MODEL") == ask(service, "the model")
    right = by_sentence_transformers(encoder, [LONG, "THE MODEL"])
    assert numpy.allclose(ask(service, [LONG, "THE MODEL"]), right, atol=1e-5)


def test_truncate_dim_of_the_folder(encoder):
    chain = [("Pooling", tiny.pooling("mean")), ("Normalize", None)]
    with_modules(encoder, chain, settings={"truncate_dim": 8})
    service = load(encoder)
    right = normalized(expected(encoder, TEXTS[0], "mean"))[:8]
    assert numpy.allclose(ask(service, TEXTS[0]), right, atol=1e-5)
    assert len(ask(service, TEXTS[0], truncate_dim=32)) == 32


def test_modules_mean_sentence_embeddings(saved, encoder, model_folder):
    assert saved.task == "sentence-embeddings"
    assert load(encoder).task == "feature-extraction"
    tiny.save_modules(encoder, MEAN)
    assert load(encoder).task == "sentence-embeddings"
    service = load(encoder, task="feature-extraction")
    assert numpy.array(ask(service, TEXTS[0])).shape == (1, 5, 32)
    tiny.save_modules(encoder, MEAN, {"model_type": "SparseEncoder"})
    assert "models of type SparseEncoder are not supported" in start_refusal(encoder)


def test_encoder_without_modules_is_pooled_by_the_mean(plain):
    found = numpy.array(ask(plain, TEXTS))
    right = [expected(plain.facts["model"], text, "mean") for text in TEXTS]
    assert numpy.allclose(found, right, atol=1e-5)


@pytest.mark.parametrize(("pooling", "mode"), [("cls", "cls"), ("last", "lasttoken"), ("max", "max")])
def test_pooling_of_a_request(plain, pooling, mode):
    """Requests with other modes share passes."""
    right = expected(plain.facts["model"], TEXTS[3], mode)
    assert numpy.allclose(ask(plain, TEXTS[3], pooling=pooling), right, atol=1e-5)
    long = expected(plain.facts["model"], TEXTS[3], "mean")
    assert numpy.allclose(ask(plain, TEXTS[3], normalize=True), normalized(long), atol=1e-5)
    assert numpy.allclose(ask(plain, TEXTS[3], truncate_dim=4), long[:4], atol=1e-5)
    both = ask(plain, TEXTS[3], truncate_dim=4, normalize=True)
    assert numpy.allclose(both, normalized(long[:4]), atol=1e-5)


def test_pooling_of_a_decoder_is_its_last_token(tmp_path):
    """As sentence-transformers does; it has no token at the start that stands for the text."""
    if not hasattr(transformers, "LlamaConfig"):
        pytest.skip("this release has no Llama")
    folder = tmp_path / "decoder"
    sizes = {
        "vocab_size": 600,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
    }
    tiny.seed()
    transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes)).save_pretrained(str(folder))
    tokenizer = tiny.byte_tokenizer(128, is_encoder=False)
    # sentence-transformers 6 would write texts as conversations.
    tokenizer.chat_template = None
    tokenizer.save_pretrained(str(folder))
    service = load(folder, task="sentence-embeddings")
    texts = [text for text in TEXTS if text]
    right = [expected(folder, text, "lasttoken") for text in texts]
    assert numpy.allclose(ask(service, texts), right, atol=1e-5)
    message = refusal(service, "a", pooling="cls")
    assert message == "parameter 'pooling' must be one of mean, last, max"
    assert "no tokens" in refusal(service, "")
    assert numpy.allclose(by_sentence_transformers(folder, texts), right, atol=1e-5)


def test_model_with_a_decoder_is_loaded_as_encoder(tmp_path):
    """sentence-t5 and its kin: AutoModel would load a decoder that embeddings do not use."""
    sizes = {
        "vocab_size": len(tiny.VOCABULARY),
        "d_model": 32,
        "d_kv": 16,
        "d_ff": 64,
        "num_layers": 2,
        "num_heads": 2,
    }
    folder = tiny.save(tmp_path / "t5", "T5Config", "T5EncoderModel", sizes, pad_token_id=0)
    service = load(folder, task="sentence-embeddings")
    right = hidden_states(folder, TEXTS[0], kind="T5EncoderModel").mean(axis=0)
    assert numpy.allclose(ask(service, TEXTS[0]), right, atol=1e-5)


def test_options_of_a_saved_model(saved):
    vector = numpy.array(ask(saved, TEXTS[0]))
    assert numpy.linalg.norm(vector) == pytest.approx(1, abs=1e-5)
    raw = ask(saved, TEXTS[0], normalize=False)
    assert numpy.allclose(normalized(numpy.array(raw)), vector, atol=1e-5)
    assert numpy.linalg.norm(raw) != pytest.approx(1, abs=1e-2)
    assert ask(saved, TEXTS[0], truncate_dim=4) == pytest.approx(vector[:4].tolist(), abs=1e-6)
    shorter = ask(saved, TEXTS[0], dimensions=4)
    assert numpy.allclose(shorter, normalized(vector[:4]), atol=1e-5)
    assert ask(saved, TEXTS[0], pooling="mean") == ask(saved, TEXTS[0])


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"pooling": "cls"}, "parameter 'pooling' must be one of mean"),
        ({"pooling": 1}, "parameter 'pooling' must be one of mean, not a number"),
        ({"truncate_dim": 33}, "parameter 'truncate_dim' must be a whole number from 1 to 32"),
        ({"dimensions": 0}, "parameter 'dimensions' must be a whole number from 1 to 32"),
        (
            {"dimensions": 4, "truncate_dim": 4},
            "'dimensions' and 'truncate_dim' are the same parameter: send one",
        ),
        (
            {"truncate": True, "truncation": True},
            "'truncate' and 'truncation' are the same parameter: send one",
        ),
        ({"prompt_name": "title"}, "parameter 'prompt_name' must be one of document, passage, query"),
        ({"normalize": "yes"}, "parameter 'normalize' must be true or false, not a string"),
        ({"normalise": True}, "unknown parameter 'normalise' (did you mean 'normalize'?)"),
        ({"truncation_direction": "up"}, "parameter 'truncation_direction' must be one of left, right"),
    ],
)
def test_parameter_that_is_not_possible(saved, parameters, message):
    assert refusal(saved, "a", **parameters).startswith(message)


def test_prompt_of_a_model_without_prompts(plain):
    assert "this model has no prompts" in refusal(plain, "a", prompt_name="query")


def test_pooling_of_a_model_that_concatenates(encoder):
    with_modules(encoder, [("Pooling", tiny.pooling("mean", "max"))])
    service = load(encoder)
    assert refusal(service, "a", pooling="mean") == "parameter 'pooling' must be one of max+mean"
    assert len(ask(service, "a", pooling="max+mean")) == 64


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([], '"inputs" is an empty list'),
        (None, "takes a text, a list of token ids"),
        ([["a"]], "inputs[0]: a list in the list of inputs must be token ids"),
        ([[]], "inputs[0]: a list in the list of inputs must be token ids"),
        ([[5, -1]], "inputs[0]: token id -1 is not in the vocabulary of this model"),
        ([[5], [10**6]], "inputs[1]: token id 1000000 is not in the vocabulary of this model"),
        ({"source_sentence": "a"}, "an object must be"),
        ({"source_sentence": "a", "sentences": []}, "'sentences' must be a list of texts that is not empty"),
        ({"source_sentence": "a", "sentences": "b"}, "'sentences' must be a list of texts that is not empty"),
        ({"source_sentence": 1, "sentences": ["b"]}, "an object must be"),
    ],
)
def test_invalid_inputs_are_named(saved, inputs, message):
    assert message in refusal(saved, inputs)


def test_many_texts_are_refused_before_they_are_tokenized(saved, monkeypatch):
    """100,000 texts fit for a vector of 32 numbers, not for one of 384."""
    assert saved.dimension == 32
    monkeypatch.setattr(saved, "dimension", 384)
    monkeypatch.setattr(saved, "encode", None)
    message = refusal(saved, ["a"] * 100000)
    assert message == ("the answer to 100000 texts has more than 10000000 numbers; send at most 26041 texts")
    many = {"source_sentence": "a", "sentences": ["a"] * (limits.COMPARED_TEXTS + 1)}
    assert refusal(saved, many) == "'sentences' has 10001 texts; at most 10000 are allowed"


def test_tokens_of_all_texts_are_limited(saved, ranker, monkeypatch):
    """Each text of an input is counted when it is tokenized, not after all of them."""
    monkeypatch.setattr(limits, "REQUEST_TOKENS", 100)
    message = "the inputs have more than 100 tokens; send fewer at once"
    texts = ["I like you"] * 50
    counted = []
    for service, inputs in (
        (saved, {"source_sentence": "a", "sentences": texts}),
        (ranker, {"query": "a", "texts": texts}),
    ):
        tokens = service.tokens
        monkeypatch.setattr(
            service, "tokens", lambda *given, tokens=tokens: counted.append(1) or tokens(*given)
        )
        assert message in refusal(service, inputs)
        assert len(counted) < 30
        del counted[:]
    assert message in refusal(saved, texts)


def test_empty_text_has_the_vector_of_its_special_tokens(plain):
    assert numpy.allclose(ask(plain, ""), expected(plain.facts["model"], "", "mean"), atol=1e-5)


def test_token_ids_are_taken_as_they_are(plain):
    tokenizer = transformers.AutoTokenizer.from_pretrained(plain.facts["model"])
    numbers = tokenizer(TEXTS[0])["input_ids"]
    assert ask(plain, [numbers, TEXTS[0]])[0] == pytest.approx(ask(plain, TEXTS[0]), abs=1e-6)
    long = predict(plain, [numbers * 100])
    assert long.is_truncated
    assert long.tokens_in == 128
    assert "the model takes 128" in refusal(plain, [numbers * 100], truncation=False)


def test_side_of_truncation(plain):
    words = "paris berlin " + LONG
    assert ask(plain, words, truncation_direction="right") == ask(plain, words)
    other = ask(plain, words, truncation_direction="left")
    tokenizer = transformers.AutoTokenizer.from_pretrained(plain.facts["model"], truncation_side="left")
    inputs = tokenizer(words, truncation=True, max_length=128, return_tensors="pt")
    model = transformers.AutoModel.from_pretrained(plain.facts["model"]).eval()
    with torch.no_grad():
        right = model(**inputs)[0][0].mean(dim=0).numpy()
    assert numpy.allclose(other, right, atol=1e-5)
    assert ask(plain, words) == ask(plain, words, truncation_direction="right")
    assert "an input has" in refusal(plain, words, truncate=False)


def test_lists_share_passes_and_keep_their_order(saved):
    """A list, its reverse, and each text alone; one queue slot for each text."""
    texts = TEXTS * 20
    found = ask(saved, texts)
    assert numpy.allclose(found, ask(saved, texts[::-1])[::-1], atol=1e-6)
    assert numpy.allclose(found[:5], [ask(saved, text) for text in TEXTS], atol=1e-5)
    body = {"inputs": [{"source_sentence": "a", "sentences": ["b", "c"]}, "d"]}
    assert saved.count(saved.read(json.dumps(body).encode(), JSON, codecs.JSON)) == 4


def test_similarity_is_the_cosine(tmp_path):
    service = load(tiny.embedder(tmp_path), task="sentence-similarity")
    vectors = numpy.array(
        [normalized(expected(tmp_path, text, "mean", 64)) for text in ("I like you", "paris", "i like you")]
    )
    item = {"source_sentence": "I like you", "sentences": ["paris", "i like you"]}
    scores = ask(service, item)
    assert scores == pytest.approx((vectors[1:] @ vectors[0]).tolist(), abs=1e-5)
    assert scores[1] == pytest.approx(1, abs=1e-6)
    assert ask(service, [item, item]) == [pytest.approx(scores), pytest.approx(scores)]
    body = json.dumps(item).encode()
    assert service.read(body, JSON, codecs.JSON).inputs == item
    assert "sentence-similarity takes objects" in refusal(service, "a text")
    assert ask(load(tmp_path), item) == pytest.approx(scores)


QUERY = {"query": "what is this", "texts": ["the model", "paris", "my name is sylvain"]}


def scores_of(folder, query, texts):
    """Logits of a cross-encoder, by transformers alone."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder))
    model = transformers.AutoModelForSequenceClassification.from_pretrained(str(folder)).eval()
    with torch.no_grad():
        return [model(**tokenizer(query, text, return_tensors="pt"))[0].item() for text in texts]


def test_ranking_by_the_activation_of_a_label(ranker):
    """Sigmoid where nothing else is said, in descending order."""
    logits = scores_of(ranker.facts["model"], **QUERY)
    order = sorted(range(3), key=lambda place: -logits[place])
    ranks = ask(ranker, QUERY)
    assert [rank["index"] for rank in ranks] == order
    right = torch.sigmoid(torch.tensor(logits))[order].tolist()
    assert [rank["score"] for rank in ranks] == pytest.approx(right, abs=1e-5)
    raw = ask(ranker, QUERY, raw_scores=True, return_text=True, top_n=2)
    assert raw == [
        {"index": place, "score": pytest.approx(logits[place], abs=1e-5), "text": QUERY["texts"][place]}
        for place in order[:2]
    ]
    for again in ask(ranker, [QUERY, QUERY]):
        # Sums of floats depend on the number of rows in a pass.
        assert again == [dict(rank, score=pytest.approx(rank["score"], abs=1e-5)) for rank in ranks]
    assert ranker.count(ranker.read(json.dumps({"inputs": [QUERY]}).encode(), JSON, codecs.JSON)) == 3


IDENTITY = "torch.nn.modules.linear.Identity"


@pytest.mark.parametrize(
    "change",
    [
        {"config.json": {"sbert_ce_default_activation_function": IDENTITY}},
        {"config.json": {"sentence_transformers": {"activation_fn": IDENTITY}}},
        {"config_sentence_transformers.json": {"activation_fn": IDENTITY, "model_type": "CrossEncoder"}},
    ],
)
def test_activation_of_the_folder(tmp_path, change):
    """In the places where releases of sentence-transformers keep it."""
    tiny.ranker(tmp_path)
    ((name, more),) = change.items()
    if name != "config.json":
        tiny.save_modules(tmp_path, [("Transformer", None)], more)
    else:
        config = json.loads((tmp_path / name).read_text())
        tiny.write(tmp_path / name, dict(config, **more))
    service = load(tmp_path, task="" if name != "config.json" else "sentence-ranking")
    assert service.task == ("text-ranking" if name != "config.json" else "sentence-ranking")
    logits = scores_of(tmp_path, **QUERY)
    scores = {rank["index"]: rank["score"] for rank in ask(service, QUERY)}
    assert [scores[place] for place in range(3)] == pytest.approx(logits, abs=1e-5)


@pytest.mark.parametrize("runtime", ["torch", "openvino"])
def test_ranking_is_that_of_sentence_transformers(tmp_path, runtime):
    if runtime == "openvino":
        pytest.importorskip("openvino", reason="this image has no OpenVINO")
    package = pytest.importorskip(
        "sentence_transformers", reason="sentence-transformers is not installed: no comparison with it"
    )
    tiny.ranker(tmp_path / "base")
    package.CrossEncoder(str(tmp_path / "base"), device="cpu").save(str(tmp_path / "saved"))
    texts = [*QUERY["texts"], LONG]
    for folder in ("base", "saved"):
        model = package.CrossEncoder(str(tmp_path / folder), device="cpu")
        right = model.rank(QUERY["query"], texts, show_progress_bar=False)
        service = load(tmp_path / folder, task="text-ranking", runtime=runtime)
        ranks = ask(service, {"query": QUERY["query"], "texts": texts})
        assert [rank["index"] for rank in ranks] == [rank["corpus_id"] for rank in right]
        tolerance = 1e-5 if runtime == "torch" else 1e-4
        assert [rank["score"] for rank in ranks] == pytest.approx(
            [float(rank["score"]) for rank in right], abs=tolerance
        )
    assert load(tmp_path / "saved").task == "text-ranking"


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ("a", "text-ranking takes"),
        ({"query": "a"}, "an input must be"),
        ({"query": "a", "texts": []}, "'texts' must be a list of texts that is not empty"),
        ({"query": "a", "texts": "b"}, "'texts' must be a list of texts that is not empty"),
        ({"query": "a", "texts": ["b", 1]}, "'texts' must be a list of texts that is not empty"),
        ({"query": " ", "texts": ["b"]}, "'query' is empty"),
        ({"query": "a", "texts": ["b", ""]}, "'texts[1]' is empty"),
        ({"query": "a", "texts": ["b"] * 10001}, "'texts' has 10001 texts; at most 10000 are allowed"),
        ([], '"inputs" is an empty list'),
    ],
)
def test_invalid_ranking_is_named(ranker, inputs, message):
    assert message in refusal(ranker, inputs)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"top_n": 0}, "parameter 'top_n' must be a whole number from 1"),
        ({"return_text": 1}, "parameter 'return_text' must be true or false"),
        ({"top_k": 3}, "unknown parameter 'top_k'"),
    ],
)
def test_parameter_of_ranking_that_is_not_possible(ranker, parameters, message):
    assert message in refusal(ranker, QUERY, **parameters)


def test_ranking_needs_one_label(tmp_path):
    message = start_refusal(tiny.classifier(tmp_path), task="text-ranking")
    assert message == (
        "text-ranking needs a model with one label, and this one has 2: set HF_TASK=text-classification"
    )


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        ([*MEAN, ("LayerNorm", {})], "module 2 (sentence_transformers.models.LayerNorm) cannot be served"),
        ([*MEAN, ("custom_st.Normalize", {})], "module 2 (custom_st.Normalize) cannot be served"),
        (
            [MEAN[0], ("Normalize", None)],
            "module 1 (sentence_transformers.models.Normalize) cannot be served",
        ),
        ([("StaticEmbedding", None)], "module 0 (sentence_transformers.models.StaticEmbedding) cannot be"),
        (MEAN[:1], "has no Pooling"),
        (
            [MEAN[0], ("Pooling", {"pooling_mode": "median"})],
            "pooling mode median is not supported; cls, max",
        ),
        ([*MEAN, ("Dense", {"use_residual": True})], "use_residual is not supported"),
        ([*MEAN, ("Dense", {"module_input_name": "token_embeddings"})], "module_input_name token_embeddings"),
        ([*MEAN, ("Dense", {"activation_function": "os.system"})], "activation_function os.system is not"),
        ([*MEAN, ("Dense", {"in_features": 32, "out_features": 4})], "cannot be loaded"),
    ],
)
def test_module_that_is_not_supported_is_named(encoder, modules, message):
    tiny.save_modules(encoder, modules)
    assert message in start_refusal(encoder)


@pytest.mark.parametrize(
    ("kind", "output"), [("message", "last_hidden_state"), ("text", "pooler_output"), ("text", "logits")]
)
def test_transformer_that_takes_no_plain_texts(encoder, kind, output):
    """As releases from 5.2 on write it: conversations, and other outputs of the model."""
    right = {"text": {"method": "forward", "method_output_name": "last_hidden_state"}}
    tiny.save_modules(encoder, MEAN, transformer={"modality_config": right})
    assert len(ask(load(encoder), "a")) == 32
    wrong = dict(right, **{kind: {"method": "forward", "method_output_name": output}})
    tiny.save_modules(encoder, MEAN, transformer={"modality_config": wrong})
    assert "modality_config has '{}'".format(kind) in start_refusal(encoder)


def test_default_prompt_that_the_folder_lacks(encoder):
    tiny.save_modules(encoder, MEAN, {"prompts": tiny.PROMPTS, "default_prompt_name": "title"})
    message = start_refusal(encoder)
    assert "default_prompt_name is 'title'; the prompts are document, passage, query" in message


def test_tensorflow_is_refused(encoder):
    runtime = Runtime()
    runtime.prefix = "TF"
    task = registry.parse("sentence-similarity")
    with pytest.raises(StartError, match="HF_TASK=sentence-similarity needs PyTorch, and this image has"):
        build(task, ModelFiles(encoder, encoder, encoder), Settings(model_dir=str(encoder)), runtime, {})


def test_damaged_files_of_modules_are_named(encoder):
    with_modules(encoder, CHAINS["dense"])
    import safetensors.torch

    path = encoder / "2_Dense" / "model.safetensors"
    weights = safetensors.torch.load_file(str(path))
    safetensors.torch.save_file({name: one * float("nan") for name, one in weights.items()}, str(path))
    assert "2_Dense contain NaN or infinity: linear" in start_refusal(encoder)
    safetensors.torch.save_file({"linear.weight": torch.ones(4, 32)}, str(path))
    assert "2_Dense have other shapes than its config.json says" in start_refusal(encoder)
    path.write_bytes(b"no weights")
    assert "2_Dense cannot be loaded" in start_refusal(encoder)
    (encoder / "1_Pooling" / "config.json").write_text("[]")
    assert "1_Pooling/config.json is not a JSON object" in start_refusal(encoder)
    (encoder / "modules.json").write_text("{")
    assert "modules.json cannot be read" in start_refusal(encoder)
    (encoder / "modules.json").write_text('{"a": 1}')
    assert "modules.json is not a list of modules" in start_refusal(encoder)
    (encoder / "modules.json").write_text(
        '[{"type": "sentence_transformers.models.Transformer", "path": "../a"}]'
    )
    assert "the path '../a' is outside the folder" in start_refusal(encoder)


def test_code_in_weights_of_a_module_is_not_run(encoder, tmp_path):
    with_modules(encoder, CHAINS["dense"])
    (encoder / "2_Dense" / "model.safetensors").unlink()
    torch.save({"linear.weight": Touching(tmp_path / "touched")}, str(encoder / "2_Dense/pytorch_model.bin"))
    assert "2_Dense cannot be loaded" in start_refusal(encoder)
    assert not (tmp_path / "touched").exists()


class Touching:
    """Its pickle makes a file when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_transformer_in_a_folder_of_its_own(encoder, tmp_path):
    """The layout of the first releases of sentence-transformers."""
    tiny.save_modules(encoder, MEAN)
    entries = json.loads((encoder / "modules.json").read_text())
    entries[0]["path"] = "0_Transformer"
    tiny.write(encoder / "modules.json", entries)
    assert "the Transformer is in 0_Transformer. Move its files" in start_refusal(encoder)
    old = tmp_path / "old"
    shutil.copytree(str(encoder), str(old / "0_Transformer"))
    shutil.copy(str(encoder / "modules.json"), str(old / "modules.json"))
    message = start_refusal(old)
    assert "contains modules.json (sentence-transformers) and no config.json beside it" in message


@pytest.mark.parametrize("change", ["Softplus", "my.module.Gate"])
def test_activation_of_ranking_that_is_not_supported(tmp_path, change):
    tiny.ranker(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    path = change if "." in change else "torch.nn.modules.activation." + change
    tiny.write(tmp_path / "config.json", dict(config, sbert_ce_default_activation_function=path))
    message = start_refusal(tmp_path, task="text-ranking")
    assert "the activation function {} is not supported".format(path) in message


@pytest.mark.parametrize(
    ("modules", "settings", "message"),
    [
        (
            [("Transformer", None), ("LogitScore", {})],
            {},
            "module 1 (sentence_transformers.models.LogitScore)",
        ),
        (
            [("Transformer", None)],
            {"prompts": {"web": "search: "}, "default_prompt_name": "web"},
            "prompts of text-ranking are not supported",
        ),
    ],
)
def test_modules_of_ranking_that_are_not_supported(tmp_path, modules, settings, message):
    tiny.save_modules(tiny.ranker(tmp_path), modules, settings)
    assert message in start_refusal(tmp_path, task="text-ranking")


def test_files_of_modules_are_fetched_from_the_hub():
    names = [
        "config.json",
        "modules.json",
        "model.safetensors",
        "1_Pooling/config.json",
        "2_Dense/model.safetensors",
        "2_Dense/config.json",
        "2_Dense/pytorch_model.bin",
        "onnx/config.json",
        "onnx/model.safetensors",
    ]
    wanted = hub._wanted(names, ["model.safetensors"])
    assert sorted(wanted) == sorted(names[:7])
    assert "1_Pooling/config.json" not in hub._wanted(["a.json", *names[2:]], ["model.safetensors"])


def test_pooling_keeps_float32():
    hidden = numpy.ones((3, 4), numpy.float32)
    for mode in ("cls", "last", "max", "mean", "mean_sqrt_len", "weightedmean"):
        assert pooled(hidden, [mode]).dtype == numpy.float32
