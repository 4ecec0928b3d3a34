"""Settings from environment variables."""

import pytest

from hf_inference_toolkit import settings
from hf_inference_toolkit.content.codecs import accepted
from hf_inference_toolkit.errors import StartError
from hf_inference_toolkit.tasks import registry
from hf_inference_toolkit.tasks.task_name import TaskName


def test_settings_have_the_defaults_of_sagemaker():
    values = settings.read({})
    assert (values.port, values.model_dir, values.deadline) == (8080, "/opt/ml/model", 60.0)
    assert values.max_payload == 25 * 1024 * 1024


def test_first_of_several_aliases_takes_precedence():
    """An empty variable counts as not set."""
    assert settings.read({"HF_API_TOKEN": "a", "HF_TOKEN": "b"}).token == "b"
    assert settings.read({"HF_API_TOKEN": "a", "HF_TOKEN": ""}).token == "a"
    assert settings.read({"HUGGING_FACE_HUB_TOKEN": "c"}).token == "c"
    assert settings.read({"AIP_HTTP_PORT": "9000"}).port == 9000
    assert settings.read({"AIP_HTTP_PORT": "9000", "SAGEMAKER_BIND_TO_PORT": "9001"}).port == 9001


def test_invalid_variables_are_reported_together():
    with pytest.raises(StartError) as refused:
        settings.read(
            {
                "AIP_HTTP_PORT": "0",
                "SAGEMAKER_MAX_PAYLOAD_IN_MB": "x",
                "AIP_PREDICT_ROUTE": "predict",
                "HF_ENDPOINT": "hub",
                "SAGEMAKER_CONTAINER_LOG_LEVEL": "loud",
            }
        )
    for name in (
        "AIP_HTTP_PORT",
        "SAGEMAKER_MAX_PAYLOAD_IN_MB",
        "AIP_PREDICT_ROUTE",
        "HF_ENDPOINT",
        "SAGEMAKER_CONTAINER_LOG_LEVEL",
    ):
        assert name in str(refused.value)


def test_unwritable_cache_is_replaced_by_a_temporary_folder(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert settings.read({"HF_HOME": str(blocked / "cache")}).hub_cache != str(blocked / "cache")
    assert settings.read({"HF_HOME": str(tmp_path / "cache")}).hub_cache == str(tmp_path / "cache")


def test_default_accept_applies_without_accept_header():
    assert accepted("", "text/csv") == "text/csv"
    assert accepted("*/*", "text/csv") == "text/csv"
    assert accepted("application/json", "text/csv") == "application/json"


@pytest.mark.parametrize(
    ("requested", "name", "source", "target"),
    [
        ("sentiment-analysis", "text-classification", None, None),
        ("ner", "token-classification", None, None),
        ("translation_en_to_fr", "translation", "en", "fr"),
        ("translation", "translation", None, None),
        ("translation_zh_CN_to_pt_BR", "translation", "zh_CN", "pt_BR"),
        ("translation_xx", "translation_xx", None, None),
    ],
)
def test_task_name_resolves_aliases_and_languages(requested, name, source, target):
    assert registry.parse(requested) == TaskName(requested, name, source, target)


@pytest.mark.parametrize(
    ("architecture", "task"),
    [
        ("TapasForQuestionAnswering", "table-question-answering"),
        ("TFBertForQuestionAnswering", "question-answering"),
        ("GPT2LMHeadModel", "text-generation"),
        ("T5WithLMHeadModel", "text2text-generation"),
        ("MarianMTModel", "text2text-generation"),
        ("LlamaForCausalLM", "text-generation"),
        ("Wav2Vec2ForCTC", "automatic-speech-recognition"),
        ("BertModel", "feature-extraction"),
        ("Unknown", None),
    ],
)
def test_task_is_inferred_from_architecture_suffix(architecture, task):
    assert registry.infer({"architectures": [architecture]}) == task


@pytest.mark.parametrize(
    ("environ", "deadline", "max_payload"),
    [
        ({"MMS_DEFAULT_RESPONSE_TIMEOUT": "500", "MMS_MAX_REQUEST_SIZE": "1000"}, 500, 1000),
        ({"TS_DEFAULT_RESPONSE_TIMEOUT": "500", "TS_MAX_REQUEST_SIZE": "1000"}, 500, 1000),
        ({"SAGEMAKER_MODEL_SERVER_TIMEOUT": "3600"}, 3600, 25 << 20),
        ({"SAGEMAKER_BATCH": "true"}, 600, 25 << 20),
        ({"SAGEMAKER_BATCH": "false"}, 60, 25 << 20),
        ({"SAGEMAKER_BATCH": "true", "SAGEMAKER_MODEL_SERVER_TIMEOUT_SECONDS": "9"}, 9, 25 << 20),
        ({"MMS_MAX_REQUEST_SIZE": "1000", "SAGEMAKER_MAX_PAYLOAD_IN_MB": "2"}, 60, 2 << 20),
    ],
)
def test_aliases_of_other_model_servers_are_used(environ, deadline, max_payload):
    values = settings.read(environ)
    assert (values.deadline, values.max_payload) == (deadline, max_payload)
    assert settings.unused(environ) == []


def test_unused_variables_of_other_model_servers_are_listed():
    """A variable of another program with a similar name is not listed."""
    names = [
        "MMS_MAX_RESPONSE_SIZE",
        "SAGEMAKER_MODEL_SERVER_WORKERS",
        "SAGEMAKER_TS_BATCH_SIZE",
        "TS_NUMBER_OF_GPU",
    ]
    others = ["SAGEMAKER_REGION", "TSC_WATCHFILE", "XMMS_PATH", "MMS_DEFAULT_RESPONSE_TIMEOUT"]
    assert settings.unused(dict.fromkeys(names + others, "1")) == names


def test_drain_time_is_a_setting():
    """The default leaves time before SageMaker's SIGKILL at 30 s."""
    assert settings.read({}).drain_seconds == 25
    assert settings.read({"HF_DRAIN_SECONDS": "0"}).drain_seconds == 0
    with pytest.raises(StartError, match="HF_DRAIN_SECONDS: must be a whole number from 0 to 3600"):
        settings.read({"HF_DRAIN_SECONDS": "-1"})
