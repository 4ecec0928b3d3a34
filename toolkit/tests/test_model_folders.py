"""What a start says about model folders that are not complete, or that HF_TASK does not fit."""

import json
import logging
import shutil
import subprocess
import sys

import pytest
import serving
import tiny
import tiny_pipelines

from hf_inference_toolkit.errors import StartError
from hf_inference_toolkit.loading.loader import load_model
from hf_inference_toolkit.settings import Settings
from hf_inference_toolkit.tasks import registry

transformers = pytest.importorskip("transformers", minversion="4.30")
if tiny.FRAMEWORK != "pt":
    pytest.skip("shown on PyTorch", allow_module_level=True)


def refusal(folder, **settings):
    """What the log says of a start that fails; a start includes the warm-up."""
    records = []
    handler = logging.Handler(logging.ERROR)
    handler.emit = records.append
    logging.getLogger("hf_inference_toolkit").addHandler(handler)
    try:
        with serving.serve(load_model, model_dir=str(folder), **settings) as server:
            assert server.app.model.state == "failed"
    finally:
        logging.getLogger("hf_inference_toolkit").removeHandler(handler)
    (message,) = [record.getMessage() for record in records]
    assert "\n" not in message
    return message


@pytest.fixture
def copy(model_folder, tmp_path):
    """A copy of a small model that a test may damage."""

    def make(task):
        shutil.copytree(str(model_folder(task)), str(tmp_path / "model"))
        return tmp_path / "model"

    return make


@pytest.mark.parametrize(
    ("task", "other", "right"),
    [
        ("text-classification", "ner", "text-classification"),
        ("text-classification", "token-classification", "text-classification"),
        ("token-classification", "text-classification", "token-classification"),
        ("token-classification", "zero-shot-classification", "token-classification"),
    ],
)
def test_classifiers_of_texts_and_of_tokens_are_told_apart(model_folder, task, other, right):
    """Their weights have the same names and sizes: only the architecture shows the mistake."""
    with pytest.raises(StartError) as refused:
        load_model(Settings(model_dir=str(model_folder(task)), task=other))
    assert "HF_TASK={} does not fit this model".format(other) in str(refused.value)
    assert "set HF_TASK=" + right in str(refused.value)


@pytest.mark.parametrize(
    ("task", "id2label", "words"),
    [
        ("text-classification", {"0": "x", "5": "y"}, "id2label in config.json has no name for label 1 of 2"),
        ("text-classification", {"0": "x"}, "other shapes than its config.json says"),
        ("token-classification", {"0": "O", "1": "B", "9": "I"}, "other shapes than its config.json says"),
    ],
)
def test_labels_that_do_not_fit_are_named(copy, task, id2label, words):
    folder = copy(task)
    config = json.loads((folder / "config.json").read_text())
    config.update(id2label=id2label, label2id={label: int(index) for index, label in id2label.items()})
    config.pop("num_labels", None)
    (folder / "config.json").write_text(json.dumps(config))
    assert words in refusal(folder, task=task)


@pytest.mark.parametrize("task", ["text-classification", "text-generation", "question-answering"])
def test_missing_tokenizer_files_are_named(copy, task):
    """transformers 5 makes a tokenizer without a vocabulary: every text would get the same answer."""
    folder = copy(task)
    for name in ("vocab.txt", "tokenizer.json"):
        if (folder / name).exists():
            (folder / name).unlink()
    with pytest.raises(StartError) as refused:
        load_model(Settings(model_dir=str(folder), task=task))
    assert "the tokenizer" in str(refused.value)
    assert "vocab.txt" in str(refused.value)


@pytest.mark.parametrize(
    ("task", "weight"),
    [
        ("text-classification", "classifier.weight"),
        ("feature-extraction", "embeddings.word_embeddings.weight"),
        ("text-generation", "transformer.ln_f.weight"),
        ("question-answering", "qa_outputs.bias"),
    ],
)
def test_weights_that_are_not_numbers_are_named(copy, task, weight):
    """NaN in one weight: no answer would be right."""
    import safetensors.torch

    folder = copy(task)
    weights = safetensors.torch.load_file(str(folder / "model.safetensors"))
    weights[weight] = weights[weight] * float("nan")
    safetensors.torch.save_file(weights, str(folder / "model.safetensors"), metadata={"format": "pt"})
    message = refusal(folder, task=task)
    assert "NaN or infinity: {}".format(weight.split(".", 1)[-1]) in message or weight in message


