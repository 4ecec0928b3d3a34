"""Upper limits of one request, which bound its memory and time.

The size of a body, the deadline and the length of the queue are settings (settings.py). /openapi.json and README.md
list `TABLE`.
"""

from typing import List, NamedTuple


class Limit(NamedTuple):
    """One limit. `about` says what is counted."""

    name: str
    value: int
    about: str


TABLE: List[Limit] = []


def _limit(name: str, value: int, about: str) -> int:
    TABLE.append(Limit(name, value, about))
    return value


# Text generation
NEW_TOKENS = _limit("new tokens", 131072, "max_new_tokens, max_length and the other lengths, in tokens")
SEQUENCES = _limit("sequences", 64, "num_beams, num_beam_groups and num_return_sequences, each")
GENERATED_TOKENS = _limit(
    "tokens of all sequences",
    65536,
    "(prompt + new tokens) * beams * returned sequences, for more than one beam or sequence",
)
TOKEN_IDS = _limit("token ids", 1024, "ids in one list, and lists in bad_words_ids")
STOP_SEQUENCES = _limit("stop sequences", 16, "stop sequences of a request")
STOP_CHARACTERS = _limit("characters of a stop sequence", 128, "each stop sequence")
SCHEMA_CHARACTERS = _limit("characters of a schema", 100000, "a JSON Schema or a regular expression")
TOOLS = _limit("tools", 128, "functions in tools")

TOP_TOKENS = _limit("most probable tokens", 20, "top_n_tokens")
PROMPT_SCORES = _limit(
    "scores of a prompt",
    2**27,
    "tokens of the prompt * vocabulary: decoder_input_details, and echo with logprobs",
)

# Text
TEXT_CHARACTERS = _limit(
    "characters of a text",
    1000000,
    "a text that cannot be truncated before it is tokenized: a context, a prompt, any text with truncation: false",
)
UNLIMITED_TOKENS = _limit("tokens of a text", 8192, "if neither the model nor its tokenizer has a limit")
REQUEST_TOKENS = _limit("tokens of a request", 1000000, "all inputs together, after truncation")
CONTEXT_WINDOWS = _limit("windows of a context", 4096, "overlapping parts of a question's context")
FEATURES = _limit(
    "numbers of an answer",
    10000000,
    "feature-extraction: tokens * width of the model; sentence-embeddings: texts * numbers of a vector",
)
COMPARED_TEXTS = _limit("compared texts", 10000, "sentences of sentence-similarity, texts of text-ranking")
SHORT_TEXT = _limit("characters of a short text", 1000, "a label, a template, a target word, a language")
LABELS = _limit("labels", 1000, "candidate_labels, targets, ignore_labels")
LABEL_CHARACTERS = _limit("characters of all labels", 100000, "labels * length of the longest label")
TOP_K = _limit("answers of an input", 1000, "top_k")
FILLED_WORDS = _limit("words of a fill-mask answer", 20000, "masks * top_k, in one text")

# Tables
TABLE_ROWS = _limit("rows of a table", 10000, "table-question-answering")
TABLE_COLUMNS = _limit("columns of a table", 256, "table-question-answering")
TABLE_CELLS = _limit("cells of a table", 20000, "table-question-answering")
TABLE_CHARACTERS = _limit("characters of a table", 200000, "table-question-answering: all cells together")

# Images and sound
IMAGE_PIXELS = _limit("pixels of an image", 25000000, "width * height")
REQUEST_PIXELS = _limit("pixels of a request", 100000000, "all images together")
SPEECH_SECONDS = _limit("seconds of speech", 1800, "automatic-speech-recognition: all sounds together")
SOUND_SECONDS = _limit("seconds of sound", 300, "every other task that takes sound: all sounds together")
MESSAGES = _limit("messages", 1000, "messages of a conversation, and parts of a message")
WORD_BOXES = _limit("word boxes", 5000, "document-question-answering")

# Bodies
ITEMS = _limit("inputs", 100000, "inputs of a request, rows of CSV, lines of JSON Lines")
CSV_COLUMNS = _limit("columns of CSV", 1000, "columns of text/csv")
CONTAINERS = _limit("lists and objects", 4000000, "lists and objects of a body, of .npy arrays too")
NPY_HEADER = _limit("bytes of an .npy header", 10000, "application/x-npy")
