"""Small models with random weights for the tasks that transformers' own pipelines run."""

import io
import json
import math
import struct
import wave
from pathlib import Path

import tiny

VISION = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 16,
}
WAV2VEC2 = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "conv_dim": (16, 16),
    "conv_stride": (5, 4),
    "conv_kernel": (10, 8),
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
    "classifier_proj_size": 16,
}
SQUARE = {"size": {"height": 32, "width": 32}}
CROPPED = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}


def save(folder, model, **files):
    """A model, and JSON files beside it; a dot in a file's name is written as two underscores."""
    model.save_pretrained(str(folder))
    for name, value in files.items():
        (Path(str(folder)) / name.replace("__", ".")).write_text(json.dumps(value))
    return folder


def image_processor(name, **more):
    return dict({"image_processor_type": name}, **more)


SOUND_PROCESSOR = {
    "feature_extractor_type": "Wav2Vec2FeatureExtractor",
    "feature_size": 1,
    "sampling_rate": 16000,
    "padding_value": 0.0,
    "do_normalize": True,
    "return_attention_mask": False,
}


def byte_tokenizer(limit, kind="PreTrainedTokenizerFast"):
    """A fast tokenizer whose tokens are bytes."""
    import tokenizers
    import transformers
    from tokenizers import decoders, models, pre_tokenizers

    names = ["<s>", "<pad>", "</s>", "<unk>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {word: number for number, word in enumerate([*names, *alphabet])}
    backend = tokenizers.Tokenizer(models.BPE(vocabulary, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return getattr(transformers, kind)(
        tokenizer_object=backend,
        bos_token="<s>",
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=limit,
        # Before transformers 5 a tokenizer of this class has token types too, which these models do not take.
        model_input_names=["input_ids", "attention_mask"],
    )


def image_classifier(folder):
    import transformers as t

    model = t.ViTForImageClassification(t.ViTConfig(**VISION, **tiny.labels("cat", "dog", "eel")))
    return save(folder, model, preprocessor_config__json=image_processor("ViTImageProcessor", **SQUARE))


def image_encoder(folder):
    import transformers as t

    model = t.ViTModel(t.ViTConfig(**VISION))
    return save(folder, model, preprocessor_config__json=image_processor("ViTImageProcessor", **SQUARE))


def sound_classifier(folder):
    import transformers as t

    model = t.Wav2Vec2ForSequenceClassification(t.Wav2Vec2Config(**WAV2VEC2, **tiny.labels("yes", "no")))
    return save(folder, model, preprocessor_config__json=SOUND_PROCESSOR)


def speech_recognizer(folder):
    import transformers as t

    words = ["<pad>", "<s>", "</s>", "<unk>", "|"] + [chr(97 + number) for number in range(25)]
    model = t.Wav2Vec2ForCTC(t.Wav2Vec2Config(**WAV2VEC2, vocab_size=len(words), pad_token_id=0))
    return save(
        folder,
        model,
        preprocessor_config__json=SOUND_PROCESSOR,
        vocab__json={word: number for number, word in enumerate(words)},
        tokenizer_config__json={
            "tokenizer_class": "Wav2Vec2CTCTokenizer",
            "pad_token": "<pad>",
            "unk_token": "<unk>",
            "bos_token": "<s>",
            "eos_token": "</s>",
            "word_delimiter_token": "|",
        },
    )


def whisper(folder):
    """Whisper: speech recognition that generates."""
    import transformers as t

    names = [
        "<|startoftranscript|>",
        "<|en|>",
        "<|fr|>",
        "<|translate|>",
        "<|transcribe|>",
        "<|notimestamps|>",
    ]
    tokenizer = byte_tokenizer(448, "WhisperTokenizerFast")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|endoftext|>", "<|startofprev|>", *names]})
    tokenizer.add_tokens(["<|{:.2f}|>".format(place * 0.02) for place in range(1501)])
    number = tokenizer.convert_tokens_to_ids
    config = t.WhisperConfig(
        vocab_size=len(tokenizer),
        d_model=32,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        max_target_positions=448,
        decoder_start_token_id=number("<|startoftranscript|>"),
        bos_token_id=number("<|endoftext|>"),
        eos_token_id=number("<|endoftext|>"),
        pad_token_id=number("<|endoftext|>"),
        suppress_tokens=None,
        begin_suppress_tokens=None,
    )
    model = t.WhisperForConditionalGeneration(config)
    generation = {
        "lang_to_id": {"<|en|>": number("<|en|>"), "<|fr|>": number("<|fr|>")},
        "task_to_id": {"transcribe": number("<|transcribe|>"), "translate": number("<|translate|>")},
        "no_timestamps_token_id": number("<|notimestamps|>"),
        "is_multilingual": True,
        "max_initial_timestamp_index": 50,
        "prev_sot_token_id": number("<|startofprev|>"),
        "max_length": 48,
    }
    tokenizer.save_pretrained(str(folder))
    t.WhisperFeatureExtractor(feature_size=80).save_pretrained(str(folder))
    save(folder, model)
    path = Path(str(folder)) / "generation_config.json"
    written = json.loads(path.read_text())
    # Marked as made from the model's config, transformers would make it again without these values.
    written.pop("_from_model_config", None)
    path.write_text(json.dumps(dict(written, **generation)))
    return folder


def clip(folder):
    import transformers as t

    tokenizer = byte_tokenizer(77)
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "max_position_embeddings": 77,
        "bos_token_id": 0,
        "pad_token_id": 1,
        "eos_token_id": 2,
    }
    model = t.CLIPModel(t.CLIPConfig(text_config=text, vision_config=VISION, projection_dim=16))
    tokenizer.save_pretrained(str(folder))
    return save(folder, model, preprocessor_config__json=image_processor("CLIPImageProcessor", **CROPPED))


CHAT_TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}> {% if m['content'] is string %}{{ m['content'] }}{% else %}"
    "{% for c in m['content'] %}{% if c['type'] == 'image' %}<image>{% elif c['type'] == 'text' %}{{ c['text'] }}"
    "{% endif %}{% endfor %}{% endif %}\n{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)


def llava(folder, **larger):
    """A model that writes about images."""
    import transformers as t

    tokenizer = byte_tokenizer(2048)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    image = tokenizer.convert_tokens_to_ids("<image>")
    sizes = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 2048,
        "bos_token_id": 0,
        "pad_token_id": 1,
        "eos_token_id": 2,
    }
    config = t.LlavaConfig(
        vision_config=t.CLIPVisionConfig(**VISION),
        text_config=t.LlamaConfig(vocab_size=len(tokenizer), **dict(sizes, **larger)),
        image_token_index=image,
        image_token_id=image,
        image_seq_length=4,
    )
    model = t.LlavaForConditionalGeneration(config)
    # Random weights would end the text at some step; no token does.
    model.generation_config.eos_token_id = None
    t.LlavaProcessor(
        image_processor=t.CLIPImageProcessor(**CROPPED),
        tokenizer=tokenizer,
        patch_size=16,
        vision_feature_select_strategy="default",
        chat_template=CHAT_TEMPLATE,
        image_token="<image>",
        num_additional_image_tokens=1,
    ).save_pretrained(str(folder))
    return save(folder, model)