def test_answer_that_is_not_a_number_fails_the_warm_up(copy):
    """Finite weights whose product is not: bfloat16 and float16 reach infinity earlier."""
    import safetensors.torch

    folder = copy("text-classification")
    weights = safetensors.torch.load_file(str(folder / "model.safetensors"))
    weights["classifier.weight"] = weights["classifier.weight"] * 0 + 3e38
    safetensors.torch.save_file(weights, str(folder / "model.safetensors"), metadata={"format": "pt"})
    assert "the answer contains nan" in refusal(folder)


ARCHITECTURES = [
    ("LlavaForConditionalGeneration", "image-text-to-text"),
    ("Qwen2VLForConditionalGeneration", "image-text-to-text"),
    ("GitForCausalLM", "image-text-to-text"),
    ("LayoutLMForQuestionAnswering", "document-question-answering"),
    ("LayoutLMv3ForQuestionAnswering", "document-question-answering"),
    ("VitsModel", "text-to-audio"),
    ("SpeechT5ForTextToSpeech", "text-to-audio"),
    ("VideoMAEForVideoClassification", "video-classification"),
    ("Wav2Vec2ForSequenceClassification", "audio-classification"),
    ("WhisperForConditionalGeneration", "automatic-speech-recognition"),
    ("SpeechEncoderDecoderModel", "automatic-speech-recognition"),
    ("OwlViTForObjectDetection", "zero-shot-object-detection"),
    ("SiglipModel", "zero-shot-image-classification"),
    ("CLIPModel", "zero-shot-image-classification"),
    ("MaskFormerForInstanceSegmentation", "image-segmentation"),
    ("SamModel", "mask-generation"),
    ("ViTModel", "image-feature-extraction"),
    ("TapasForQuestionAnswering", "table-question-answering"),
    ("BertForQuestionAnswering", "question-answering"),
    ("BertForSequenceClassification", "text-classification"),
    ("BertForTokenClassification", "token-classification"),
    ("T5ForConditionalGeneration", "text2text-generation"),
    ("EncoderDecoderModel", "text2text-generation"),
    ("GPT2LMHeadModel", "text-generation"),
    ("LlamaForCausalLM", "text-generation"),
    ("Gemma3ForCausalLM", "text-generation"),
    ("BertForMaskedLM", "fill-mask"),
    ("BertModel", "feature-extraction"),
]


@pytest.mark.skipif(
    int(transformers.__version__.split(".")[0]) < 5, reason="older releases have fewer tables"
)
@pytest.mark.parametrize(("architecture", "task"), ARCHITECTURES)
def test_task_is_inferred_from_the_architecture(architecture, task):
    """Images and sound by the tables of the installed transformers, text by the name's ending."""
    assert registry.infer({"architectures": [architecture]}) == task


def test_task_is_inferred_where_pytorch_is_missing(monkeypatch):
    """With TensorFlow alone, transformers 4.5x has a placeholder in place of the module with the tables."""
    auto = pytest.importorskip("transformers.models.auto")
    pytest.importorskip("transformers.models.auto.modeling_auto")

    class Placeholder:
        def __getattr__(self, name):
            raise ImportError("modeling_auto requires the PyTorch library")

    monkeypatch.setattr(auto, "modeling_auto", Placeholder())
    found = registry.infer({"architectures": ["TFDistilBertForSequenceClassification"]})
    assert found == "text-classification"


def test_document_model_is_served_without_a_task(tmp_path):
    """LayoutLM by its architecture; its warm-up is a document of two words."""
    from transformers import BertTokenizerFast, LayoutLMConfig, LayoutLMForQuestionAnswering

    tiny.seed()
    LayoutLMForQuestionAnswering(LayoutLMConfig(**tiny.BERT)).save_pretrained(str(tmp_path))
    tiny.write_tokenizer(tmp_path)
    BertTokenizerFast.from_pretrained(str(tmp_path), model_max_length=128).save_pretrained(str(tmp_path))
    with serving.serve(load_model, model_dir=str(tmp_path)) as server:
        boxes = [["paris", [0, 0, 100, 100]], ["berlin", [100, 0, 200, 100]]]
        reply = server.post({"inputs": {"question": "the", "word_boxes": boxes}})
        assert server.app.model.service.task == "document-question-answering"
        assert reply.status in (200, 422), reply.body


