"""Adapters of PEFT: one that is merged at start, and several that requests choose from."""

import concurrent.futures
import json
import pickle
import shutil
from pathlib import Path

import adapter_models
import generation_models
import pytest
import serving
import tiny
from in_process import answer, served
from test_hub import NEW, OLD
from test_model_folders import refusal

from hf_inference_toolkit.content.payload import Request
from hf_inference_toolkit.errors import StartError
from hf_inference_toolkit.loading import adapter_folder, adapters
from hf_inference_toolkit.loading.loader import load_model
from hf_inference_toolkit.runtimes import openvino
from hf_inference_toolkit.settings import Settings
from hf_inference_toolkit.settings import read as read_settings

peft = pytest.importorskip("peft", reason="peft is not installed")
torch = pytest.importorskip("torch", reason="adapters are shown on PyTorch")
transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.filterwarnings("ignore")
CLASSIFIER = "AutoModelForSequenceClassification"
TEXTS = ["i like you", "what is this with paris", "the model was beautiful", "how many stars"]
GREEDY = {"max_new_tokens": 12, "details": True}


def near(one, other, most=1e-4):
    """Whether two answers are equal but for small differences of numbers."""
    if isinstance(one, dict):
        return set(one) == set(other) and all(near(one[key], other[key], most) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(near(a, b, most) for a, b in zip(one, other))
    if isinstance(one, float) and isinstance(other, float):
        return abs(one - other) <= most
    return one == other


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("adapters")


@pytest.fixture(scope="module")
def labelled(root):
    """A classifier, two adapters of it, and what PEFT merges them into."""
    base = adapter_models.classifier(root / "classifier")
    found = {"base": base}
    for place, name in enumerate(("one", "two")):
        config = adapter_models.peft_config(
            target_modules=["query", "value"], task_type="SEQ_CLS", use_dora=name == "two"
        )
        found[name] = adapter_models.add(base, root / ("labelled-" + name), config, CLASSIFIER, place)
        whole = root / ("labelled-{}-merged".format(name))
        found[name + "-merged"] = adapter_models.merged(base, found[name], whole, CLASSIFIER)
    return found


@pytest.fixture(scope="module")
def written(root):
    """The same for a decoder with a chat template. The second adapter has a tokenizer with another template."""
    base = generation_models.decoder(root / "decoder", generation_models.CHAT, positions=512)
    found = {"base": base}
    for place, name in enumerate(("one", "two")):
        config = adapter_models.peft_config(
            target_modules=["c_attn", "c_proj"], fan_in_fan_out=True, task_type="CAUSAL_LM"
        )
        found[name] = adapter_models.add(base, root / ("written-" + name), config, seed=place)
        if name == "two":
            template = generation_models.CHAT.replace("<{{ m['role'] }}>", "[{{ m['role'] }}]")
            tokenizer = generation_models.byte_level_tokenizer(512, template)
            tokenizer.save_pretrained(str(found[name]))
        whole = root / ("written-{}-merged".format(name))
        found[name + "-merged"] = adapter_models.merged(base, found[name], whole)
    return found


def named(folders, **more):
    """The value of HF_ADAPTERS."""
    pairs = [(name, folders[name]) for name in ("one", "two")]
    return tuple((name, str(folder)) for name, folder in [*pairs, *more.items()])


# One adapter, merged at start


@pytest.mark.parametrize(
    "where", ["inside", "beside", "relative", "absolute", "HF_MODEL_ID", "as HF_MODEL_ID"]
)
def test_adapter_folder_is_served_as_the_merged_model(labelled, tmp_path, where):
    folder, settings = tmp_path / "model", {}
    shutil.copytree(str(labelled["one"]), str(folder))
    if where == "inside":
        shutil.copytree(str(labelled["base"]), str(folder / "anything"))
    elif where == "beside":
        shutil.copytree(str(labelled["base"]), str(tmp_path / "base"))
    elif where == "HF_MODEL_ID":
        settings["model_id"] = str(labelled["base"])
    else:
        name = labelled["base"] if where == "absolute" else tmp_path / "elsewhere"
        if where != "absolute":
            shutil.copytree(str(labelled["base"]), str(name))
        adapter_models.change(
            folder, base_model_name_or_path="../elsewhere" if where != "absolute" else str(name)
        )
    if where == "as HF_MODEL_ID":
        settings["model_id"], folder = str(folder), tmp_path / "no"
    right = answer(served(labelled["one-merged"]), TEXTS, top_k=None)
    plain = answer(served(labelled["base"]), TEXTS, top_k=None)
    service = served(folder, **settings)
    assert near(answer(service, TEXTS, top_k=None), right, 1e-5)
    assert not near(right, plain, 1e-2)
    assert service.facts["adapter"] == "LORA"
    # No layer of the adapter is left, which would cost time.
    assert not any("lora" in name for name, _ in service.runtime.model.named_modules())


def test_merged_decoder_writes_what_the_merged_model_writes(written, tmp_path):
    folder = adapter_models.with_base(written["base"], written["two"], tmp_path / "model")
    one, other = served(folder), served(written["two-merged"])
    assert one.facts["decoding"] == "continuous batching"
    for text in ("where is", [{"role": "user", "content": "where is paris?"}]):
        assert near(answer(one, text, **GREEDY), answer(other, text, **GREEDY))


@pytest.mark.skipif(
    not openvino.is_installed(),
    reason="OpenVINO is not installed: needs openvino, which this image does not have",
)
def test_openvino_serves_the_merged_model_and_not_that_of_another_adapter(labelled, tmp_path):
    answers = []
    for name in ("one", "two"):
        folder = tmp_path / "model"
        shutil.rmtree(str(folder), ignore_errors=True)
        adapter_models.with_base(labelled["base"], labelled[name], folder)
        if name == "two":
            shutil.move(str(tmp_path / "openvino"), str(folder / "openvino"))
        service = served(folder, runtime="openvino")
        assert service.engine.name == "OpenVINO"
        answers.append(answer(service, TEXTS, top_k=None))
        right = answer(served(labelled[name + "-merged"]), TEXTS, top_k=None)
        assert near(answers[-1], right)
        assert (folder / "openvino").is_dir()
        if name == "one":
            shutil.move(str(folder / "openvino"), str(tmp_path / "openvino"))
    assert not near(*answers, 1e-2)


KINDS = {
    "LORA": ("Lora", {"target_modules": ["query"], "use_rslora": True}),
    "DoRA": ("Lora", {"target_modules": ["query"], "use_dora": True}),
    "PiSSA": ("Lora", {"target_modules": ["query"], "init_lora_weights": "pissa"}),
    "embeddings": ("Lora", {"target_modules": ["query", "word_embeddings"]}),
    "new embeddings": ("Lora", {"target_modules": ["query"], "modules_to_save": ["word_embeddings"]}),
    "tokens": ("Lora", {"target_modules": ["query"], "trainable_token_indices": [5, 6]}),
    "biases": ("Lora", {"target_modules": ["query"], "bias": "all"}),
    "ADALORA": ("AdaLora", {"target_modules": ["query"], "total_step": 10}),
    "IA3": ("IA3", {"target_modules": ["key", "output.dense"], "feedforward_modules": ["output.dense"]}),
    "LOHA": ("LoHa", {"target_modules": ["query"]}),
    "LOKR": ("LoKr", {"target_modules": ["query"]}),
    "OFT": ("OFT", {"target_modules": ["query"], "oft_block_size": 4}),
    "VERA": ("Vera", {"target_modules": ["query"], "r": 4}),
    "C3A": ("C3A", {"target_modules": ["query"], "block_size": 4}),
    "FOURIERFT": ("FourierFT", {"target_modules": ["query"], "n_frequency": 10}),
    "MISS": ("Miss", {"target_modules": ["query"], "r": 4}),
    "RANDLORA": ("RandLora", {"target_modules": ["query"], "r": 4}),
    "ROAD": ("Road", {"target_modules": ["query"], "group_size": 4}),
    "SHIRA": ("Shira", {"target_modules": ["query"], "r": 4}),
    "TRAINABLE_TOKENS": ("TrainableTokens", {"target_modules": ["word_embeddings"], "token_indices": [5, 6]}),
    "HRA": ("HRA", {"target_modules": ["query"], "r": 4}),
    "LN_TUNING": ("LNTuning", {"target_modules": ["LayerNorm"]}),
}


def test_every_type_that_is_merged_is_compared():
    assert {KINDS[kind][0] for kind in adapters.MERGED if kind != "LORA"} <= {
        made for made, _ in KINDS.values()
    }


@pytest.mark.parametrize("kind", list(KINDS))
def test_numbers_of_merged_adapters_are_those_of_peft_without_merging(labelled, tmp_path, kind):
    if not hasattr(peft, KINDS[kind][0] + "Config"):
        pytest.skip("this release of peft has no " + kind)
    config = adapter_models.peft_config(KINDS[kind][0], **KINDS[kind][1])
    folder = adapter_models.add(labelled["base"], tmp_path / "adapter", config, CLASSIFIER)
    auto = transformers.AutoModelForSequenceClassification
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        plain = auto.from_pretrained(str(labelled["base"]))
        before = plain(input_ids=ids).logits.clone()
        right = peft.PeftModel.from_pretrained(plain, str(folder)).eval()(input_ids=ids).logits
        adapter = adapter_folder.read(folder)
        adapters.check_kind(adapter)
        base = auto.from_pretrained(str(labelled["base"]))
        merged, _ = adapters.merge(base, adapter, torch.float32)
        found = merged(input_ids=ids).logits
    assert torch.allclose(found, right, atol=1e-3)
    assert not torch.allclose(before, right, atol=1e-3)


@pytest.mark.parametrize(("has_sample", "warnings"), [(True, 0), (False, 1)])
def test_merge_without_a_comparison_is_a_warning(labelled, tmp_path, monkeypatch, has_sample, warnings):
    """A model that takes no sample tokens, such as one of images."""
    noted = []
    monkeypatch.setattr(adapters, "event", lambda level, message: noted.append((level, message)))
    config = adapter_models.peft_config(target_modules=["query"])
    folder = adapter_models.add(labelled["base"], tmp_path / "adapter", config, CLASSIFIER)
    base = transformers.AutoModelForSequenceClassification.from_pretrained(str(labelled["base"]))
    if not has_sample:
        monkeypatch.setattr(type(base), "dummy_inputs", {"pixel_values": torch.zeros(1)})
    adapters.merge(base, adapter_folder.read(folder), torch.float32)
    assert [level for level, _ in noted] == [30] * warnings


def test_merge_that_changes_the_numbers_is_refused(tmp_path):
    """The weights of the embeddings are also those of the last layer: only the first have the adapter."""
    base = generation_models.decoder(tmp_path / "decoder")
    config = adapter_models.peft_config(target_modules=["wte"])
    folder = adapter_models.add(base, tmp_path / "adapter", config)
    refused = refusal(adapter_models.with_base(base, folder, tmp_path / "model"))
    assert "cannot be merged" in refused
    assert "uses twice" in refused


@pytest.mark.parametrize("kind", ["PromptTuning", "PrefixTuning"])
def test_type_that_cannot_be_merged_is_named(written, tmp_path, kind):
    config = adapter_models.peft_config(kind, num_virtual_tokens=3, task_type="CAUSAL_LM")
    folder = adapter_models.add(written["base"], tmp_path / "adapter", config)
    refused = refusal(adapter_models.with_base(written["base"], folder, tmp_path / "model"))
    assert config.peft_type.value in refused
    assert "cannot merge" in refused
    refused = refusal(written["base"], adapters=(("a", str(folder)),))
    assert "HF_ADAPTERS: a is of the type " + config.peft_type.value in refused


def test_activated_lora_is_refused(labelled, tmp_path):
    folder = adapter_models.with_base(labelled["base"], labelled["one"], tmp_path / "model")
    adapter_models.change(folder, alora_invocation_tokens=[5, 6])
    assert "alora_invocation_tokens" in refusal(folder)


# What an adapter brings besides its matrices


@pytest.mark.parametrize("source", ["other labels", "no classifier", "named"])
def test_classifier_of_the_adapter_decides_about_labels(labelled, root, tmp_path, source):
    base = labelled["base"] if source != "no classifier" else adapter_models.encoder(tmp_path / "encoder")
    names = tiny.labels("A", "B", "C")
    config = adapter_models.peft_config(
        target_modules=["query"], task_type="SEQ_CLS", modules_to_save=["classifier"]
    )
    loading = dict(names, ignore_mismatched_sizes=True)
    folder = adapter_models.add(base, tmp_path / "adapter", config, CLASSIFIER, **loading)
    if source == "named":
        (folder / "config.json").write_text(json.dumps({"id2label": names["id2label"]}))
    right = served(adapter_models.merged(base, folder, tmp_path / "merged", CLASSIFIER, **loading))
    expected = answer(right, TEXTS[0], top_k=None)
    service = served(adapter_models.with_base(base, folder, tmp_path / "model"))
    assert service.task == "text-classification"
    found = answer(service, TEXTS[0], top_k=None)
    assert near([one["score"] for one in found], [one["score"] for one in expected])
    known = {"A", "B", "C"} if source == "named" else {"LABEL_0", "LABEL_1", "LABEL_2"}
    assert {one["label"] for one in found} == known


def test_classifier_that_nobody_has_trained_is_refused(tmp_path):
    base = adapter_models.encoder(tmp_path / "encoder")
    config = adapter_models.peft_config(target_modules=["query"])
    folder = adapter_models.add(base, tmp_path / "adapter", config, "AutoModel")
    folder = adapter_models.with_base(base, folder, tmp_path / "model")
    assert served(folder).task == "feature-extraction"
    adapter_models.change(folder, task_type="SEQ_CLS")
    assert "does not fit" in refusal(folder)


def test_tokens_that_the_training_has_added_are_served(written, tmp_path):
    base = written["base"]
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(base))
    tokenizer.add_tokens(["<mark>", "<other>"])
    config = adapter_models.peft_config(target_modules=["c_attn"], fan_in_fan_out=True, task_type="CAUSAL_LM")
    folder = adapter_models.add(base, tmp_path / "adapter", config, tokens=len(tokenizer))
    tokenizer.save_pretrained(str(folder))
    right = served(adapter_models.merged(base, folder, tmp_path / "merged", tokens=len(tokenizer)))
    service = served(adapter_models.with_base(base, folder, tmp_path / "model"))
    assert near(answer(service, "where <mark> is", **GREEDY), answer(right, "where <mark> is", **GREEDY))
    # Beside others it would change the embeddings of all of them.
    refused = refusal(base, adapters=(("a", str(folder)),))
    assert "HF_ADAPTERS" in refused
    assert str(folder) in refused
    # Without their embeddings it is incomplete.
    tokenizer.save_pretrained(str(written["one"]))
    try:
        incomplete = adapter_models.with_base(base, written["one"], tmp_path / "incomplete")
        assert "without their embeddings" in refusal(incomplete)
        assert "without their embeddings" in refusal(base, adapters=(("a", str(written["one"])),))
    finally:
        for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
            (written["one"] / name).unlink()