def document_reader(folder):
    return tiny.save(folder, "LayoutLMConfig", "LayoutLMForQuestionAnswering", tiny.BERT)


def image_answerer(folder):
    import transformers as t

    config = t.ViltConfig(
        vocab_size=len(tiny.VOCABULARY),
        max_position_embeddings=40,
        **VISION,
        **tiny.labels("yes", "no", "two"),
    )
    save(
        folder,
        t.ViltForQuestionAnswering(config),
        preprocessor_config__json=image_processor(
            "ViltImageProcessor", size={"shortest_edge": 32}, size_divisor=16
        ),
    )
    tiny.write_tokenizer(Path(str(folder)))
    return folder


def segmenter(folder):
    import transformers as t

    config = t.SegformerConfig(
        num_encoder_blocks=2,
        depths=[1, 1],
        sr_ratios=[2, 1],
        hidden_sizes=[16, 32],
        patch_sizes=[7, 3],
        strides=[4, 2],
        num_attention_heads=[1, 2],
        mlp_ratios=[2, 2],
        decoder_hidden_size=16,
        **tiny.labels("sky", "sea"),
    )
    model = t.SegformerForSemanticSegmentation(config)
    return save(folder, model, preprocessor_config__json=image_processor("SegformerImageProcessor", **SQUARE))


