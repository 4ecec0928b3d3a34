"""A small model with random weights for the clients, and an image and a sound to send.

`python models.py FOLDER TASK` writes FOLDER/TASK, FOLDER/image.png and FOLDER/sound.wav. It runs in the
environment of the server, which has transformers and PyTorch.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import generation_models
import tiny
import tiny_pipelines


def writer(folder):
    """As many positions as GPT-2 has, because clients request 512 new tokens; a byte-level vocabulary and tools."""
    return generation_models.decoder(folder, generation_models.TOOLS_CHAT, positions=1024)


MAKERS = dict(tiny_pipelines.MAKERS, **tiny.MAKERS)
MAKERS["text-generation"] = writer

if __name__ == "__main__":
    root, task = Path(sys.argv[1]), sys.argv[2]
    (root / task).mkdir(parents=True, exist_ok=True)
    (root / "image.png").write_bytes(tiny_pipelines.png())
    (root / "sound.wav").write_bytes(tiny_pipelines.wav())
    tiny.seed()
    MAKERS[task](root / task)