def test_modules_of_the_adapters_folder_decide_about_vectors(tmp_path):
    """An adapter of sentence-transformers."""
    base = adapter_models.encoder(tmp_path / "encoder")
    config = adapter_models.peft_config(target_modules=["query"])
    folder = adapter_models.add(base, tmp_path / "adapter", config, "AutoModel")
    merged = adapter_models.merged(base, folder, tmp_path / "merged", "AutoModel")
    model = adapter_models.with_base(base, folder, tmp_path / "model")
    for place in (model, merged):
        tiny.save_modules(
            place, [("Transformer", None), ("Pooling", tiny.pooling("cls")), ("Normalize", None)]
        )
    service = served(model)
    assert service.task == "sentence-embeddings"
    assert near(answer(service, TEXTS), answer(served(merged), TEXTS), 1e-5)


def test_pipeline_serves_the_merged_model(tmp_path, pipeline_folder):
    base = pipeline_folder("image-classification")
    config = adapter_models.peft_config(target_modules="all-linear")
    folder = adapter_models.add(base, tmp_path / "adapter", config, "AutoModelForImageClassification")
    merged = adapter_models.merged(base, folder, tmp_path / "merged", "AutoModelForImageClassification")
    pixel = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
    found = [
        served(place, task="image-classification").predict(Request(pixel, {}, []), lambda: None).value
        for place in (adapter_models.with_base(base, folder, tmp_path / "model"), merged, base)
    ]
    assert near(*found[:2])
    assert not near(found[0], found[2], 1e-3)
    refused = refusal(base, adapters=(("a", str(folder)),), task="image-classification")
    assert "one adapter at most" in refused


