"""Small models with random weights for the clients, and an image and a sound to send.

`python models.py FOLDER TASK` writes FOLDER/TASK, FOLDER/image.png and FOLDER/sound.wav. It runs in the
environment of the server, which has transformers and PyTorch.
"""

import json
import math
import struct
import sys
import wave
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import tiny
import transformers

VISION = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 16,
}
SOUND = {
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
FEATURES = {
    "feature_extractor_type": "Wav2Vec2FeatureExtractor",
    "feature_size": 1,
    "sampling_rate": 16000,
    "padding_value": 0.0,
    "do_normalize": True,
    "return_attention_mask": False,
}


def save(folder, model, preprocessor):
    model.save_pretrained(str(folder))
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))


def text_generation(folder):
    # As many positions as GPT-2 has: clients request 512 new tokens by default.
    tiny.save(folder, "GPT2Config", "GPT2LMHeadModel", tiny.GPT2, n_positions=1024)


def image_classification(folder):
    config = transformers.ViTConfig(**VISION, **tiny.labels("cat", "dog", "eel"))
    size = {"height": 32, "width": 32}
    processor = {"image_processor_type": "ViTImageProcessor", "size": size}
    save(folder, transformers.ViTForImageClassification(config), processor)


def object_detection(folder):
    backbone = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], out_features=["stage2"]
    )
    config = transformers.DetrConfig(
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
    size = {"shortest_edge": 64, "longest_edge": 96}
    processor = {"image_processor_type": "DetrImageProcessor", "size": size}
    save(folder, transformers.DetrForObjectDetection(config), processor)


def image_segmentation(folder):
    config = transformers.SegformerConfig(
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
    size = {"height": 32, "width": 32}
    processor = {"image_processor_type": "SegformerImageProcessor", "size": size}
    save(folder, transformers.SegformerForSemanticSegmentation(config), processor)


def zero_shot_image_classification(folder):
    tokens = len(tiny.VOCABULARY)
    text = dict(tiny.BERT, vocab_size=tokens, max_position_embeddings=77, eos_token_id=3, bos_token_id=2)
    config = transformers.CLIPConfig(text_config=text, vision_config=VISION, projection_dim=16)
    processor = {
        "image_processor_type": "CLIPImageProcessor",
        "size": {"shortest_edge": 32},
        "crop_size": {"height": 32, "width": 32},
    }
    save(folder, transformers.CLIPModel(config), processor)
    tiny.write_tokenizer(folder)


def document_question_answering(folder):
    config = transformers.LayoutLMConfig(**tiny.BERT)
    transformers.LayoutLMForQuestionAnswering(config).save_pretrained(str(folder))
    tiny.write_tokenizer(folder)


def audio_classification(folder):
    config = transformers.Wav2Vec2Config(**SOUND, **tiny.labels("yes", "no"))
    save(folder, transformers.Wav2Vec2ForSequenceClassification(config), FEATURES)


def automatic_speech_recognition(folder):
    letters = "abcdefghijklmnopqrstuvwxyz"
    vocabulary = ["<pad>", "<s>", "</s>", "<unk>", "|", *letters]
    config = transformers.Wav2Vec2Config(**SOUND, vocab_size=len(vocabulary), pad_token_id=0)
    save(folder, transformers.Wav2Vec2ForCTC(config), FEATURES)
    places = {word: place for place, word in enumerate(vocabulary)}
    (folder / "vocab.json").write_text(json.dumps(places))
    tokenizer = {
        "tokenizer_class": "Wav2Vec2CTCTokenizer",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "word_delimiter_token": "|",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))


MAKERS = dict(
    tiny.MAKERS,
    **{
        maker.__name__.replace("_", "-"): maker
        for maker in (
            text_generation,
            image_classification,
            object_detection,
            image_segmentation,
            zero_shot_image_classification,
            document_question_answering,
            audio_classification,
            automatic_speech_recognition,
        )
    },
)


def write_media(folder):
    """A red image of 40 by 40 pixels, and half a second of a tone at 16 kHz."""
    from PIL import Image

    Image.new("RGB", (40, 40), "red").save(str(folder / "image.png"))
    with wave.open(str(folder / "sound.wav"), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(16000)
        tone = (int(16000 * math.sin(2 * math.pi * 440 * place / 16000)) for place in range(8000))
        sound.writeframes(b"".join(struct.pack("<h", sample) for sample in tone))


if __name__ == "__main__":
    root, task = Path(sys.argv[1]), sys.argv[2]
    (root / task).mkdir(parents=True, exist_ok=True)
    write_media(root)
    tiny.seed()
    MAKERS[task](root / task)