@pytest.fixture(scope="module")
def depth_model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("depth")
    config = transformers.GLPNConfig(
        hidden_sizes=[16, 32, 64, 128],
        depths=[1, 1, 1, 1],
        num_attention_heads=[1, 2, 4, 8],
        decoder_hidden_size=16,
    )
    transformers.GLPNForDepthEstimation(config).save_pretrained(str(folder))
    (folder / "preprocessor_config.json").write_text(
        json.dumps({"image_processor_type": "GLPNImageProcessor", "size_divisor": 32})
    )
    return folder


def test_voice_is_served_without_a_task(tmp_path):
    """VITS by its architecture; its warm-up reads letters of its own alphabet."""
    config = transformers.VitsConfig(
        vocab_size=30,
        hidden_size=16,
        num_hidden_layers=1,
        ffn_dim=32,
        flow_size=16,
        spectrogram_bins=9,
        upsample_initial_channel=16,
        upsample_rates=[4, 4],
        upsample_kernel_sizes=[8, 8],
        resblock_kernel_sizes=[3],
        resblock_dilation_sizes=[[1]],
        posterior_encoder_num_wavenet_layers=1,
        prior_encoder_num_flows=1,
        prior_encoder_num_wavenet_layers=1,
        duration_predictor_filter_channels=16,
        duration_predictor_num_flows=1,
        depth_separable_num_layers=1,
    )
    tiny.seed()
    transformers.VitsModel(config).save_pretrained(str(tmp_path))
    letters = "\u0905\u0906\u0907\u0908\u0909\u090a"
    vocabulary = dict({"<pad>": 0, "<unk>": 1, " ": 2}, **{one: 3 + at for at, one in enumerate(letters)})
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    options = {"add_blank": True, "phonemize": False, "pad_token": "<pad>", "unk_token": "<unk>"}
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps(dict(options, tokenizer_class="VitsTokenizer"))
    )
    with serving.serve(load_model, model_dir=str(tmp_path)) as server:
        assert server.app.model.service.task == "text-to-audio"
        reply = server.post({"inputs": letters})
        assert reply.status == 200, reply.body
        assert reply.json["sampling_rate"] == 16000


def test_precision_in_which_a_pipeline_fails_stops_the_start(depth_model):
    """Either every request works or the start fails: never a healthy server whose requests all fail."""
    with serving.serve(load_model, model_dir=str(depth_model)) as server:
        assert server.app.model.state == "ready"
    with serving.serve(load_model, model_dir=str(depth_model), dtype="bfloat16") as server:
        healthy = server.app.model.state == "ready"
    if not healthy:
        message = refusal(depth_model, dtype="bfloat16")
        assert "HF_DTYPE=bfloat16" in message
        assert "float32" in message


def test_missing_package_of_a_pipeline_is_named(tmp_path, monkeypatch):
    """As in an image without Pillow: transformers calls these functions before it loads a pipeline for images."""
    from transformers.utils import import_utils

    folder = tiny_pipelines.make("image-classification", tmp_path / "model")
    _, message = import_utils.BACKENDS_MAPPING["vision"]
    monkeypatch.setitem(import_utils.BACKENDS_MAPPING, "vision", (lambda: False, message))
    refused = refusal(folder, task="image-classification")
    assert (
        "HF_TASK=image-classification needs pillow, which this image does not have"
        in refused.lower().replace("hf_task", "HF_TASK")
    )


def test_video_classification_is_refused_by_name(tmp_path):
    """PyAV would add 100 MB to every image, so the task is left to user code."""
    config = transformers.VideoMAEConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64, num_frames=4
    )
    config.architectures = ["VideoMAEForVideoClassification"]
    config.save_pretrained(str(tmp_path))
    refused = refusal(tmp_path)
    assert "HF_TASK=video-classification" in refused
    assert "code/inference.py" in refused