# What cannot be loaded


def test_base_model_that_is_unreachable_is_named_with_what_to_do(labelled, monkeypatch, tmp_path):
    settings = {"hub_endpoint": "http://127.0.0.1:9", "hub_cache": str(tmp_path / "cache")}
    refused = refusal(labelled["one"], **settings)
    assert "needs its base model 'someone/base'" in refused
    assert "HF_MODEL_ID" in refused
    folder = tmp_path / "model"
    shutil.copytree(str(labelled["one"]), str(folder))
    adapter_models.change(folder, base_model_name_or_path="/home/someone/base")
    assert "'/home/someone/base': there is no such folder here" in refusal(folder)
    adapter_models.change(folder, base_model_name_or_path=None)
    assert "it is not named" in refusal(folder)
    # The folder of the adapter is not its base model, although it has a config.json and the same name.
    (folder / "config.json").write_text("{}")
    for name in (".", "/somewhere/model"):
        adapter_models.change(folder, base_model_name_or_path=name)
        assert "there is no such folder here" in refusal(folder)
    assert "contains no config.json" in refusal(folder, model_id=str(tmp_path / "no"))


@pytest.mark.parametrize("other", ["width", "more layers", "fewer layers", "architecture"])
def test_base_model_of_another_shape_is_refused(labelled, tmp_path, other):
    changed = {
        "width": {"hidden_size": 48},
        "more layers": {"num_hidden_layers": 3},
        "fewer layers": {"num_hidden_layers": 1},
    }
    if other == "architecture":
        base = generation_models.decoder(tmp_path / "other")
    else:
        sizes = dict(tiny.BERT, **changed[other])
        base = tiny.save(tmp_path / "other", "BertConfig", "BertForSequenceClassification", sizes)
    folder = adapter_models.with_base(base, labelled["one"], tmp_path / "model")
    if other == "architecture":
        adapter_models.change(folder, task_type="CAUSAL_LM")
    refused = refusal(folder)
    assert "does not fit the base model" in refused
    assert "someone/base" in refused
    task = None if other != "architecture" else "text-generation"
    assert "does not fit the base model" in refusal(base, adapters=(("a", str(labelled["one"])),), task=task)


