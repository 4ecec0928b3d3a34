"""The environment as settings."""

import pytest

from hf_inference_toolkit import settings
from hf_inference_toolkit.content.codecs import accepted
from hf_inference_toolkit.errors import StartError
from hf_inference_toolkit.tasks import registry
from hf_inference_toolkit.tasks.task_name import TaskName


def test_defaults_are_the_contract():
    """Port 8080, /opt/ml/model, a minute, 25 MB."""
    values = settings.read({})
    assert (values.port, values.model_dir, values.deadline) == (8080, "/opt/ml/model", 60.0)
    assert values.max_payload == 25 * 1024 * 1024


def test_first_of_several_names_wins():
    """Three names of the token, two of the port; an empty variable is not set."""
    assert settings.read({"HF_API_TOKEN": "a", "HF_TOKEN": "b"}).token == "b"
    assert settings.read({"HF_API_TOKEN": "a", "HF_TOKEN": ""}).token == "a"
    assert settings.read({"HUGGING_FACE_HUB_TOKEN": "c"}).token == "c"
    assert settings.read({"AIP_HTTP_PORT": "9000"}).port == 9000
    assert settings.read({"AIP_HTTP_PORT": "9000", "SAGEMAKER_BIND_TO_PORT": "9001"}).port == 9001


def test_all_mistakes_come_at_once():
    """Every wrong variable is in the one message, with what is allowed."""
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


def test_cache_goes_where_it_can_be_written(tmp_path):
    """A folder that cannot be made is replaced by one under the temporary folder."""
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert settings.read({"HF_HOME": str(blocked / "cache")}).hub_cache != str(blocked / "cache")
    assert settings.read({"HF_HOME": str(tmp_path / "cache")}).hub_cache == str(tmp_path / "cache")


def test_default_accept_decides_where_the_client_does_not():
    """SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT."""
    assert accepted("", "text/csv") == "text/csv"
    assert accepted("*/*", "text/csv") == "text/csv"
    assert accepted("application/json", "text/csv") == "application/json"


@pytest.mark.parametrize(
    ("asked", "name", "source", "target"),
    [
        ("sentiment-analysis", "text-classification", None, None),
        ("ner", "token-classification", None, None),
        ("translation_en_to_fr", "translation", "en", "fr"),
        ("translation", "translation", None, None),
        ("translation_zh_CN_to_pt_BR", "translation", "zh_CN", "pt_BR"),
        ("translation_xx", "translation_xx", None, None),
    ],
)
def test_task_names(asked, name, source, target):
    """Aliases, and languages in the name."""
    assert registry.parse(asked) == TaskName(asked, name, source, target)


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
def test_architectures_speak_for_tasks(architecture, task):
    """By the ending of their name, whichever framework wrote them."""
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
def test_settings_of_other_model_servers_are_used(environ, deadline, max_payload):
    """Time and size limits of multi-model-server and TorchServe; our own names come first."""
    values = settings.read(environ)
    assert (values.deadline, values.max_payload) == (deadline, max_payload)
    assert settings.unused(environ) == []


def test_unused_settings_of_other_model_servers_are_listed():
    """Only theirs: a variable of another program with a similar name is none."""
    names = [
        "MMS_MAX_RESPONSE_SIZE",
        "SAGEMAKER_MODEL_SERVER_WORKERS",
        "SAGEMAKER_TS_BATCH_SIZE",
        "TS_NUMBER_OF_GPU",
    ]
    others = ["SAGEMAKER_REGION", "TSC_WATCHFILE", "XMMS_PATH", "MMS_DEFAULT_RESPONSE_TIMEOUT"]
    assert settings.unused(dict.fromkeys(names + others, "1")) == names


def test_drain_time_is_a_setting():
    """25 s, so that a container is gone before SageMaker's SIGKILL at 30 s."""
    assert settings.read({}).drain_seconds == 25
    assert settings.read({"HF_DRAIN_SECONDS": "0"}).drain_seconds == 0
    with pytest.raises(StartError, match="HF_DRAIN_SECONDS: must be a whole number from 0 to 3600"):
        settings.read({"HF_DRAIN_SECONDS": "-1"})