def depth_estimator(folder):
    import transformers as t

    config = t.GLPNConfig(
        hidden_sizes=[16, 32, 64, 128],
        depths=[1, 1, 1, 1],
        num_attention_heads=[1, 2, 4, 8],
        decoder_hidden_size=16,
    )
    processor = image_processor("GLPNImageProcessor", size_divisor=32)
    return save(folder, t.GLPNForDepthEstimation(config), preprocessor_config__json=processor)


def detector(folder):
    import transformers as t

    backbone = t.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], out_features=["stage2"])
    config = t.DetrConfig(
        use_timm_backbone=False,
        use_pretrained_backbone=False,
        backbone=None,
        backbone_config=backbone,
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        num_queries=5,
        **tiny.labels("cat", "dog"),
    )
    processor = image_processor("DetrImageProcessor", size={"shortest_edge": 64, "longest_edge": 96})
    return save(folder, t.DetrForObjectDetection(config), preprocessor_config__json=processor)


def open_detector(folder):
    """Finds what the labels of a request name."""
    import transformers as t

    tokenizer = byte_tokenizer(16)
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "max_position_embeddings": 16,
        "bos_token_id": 0,
        "pad_token_id": 1,
        "eos_token_id": 2,
    }
    model = t.OwlViTForObjectDetection(
        t.OwlViTConfig(text_config=text, vision_config=VISION, projection_dim=32)
    )
    tokenizer.save_pretrained(str(folder))
    processor = image_processor("OwlViTImageProcessor", size=SQUARE["size"], do_center_crop=False)
    return save(folder, model, preprocessor_config__json=processor)


def speaker(folder):
    """VITS: sound from text."""
    import transformers as t

    config = t.VitsConfig(
        vocab_size=30,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
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
    words = ["k", "<pad>", "<unk>", " ", *"abcdefghijlmnopqrstuvwxyz"]
    return save(
        folder,
        t.VitsModel(config),
        vocab__json={word: number for number, word in enumerate(words)},
        tokenizer_config__json={
            "tokenizer_class": "VitsTokenizer",
            "add_blank": True,
            "normalize": True,
            "phonemize": False,
            "is_uroman": False,
            "pad_token": "k",
            "unk_token": "<unk>",
        },
    )


MAKERS = {
    "image-classification": image_classifier,
    "image-feature-extraction": image_encoder,
    "audio-classification": sound_classifier,
    "automatic-speech-recognition": speech_recognizer,
    "whisper": whisper,
    "zero-shot-image-classification": clip,
    "image-text-to-text": llava,
    "any-to-any": llava,
    "document-question-answering": document_reader,
    "visual-question-answering": image_answerer,
    "image-segmentation": segmenter,
    "depth-estimation": depth_estimator,
    "object-detection": detector,
    "zero-shot-object-detection": open_detector,
    "text-to-audio": speaker,
}
TASKS = dict({name: name for name in MAKERS}, whisper="automatic-speech-recognition")


def make(name, folder):
    """A model by its name in MAKERS, with the same weights on every run."""
    tiny.seed()
    folder.mkdir(parents=True, exist_ok=True)
    return MAKERS[name](folder)


# What the pipelines of some releases need from a processor, which lacks it in the same release.
NEEDED = {
    "depth-estimation": ("GLPNImageProcessor", "post_process_depth_estimation", "{}"),
    "whisper": ("WhisperFeatureExtractor", "num_frames", 'processed.pop("{}")'),
}


def works(name):
    """Whether the pipeline of the installed release works with such a model."""
    if name not in NEEDED:
        return True
    import importlib
    import inspect

    import transformers

    processor, word, use = NEEDED[name]
    pipeline = importlib.import_module("transformers.pipelines." + TASKS[name].replace("-", "_"))
    kind = getattr(transformers, processor)
    is_used = use.format(word) in inspect.getsource(pipeline)
    return not is_used or hasattr(kind, word) or word in inspect.getsource(kind)


def png(width=40, height=40):
    from PIL import Image

    out = io.BytesIO()
    Image.new("RGB", (width, height), (200, 30, 30)).save(out, format="PNG")
    return out.getvalue()


def wav(rate=16000, seconds=0.5):
    out = io.BytesIO()
    with wave.open(out, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(rate)
        values = (int(9000 * math.sin(place / 7.0)) for place in range(int(rate * seconds)))
        sound.writeframes(b"".join(struct.pack("<h", value) for value in values))
    return out.getvalue()