def test_missing_peft_is_named_before_the_base_model_is_fetched(labelled, monkeypatch):
    find = adapter_folder.importlib.util.find_spec
    monkeypatch.setattr(
        adapter_folder.importlib.util, "find_spec", lambda name: None if name == "peft" else find(name)
    )
    refused = refusal(labelled["one"])
    assert "someone/base" in refused
    assert "needs peft" in refused
    assert "code/requirements.txt" in refused
    assert "needs peft" in refusal(labelled["base"], adapters=named(labelled))


def test_tensorflow_is_refused(labelled, monkeypatch):
    monkeypatch.setattr(adapter_folder, "installed_framework", lambda: "tf")
    for folder, more in ((labelled["one"], {}), (labelled["base"], {"adapters": named(labelled)})):
        with pytest.raises(StartError, match="needs PyTorch, and this image has TensorFlow"):
            load_model(Settings(model_dir=str(folder), runtime="torch", **more))


class Payload:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_pickles_are_read_without_the_code_in_them(labelled, tmp_path):
    folder = adapter_models.with_base(labelled["base"], labelled["one"], tmp_path / "model")
    from safetensors.torch import load_file

    weights = load_file(str(folder / "adapter_model.safetensors"))
    (folder / "adapter_model.safetensors").unlink()
    torch.save(weights, str(folder / "adapter_model.bin"))
    right = answer(served(labelled["one-merged"]), TEXTS)
    assert near(answer(served(folder), TEXTS), right, 1e-5)
    with (folder / "adapter_model.bin").open("wb") as file:
        pickle.dump({"a": Payload(tmp_path / "written")}, file)
    assert "contains code, which is not run" in refusal(folder)
    assert "contains code, which is not run" in refusal(labelled["base"], adapters=(("a", str(folder)),))
    assert not (tmp_path / "written").exists()


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda folder: (folder / "adapter_model.safetensors").unlink(), "no adapter_model.safetensors"),
        (lambda folder: (folder / "adapter_model.safetensors").write_bytes(b"no"), "is damaged"),
        (lambda folder: (folder / "adapter_config.json").write_text("{"), "cannot be read"),
        (
            lambda folder: (folder / "adapter_config.json").write_text("[]"),
            "not the configuration of an adapter",
        ),
        (lambda folder: (folder / "adapter_config.json").write_text("{}"), '"peft_type"'),
        (lambda folder: adapter_models.change(folder, peft_type="NOTHING"), "NOTHING"),
        (lambda folder: adapter_models.change(folder, target_modules=["nothing"]), "does not fit"),
        (
            lambda folder: shutil.copy(str(folder / "adapter_config.json"), str(folder / "base")),
            "contains the weights of a model and adapter_config.json",
        ),
        (
            lambda folder: [
                (folder / "base" / "model.safetensors").unlink(),
                shutil.copy(str(folder / "adapter_config.json"), str(folder / "base")),
            ],
            "contains an adapter itself",
        ),
        (
            lambda folder: (folder / "base" / "config.json").write_text(
                json.dumps(
                    dict(
                        json.loads((folder / "base" / "config.json").read_text()),
                        quantization_config={"quant_method": "gptq", "bits": 4},
                    )
                )
            ),
            "is quantised (gptq)",
        ),
    ],
)
def test_incomplete_and_damaged_adapters_are_refused(labelled, tmp_path, damage, words):
    folder = adapter_models.with_base(labelled["base"], labelled["one"], tmp_path / "model")
    damage(folder)
    assert words in refusal(folder)