def test_task_of_another_release_is_refused_in_one_line(tmp_path):
    """transformers 5 has no pipeline for visual-question-answering, 4 has one; the same holds for others."""
    from hf_inference_toolkit.tasks.pipeline_parameters import TABLE
    from hf_inference_toolkit.tasks.pipeline_task import known_tasks

    folder = tiny_pipelines.make("image-classification", tmp_path / "model")
    for task in sorted(set(TABLE) - set(known_tasks())):
        message = refusal(folder, task=task)
        assert "HF_TASK={}: transformers ".format(task) in message
        assert "code/inference.py" in message
        assert "known:" not in message
    known = refusal(folder, task="no-such-task").rpartition("known: ")[2].split(", ")
    assert len(known) == len(set(known))


@pytest.mark.parametrize(
    ("made", "task"),
    [
        ("image-classification", "image-segmentation"),
        ("image-classification", "object-detection"),
        ("depth-estimation", "image-classification"),
    ],
)
def test_model_of_another_pipeline_is_refused(tmp_path, made, task):
    """transformers logs that the model does not fit, and loads it; no request would be answered."""
    folder = tiny_pipelines.make(made, tmp_path / "model")
    assert "HF_TASK={} does not fit this model".format(task) in refusal(folder, task=task)


@pytest.mark.parametrize("task", ["text-to-audio", "text-to-speech", "document-question-answering"])
def test_text_classifier_is_refused_by_pipelines_that_would_load_it(model_folder, task):
    """The output of its last layer would be returned as sound, or as answers."""
    if tiny.FRAMEWORK != "pt":
        pytest.skip("these pipelines need PyTorch")
    from hf_inference_toolkit.tasks.pipeline_task import known_tasks

    if task not in known_tasks():
        pytest.skip("this release has no such pipeline")
    message = refusal(model_folder("text-classification"), task=task)
    assert "HF_TASK={} does not fit this model (BertForSequenceClassification)".format(task) in message
    assert "HF_TASK=text-classification" in message
    assert "The task takes " in message


@pytest.mark.parametrize(
    ("made", "task"),
    [
        ("whisper", "zero-shot-audio-classification"),
        ("zero-shot-image-classification", "image-feature-extraction"),
    ],
)
def test_pipeline_of_any_model_needs_the_outputs_of_its_task(tmp_path, made, task):
    from hf_inference_toolkit.tasks.pipeline_task import known_tasks

    folder = tiny_pipelines.make(made, tmp_path / "model")
    if task not in known_tasks():
        pytest.skip("this release has no such pipeline")
    assert "HF_TASK={} does not fit this model".format(task) in refusal(folder, task=task)


def test_table_of_a_pipeline_is_read_without_an_import_of_its_models(tmp_path):
    """Some of them need packages that are not here, and all of them need seconds and memory."""
    folder = tiny_pipelines.make("image-classification", tmp_path / "model")
    script = (
        "import sys; from hf_inference_toolkit.tasks.architectures import taken_by; import transformers;"
        "pipeline = transformers.pipeline('image-classification', model=sys.argv[1]);"
        "before = set(sys.modules); assert 'ViTForImageClassification' in taken_by(pipeline.task, pipeline);"
        "print([name for name in set(sys.modules) - before if '.modeling_' in name])"
    )
    done = subprocess.run([sys.executable, "-c", script, str(folder)], stdout=subprocess.PIPE, check=True)
    assert done.stdout.decode().splitlines()[-1] == "[]"


@pytest.mark.parametrize("made", ["text-to-audio", "automatic-speech-recognition"])
def test_missing_files_of_a_tokenizer_that_does_not_look_are_named(tmp_path, made):
    folder = tiny_pipelines.make(made, tmp_path / "model")
    for name in ("vocab.json", "tokenizer_config.json"):
        (folder / name).unlink()
    refused = refusal(folder, task=made)
    assert "tokenizer" in refused
    assert "vocab.json" in refused


def test_adapter_without_its_base_model_is_refused(tmp_path):
    """Where peft or PyTorch is missing, by the way out; otherwise see test_adapters."""
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")
    refused = refusal(tmp_path)
    assert "merge_and_unload" in refused or "needs its base model '': it is not named" in refused


def test_damaged_weights_are_refused_in_one_line(tmp_path, model_folder):
    folder = tmp_path / "model"
    shutil.copytree(str(model_folder("text-classification")), str(folder))
    weights = folder / "model.safetensors"
    if not weights.is_file():
        pytest.skip("this release writes other files")
    weights.write_bytes(weights.read_bytes()[:-100])
    message = refusal(folder)
    assert "is damaged" in message
    assert "SafetensorError(" not in message