def test_model_beside_an_adapter_in_one_folder_is_refused(labelled, tmp_path):
    """transformers would apply the adapter to a model that may be merged already."""
    folder = tmp_path / "model"
    shutil.copytree(str(labelled["base"]), str(folder))
    for path in labelled["one"].iterdir():
        shutil.copy(str(path), str(folder))
    assert "contains the weights of a model and adapter_config.json" in refusal(folder)


@pytest.mark.parametrize("has_model", [False, True])
def test_base_model_comes_from_the_hub_at_the_revision_of_the_adapter(labelled, tmp_path, has_model):
    """A repository with the weights of a model is that model, although it has the adapter of its training."""
    import small_hub
    import test_hub

    contents = {
        name: {path.name: path.read_bytes() for path in labelled[name].iterdir() if path.is_file()}
        for name in ("base", "one")
    }
    config = dict(
        json.loads(contents["one"]["adapter_config.json"]),
        base_model_name_or_path="someone/model",
        revision=OLD,
    )
    contents["one"]["adapter_config.json"] = json.dumps(config).encode()
    if has_model:
        contents["one"] = dict(contents["base"], **contents["one"])
    script = test_hub.SCRIPT.replace(
        "folder = model_folder.find_model(values)",
        "from hf_inference_toolkit.loading import adapter_folder\n"
        "    folder = adapter_folder.find(values, model_folder.find_model(values)).weights",
    ).replace("except", "except")
    with small_hub.running({OLD: contents["base"], NEW: contents["one"]}) as hub:
        plain, test_hub.SCRIPT = test_hub.SCRIPT, script
        try:
            found = test_hub.fetch(hub, tmp_path, HF_TOKEN="hf_secret", HF_MODEL_REVISION=NEW)
        finally:
            test_hub.SCRIPT = plain
    assert Path(found["folder"]).name == (NEW if has_model else OLD)
    assert "model.safetensors" in found["files"]
    assert "adapter_config.json" not in found["files"]


# Several adapters, by request


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("a=/x", (("a", "/x"),)),
        (" a = /x , b.1=someone/repo@main ", (("a", "/x"), ("b.1", "someone/repo@main"))),
    ],
)
def test_adapters_are_names_and_locations(value, found):
    assert read_settings({"HF_ADAPTERS": value}).adapters == found


@pytest.mark.parametrize(
    "value",
    ["a", "=x", "a=", "a=/x,", "a=/x,,b=/y", "a/b=/x", "a=/x,a=/y", "..=/x", "a b=/x", "a" * 65 + "=/x"],
)
def test_adapters_with_other_names_are_refused(value):
    with pytest.raises(StartError, match="HF_ADAPTERS"):
        read_settings({"HF_ADAPTERS": value})


def test_location_of_an_adapter_that_is_wrong_is_named(labelled, tmp_path):
    for location, words in (
        (str(tmp_path / "no"), "which does not exist"),
        (str(labelled["base"]), "no adapter_config.json"),
        ("a:b", "neither a folder"),
        ("someone/adapter", "someone/adapter at revision main cannot be fetched"),
    ):
        settings = {"hub_endpoint": "http://127.0.0.1:9", "hub_cache": str(tmp_path / "cache")}
        assert words in refusal(labelled["base"], adapters=(("a", location),), **settings)


def test_adapters_over_an_adapter_are_refused(labelled, tmp_path):
    folder = adapter_models.with_base(labelled["base"], labelled["one"], tmp_path / "model")
    assert "HF_ADAPTERS needs a base model" in refusal(folder, adapters=named(labelled))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"bias": "all"}, "replaces weights"),
        ({"init_lora_weights": "pissa"}, "changes the weights"),
    ],
)
def test_adapters_that_change_the_base_model_are_refused(labelled, tmp_path, options, words):
    config = adapter_models.peft_config(target_modules=["query"], **options)
    folder = adapter_models.add(labelled["base"], tmp_path / "adapter", config, CLASSIFIER)
    assert words in refusal(labelled["base"], adapters=(("a", str(folder)),))


def test_openvino_does_not_serve_several_adapters(labelled):
    refused = refusal(labelled["base"], adapters=named(labelled), runtime="openvino")
    assert "HF_ADAPTERS" in refused


def test_user_code_that_loads_the_model_is_refused(labelled, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(str(labelled["base"]), str(folder))
    (folder / "code").mkdir()
    code = folder / "code" / "inference.py"
    code.write_text(
        "def predict_fn(data, model):\n    return model(data['inputs'], adapter_id=data.get('which'))\n"
    )
    right = {name: answer(served(labelled[name + "-merged"]), TEXTS) for name in ("one", "two")}
    with serving.serve(load_model, model_dir=str(folder), adapters=named(labelled)) as server:
        for name, expected in right.items():
            assert near(server.post({"inputs": TEXTS, "which": name}).json, expected)
        assert server.post({"inputs": TEXTS, "which": "three"}).status == 400
    code.write_text("def model_fn(folder):\n    return 1\n\n\ndef predict_fn(data, model):\n    return 1\n")
    assert "HF_ADAPTERS has no effect" in refusal(folder, adapters=named(labelled))


def test_multi_model_endpoints_load_adapters_as_models(labelled, tmp_path):
    from hf_inference_toolkit.loading import footprint

    with pytest.raises(StartError, match="load each adapter as a model"):
        load_model(Settings(multi_model=True, adapters=named(labelled)))
    folder = adapter_models.with_base(labelled["base"], labelled["one"], tmp_path / "model")
    needed = footprint.estimate(Settings(model_dir=str(folder)))
    assert needed == footprint.estimate(Settings(model_dir=str(labelled["base"]))) > 0
    service = served(folder, multi_model=True, model_name="one")
    assert near(answer(service, TEXTS), answer(served(labelled["one-merged"]), TEXTS), 1e-5)


@pytest.fixture(scope="module")
def classifying(labelled):
    with serving.serve(load_model, model_dir=str(labelled["base"]), adapters=named(labelled)) as server:
        assert server.app.model.state == "ready"
        yield server


def test_answers_are_those_of_the_merged_models_under_load(labelled, classifying):
    """Requests for all of them at once: they wait together, and never share a pass."""
    wanted = {"one": "one-merged", "two": "two-merged", None: "base"}
    right = {name: answer(served(labelled[folder]), TEXTS, top_k=None) for name, folder in wanted.items()}
    assert not near(right["one"], right["two"], 1e-2)

    def ask(place):
        name = (None, "one", "two")[place % 3]
        text = place % len(TEXTS)
        parameters = {"top_k": None, **({"adapter_id": name} if name or place % 2 else {})}
        reply = classifying.post({"inputs": TEXTS[text], "parameters": parameters})
        return reply.status == 200 and near(reply.json, right[name][text], 1e-5)

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        assert all(pool.map(ask, range(240)))
    rows = classifying.get("/metrics").body.decode()
    assert "hf_pass_rows" in rows


def test_rows_of_different_adapters_have_different_keys(labelled):
    service = load_model(Settings(model_dir=str(labelled["base"]), runtime="torch", adapters=named(labelled)))
    keys = set()
    for name in (None, "one", "two"):
        steps = service.steps(Request(TEXTS, {"adapter_id": name}, []), lambda: None)
        keys.update(piece.key for piece in next(steps))
    assert len(keys) == 3


@pytest.mark.parametrize("wrong", ["three", "", 1, ["one"], {"a": 1}, "ONE"])
def test_unknown_adapters_get_an_error_that_names_the_known_ones(classifying, wrong):
    reply = classifying.post({"inputs": TEXTS[0], "parameters": {"adapter_id": wrong}})
    assert reply.status == 400
    assert "must be one of one, two" in reply.json["error"]["message"]
    assert classifying.get("/ping").status == 200


def test_adapter_is_named_in_the_query_and_described(labelled, classifying):
    right = answer(served(labelled["two-merged"]), TEXTS[0])
    assert near(classifying.post({"inputs": TEXTS[0]}, path="/invocations?adapter_id=two").json, right)
    body = classifying.get("/openapi.json").json
    assert '"adapter_id"' in json.dumps(body)
    assert "one, two" in json.dumps(body)


def test_servers_without_adapters_refuse_the_parameter(labelled):
    with serving.serve(load_model, model_dir=str(labelled["base"])) as server:
        assert server.post({"inputs": "a", "parameters": {"adapter_id": "one"}}).status == 400


def test_embeddings_of_adapters(root, tmp_path):
    base = adapter_models.encoder(tmp_path / "encoder")
    folders = {}
    for place, name in enumerate(("one", "two")):
        config = adapter_models.peft_config(target_modules=["query", "key"])
        folders[name] = adapter_models.add(base, tmp_path / name, config, "AutoModel", place)
        merged = adapter_models.merged(base, folders[name], tmp_path / (name + "-merged"), "AutoModel")
        folders[name + "-merged"] = merged
    settings = {"task": "sentence-embeddings"}
    with serving.serve(load_model, model_dir=str(base), adapters=named(folders), **settings) as server:
        for name in ("one", "two"):
            right = answer(served(folders[name + "-merged"], **settings), TEXTS)
            reply = server.post({"model": name, "input": TEXTS}, path="/v1/embeddings").json
            assert reply["model"] == name
            assert near([one["embedding"] for one in reply["data"]], right)
            assert near(server.post({"inputs": TEXTS, "parameters": {"adapter_id": name}}).json, right)
        reply = server.post({"model": "three", "input": TEXTS}, path="/v1/embeddings")
        assert reply.status == 404
        assert reply.json["error"]["param"] == "model"
        assert server.post({"inputs": TEXTS}, path="/embed").status == 200


def test_beams_of_adapters(root, tmp_path):
    """`generate` writes them, in passes that take turns with other work."""
    base = generation_models.encoder_decoder(tmp_path / "bart")
    config = adapter_models.peft_config(target_modules=["q_proj", "v_proj"], task_type="SEQ_2_SEQ_LM")
    auto = "AutoModelForSeq2SeqLM"
    folder = adapter_models.add(base, tmp_path / "one", config, auto)
    merged = adapter_models.merged(base, folder, tmp_path / "merged", auto)
    task = {"task": "summarization"}
    right = {
        name: answer(served(place, **task), "where is paris", max_new_tokens=20)
        for name, place in (("one", merged), (None, base))
    }
    assert right["one"] != right[None]
    with serving.serve(load_model, model_dir=str(base), adapters=(("one", str(folder)),), **task) as server:

        def ask(place):
            name = "one" if place % 2 else None
            parameters = {"adapter_id": name, "max_new_tokens": 20}
            return server.post({"inputs": "where is paris", "parameters": parameters}).json == right[name]

        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            assert all(pool.map(ask, range(12)))


# Text generation


@pytest.fixture(scope="module")
def right(written):
    """The models that PEFT has merged, and the base model, by the names of the adapters."""
    folders = {"one": "one-merged", "two": "two-merged", None: "base"}
    return {name: served(written[folder]) for name, folder in folders.items()}


@pytest.fixture(scope="module")
def writing(written):
    with serving.serve(load_model, model_dir=str(written["base"]), adapters=named(written)) as server:
        assert server.app.model.state == "ready"
        assert server.app.model.service.facts["decoding"] == "continuous batching"
        yield server


LONG = "my name is anna smith and i work in brooklyn at acme; " * 8


def test_texts_are_those_of_the_merged_models_under_load(writing, right):
    """Texts of all adapters are written at once, with the same prompts, of which long ones have known beginnings."""
    prompts = ["where is", "what is this", LONG + "where", LONG + "what is this"]
    expected = {
        (name, prompt): answer(service, prompt, **GREEDY)[0]
        for name, service in right.items()
        for prompt in prompts
    }
    assert len({expected[name, LONG + "where"]["generated_text"] for name in right}) == 3

    def ask(place):
        name, prompt = (None, "one", "two")[place % 3], prompts[place // 3 % 4]
        parameters = dict(GREEDY, **({"adapter_id": name} if name else {}))
        found = writing.post({"inputs": prompt, "parameters": parameters}).json[0]
        return near(found, expected[name, prompt], 1e-3)

    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        assert all(pool.map(ask, range(96)))


def write_alone(service, batch, prompt, name):
    """A text by a decoding batch."""
    request = service.accepted(Request(prompt, dict(GREEDY, adapter_id=name), []))
    steps = service.steps(request, lambda: None)
    (piece,) = next(steps)
    assert piece.is_decoded
    assert batch.fits(piece)
    handle = object()
    batch.add(handle, piece)
    finished = ()
    while not finished:
        finished = batch.step(lambda: None).finished
    with pytest.raises(StopIteration) as end:
        steps.send([finished[0].output])
    return end.value.value.value


def test_beginning_that_one_adapter_has_read_is_read_again_by_another(written, right, monkeypatch):
    from hf_inference_toolkit.runtimes.forward_pass import ForwardPass

    service = served(written["base"], adapters=named(written))
    read, columns = ForwardPass.read, []

    def counted(self, prompts, cache, done, count):
        columns.append(count * len(prompts))
        return read(self, prompts, cache, done, count)

    monkeypatch.setattr(ForwardPass, "read", counted)
    batch = service.decoding_batch()
    lengths = []
    for name in ("one", "two", None, "one", "two", None):
        prompt = LONG + "where is paris"
        columns.clear()
        found = write_alone(service, batch, prompt, name)
        lengths.append(sum(columns))
        expected = answer(right[name], prompt, **GREEDY)
        assert near(found, expected, 1e-3)
    # Each adapter has read the prompt once, and knows it the second time.
    assert min(lengths[:3]) > 64
    assert max(lengths[3:]) <= 2
    assert batch.usage == 0


def test_adapters_share_the_memory_of_the_kv_cache(written):
    service = served(written["base"], adapters=named(written), kv_cache=256 * 300)
    batch = service.decoding_batch()
    budget = int(service.facts["kv_cache_tokens"])
    prompt = "where is paris " * 4

    def piece(name):
        parameters = {"max_new_tokens": budget // 2 - 40, "adapter_id": name}
        return next(service.steps(Request(prompt, parameters, []), lambda: None))[0]

    assert batch.fits(piece("one"))
    first, second = object(), object()
    batch.add(first, piece("one"))
    batch.step(lambda: None)
    batch.add(second, piece("one"))
    batch.step(lambda: None)
    assert not batch.fits(piece("two"))
    assert batch.usage > 0.5
    batch.remove([first, second])
    # The rows that were removed need no memory, although no step was made since.
    assert batch.fits(piece("two"))
    batch.add(first, piece("two"))
    assert batch.step(lambda: None).started == [first]
    batch.clear()
    assert batch.usage == 0


def test_openai_models_are_the_base_model_and_its_adapters(writing, right, written):
    listed = writing.get("/v1/models").json["data"]
    base = Path(str(written["base"])).name
    assert [one["id"] for one in listed] == [base, "one", "two"]
    assert [one.get("parent") for one in listed] == [None, base, base]
    assert writing.get("/v1/models/two").json["parent"] == base
    assert writing.get("/v1/models/three").status == 404
    message = {"role": "user", "content": "where is paris?"}
    for name in ("one", "two", None):
        body = {"model": name or base, "messages": [message], "max_tokens": 12, "temperature": 0}
        reply = writing.post(body, path="/v1/chat/completions").json
        whole = answer(right[name], [message], max_new_tokens=12, return_full_text=False)[0]
        assert reply["choices"][0]["message"]["content"] == whole["generated_text"]
        assert reply["model"] == (name or base)
        body = {"model": name or base, "prompt": "where is", "max_tokens": 12, "temperature": 0}
        whole = answer(right[name], "where is", max_new_tokens=12, return_full_text=False)[0]
        for path in ("/v1/completions", "/invocations"):
            assert writing.post(body, path=path).json["choices"][0]["text"] == whole["generated_text"]
        events = writing.post(dict(body, stream=True), path="/v1/completions").body.decode()
        parts = [json.loads(line[6:]) for line in events.splitlines() if line.startswith("data: {")]
        assert "".join(part["choices"][0]["text"] for part in parts) == whole["generated_text"]
        assert {part["model"] for part in parts} == {name or base}
    # Without a model, and as /generate of text-generation-inference.
    body = {"prompt": "where is", "max_tokens": 12, "temperature": 0}
    whole = answer(right[None], "where is", max_new_tokens=12, return_full_text=False)[0]
    assert writing.post(body, path="/v1/completions").json["choices"][0]["text"] == whole["generated_text"]
    body = {"inputs": "where is", "parameters": {"adapter_id": "two", "max_new_tokens": 12}}
    whole = answer(right["two"], "where is", max_new_tokens=12, return_full_text=False)[0]
    assert writing.post(body, path="/generate").json["generated_text"] == whole["generated_text"]


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions", "/invocations"])
def test_unknown_models_get_a_404_that_names_the_known_ones(writing, written, path):
    message = {"role": "user", "content": "a"}
    body = {"model": "gpt-4", "messages": [message]} if "chat" in path else {"model": "gpt-4", "prompt": "a"}
    reply = writing.post(body, path=path)
    assert reply.status == 404
    error = reply.json["error"]
    assert error["param"] == "model"
    assert error["message"].endswith("the models are {}, one, two".format(Path(str(written["base"])).name))
