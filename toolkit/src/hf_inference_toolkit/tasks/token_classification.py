"""token-classification (and ner)."""

from typing import TYPE_CHECKING, Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy

from hf_inference_toolkit.annotations import Arrays, JsonObject, Options, Parameters
from hf_inference_toolkit.errors import RequestError
from hf_inference_toolkit.runtimes.base import Runtime
from hf_inference_toolkit.tasks.parameters import TRUNCATION, Parameter
from hf_inference_toolkit.tasks.task_name import TaskName
from hf_inference_toolkit.tasks.text_classification import softmax
from hf_inference_toolkit.tasks.text_task import Encoded, TextTask, row

if TYPE_CHECKING:
    import tokenizers
    import transformers

# A token or an entity, with its label, score and position.
Entity = JsonObject


class Part(NamedTuple):
    """The tokens of a text, or of a part of it within the model's limit."""

    ids: Sequence[int]
    is_special: Sequence[int]
    # The character offsets of each token, and the index of its word. None for tokenizers in Python.
    offsets: Optional[Sequence[Tuple[int, int]]]
    words: Optional[Sequence[Optional[int]]]
    # The index of the first token in the encoding of the whole text.
    begin: int = 0
    # The tokens that are read from this part, because no other part has more context on both sides of them.
    first: int = 0
    last: int = 0


class TokenClassification(TextTask):
    """Labels of tokens, or of groups of tokens. Offsets count characters of the text.

    A text above the model's limit is split into overlapping parts.
    """

    parameters = (
        Parameter(
            "aggregation_strategy",
            "string",
            "how tokens become entities",
            choices=("none", "simple", "first", "average", "max"),
        ),
        Parameter("ignore_labels", "strings", "labels to omit; O by default"),
        Parameter("grouped_entities", "boolean", "true is aggregation_strategy simple"),
        Parameter("ignore_subwords", "boolean", "with grouped_entities: aggregation_strategy first"),
        Parameter(
            "stride",
            "integer",
            "tokens by which the parts of a long text overlap; a quarter of a part by default",
            0,
        ),
        TRUNCATION._replace(
            about="true: truncate long texts; false: refuse long texts; by default they are split into parts"
        ),
    )
    sample = {"inputs": "My name is Sylvain and I work at Hugging Face in Brooklyn."}

    def __init__(
        self,
        task: TaskName,
        runtime: Runtime,
        tokenizer: "transformers.PreTrainedTokenizerBase",
        facts: Dict[str, str],
    ) -> None:
        super().__init__(task, runtime, tokenizer, facts)
        # Without a pre-tokenizer, the tokenizer reports the whole text as one word.
        backend = self.tokenizer.backend_tokenizer if self.tokenizer.is_fast else None
        self._has_words = getattr(backend, "pre_tokenizer", None) is not None
        self._cuts_end = getattr(self.tokenizer, "truncation_side", "right") == "right"

    def read_options(self, given: Parameters) -> Options:
        """See TextTask. Replaces old names of parameters."""
        options = super().read_options(given)
        if "aggregation_strategy" not in options and options.get("grouped_entities"):
            options["aggregation_strategy"] = "first" if options.get("ignore_subwords") else "simple"
        ignored = options.get("ignore_labels", ["O"])
        options["ignore_labels"] = [ignored] if isinstance(ignored, str) else ignored
        return options

    def encode(self, item: str, options: Options) -> Encoded:
        """See TextTask: a row for each part of the text."""
        if not self.tokenizer.is_fast:
            encoding, was_cut = self.tokens(item, None, options)
            special = self.tokenizer.get_special_tokens_mask(
                encoding["input_ids"], already_has_special_tokens=True
            )
            part = Part(encoding["input_ids"], special, None, None, 0, 0, len(special))
            return Encoded([row(encoding)], was_cut, [part])
        is_cut = options.get("truncation", False) is not False and "stride" not in options
        encoding = self._in_parts(self.shortened(item, self.limit, is_cut and self._cuts_end), options)
        found = encoding.encodings
        self._check_length(len(found[0].ids))
        # A tokenizer with truncation_side left returns the end of the text first.
        places = range(1) if is_cut else sorted(range(len(found)), key=lambda place: start_of(found[place]))
        keys = [key for key in encoding if key != "overflow_to_sample_mapping"]
        rows = [row({key: encoding[key][place] for key in keys}) for place in places]
        parts = parts_of([found[place] for place in places], self._stride(options))
        return Encoded(rows, len(found) > len(parts), parts)

    def _in_parts(self, text: str, options: Options) -> "transformers.BatchEncoding":
        if options.get("truncation") is False:
            return self.tokenizer(text, return_overflowing_tokens=True)
        stride = self._stride(options)
        room = self.limit - self.tokenizer.num_special_tokens_to_add()
        if stride >= room:
            raise RequestError(
                "unprocessable",
                "stride is {}; it must be less than {}, the tokens of a part".format(stride, room),
            )
        self.check_windows(text, room - stride)
        return self.tokenizer(
            text, truncation=True, max_length=self.limit, stride=stride, return_overflowing_tokens=True
        )

    def _stride(self, options: Options) -> int:
        return int(options.get("stride", self.limit // 4))

    def decode(self, item: str, encoded: Encoded, outputs: List[Arrays], options: Options) -> List[Entity]:
        """See TextTask: the entities of one text."""
        strategy = options.get("aggregation_strategy", "none")
        ignored = options["ignore_labels"]
        entities: List[Entity] = []
        for part, output in zip(encoded.extra, outputs):
            scores = softmax(output["logits"].astype(numpy.float64))
            tokens = self._tokens(item, part, scores)
            if strategy == "none":
                found = [self._single(token) for token in tokens if part.first <= token["place"] < part.last]
            else:
                words = [[token] for token in tokens] if strategy == "simple" else by_word(tokens)
                found = self._grouped([self._word(word, strategy) for word in words])
            entities += [one for one in found if one.get("entity", one.get("entity_group")) not in ignored]
        if strategy != "none" and len(encoded.extra) > 1:
            return without_overlaps(entities)
        return entities

    def _tokens(self, text: str, part: Part, scores: numpy.ndarray) -> List[Entity]:
        tokens: List[Entity] = []
        for place, number in enumerate(part.ids):
            if part.is_special[place]:
                continue
            word = self.tokenizer.convert_ids_to_tokens(number)
            start, end, continues = None, None, word.startswith("##")
            if part.offsets is not None:
                start, end = map(int, part.offsets[place])
                continues = bool(tokens) and self._continues(text, part, tokens[-1]["place"], place)
                if number == self.tokenizer.unk_token_id:
                    word = text[start:end]
            tokens.append(
                {
                    "scores": scores[place],
                    "place": place,
                    "index": part.begin + place,
                    "word": word,
                    "start": start,
                    "end": end,
                    "continues": continues,
                }
            )
        return tokens

    def _continues(self, text: str, part: Part, before: int, place: int) -> bool:
        """Whether a token belongs to the word of the token before it."""
        if self._has_words and part.words is not None:
            return part.words[place] is not None and part.words[place] == part.words[before]
        start = part.offsets[place][0] if part.offsets is not None else 0
        return start > 0 and not any(character.isspace() for character in text[start - 1 : start + 1])

    def _single(self, token: Entity) -> Entity:
        label, score = self._best(token["scores"])
        return {
            "entity": label,
            "score": score,
            "index": token["index"],
            "word": token["word"],
            "start": token["start"],
            "end": token["end"],
        }

    def _best(self, scores: numpy.ndarray) -> Tuple[str, float]:
        place = int(scores.argmax())
        return self.config.id2label[place], float(scores[place])

    def _word(self, tokens: List[Entity], strategy: str) -> Entity:
        if strategy == "max":
            scores = max(tokens, key=lambda token: token["scores"].max())["scores"]
        elif strategy == "average":
            scores = numpy.mean([token["scores"] for token in tokens], axis=0)
        else:
            scores = tokens[0]["scores"]
        label, score = self._best(scores)
        words = [token["word"] for token in tokens]
        return {
            "entity": label,
            "score": score,
            "word": words[0] if strategy == "simple" else self.tokenizer.convert_tokens_to_string(words),
            "start": tokens[0]["start"],
            "end": tokens[-1]["end"],
        }

    def _grouped(self, entities: List[Entity]) -> List[Entity]:
        groups: List[List[Entity]] = []
        for entity in entities:
            begins, tag = tag_of(entity["entity"])
            if groups and not begins and tag == tag_of(groups[-1][-1]["entity"])[1]:
                groups[-1].append(entity)
            else:
                groups.append([entity])
        return [self._group(group) for group in groups]

    def _group(self, entities: List[Entity]) -> Entity:
        return {
            "entity_group": entities[0]["entity"].split("-", 1)[-1],
            "score": float(numpy.mean([entity["score"] for entity in entities])),
            "word": self.tokenizer.convert_tokens_to_string([entity["word"] for entity in entities]),
            "start": entities[0]["start"],
            "end": entities[-1]["end"],
        }


def by_word(tokens: List[Entity]) -> List[List[Entity]]:
    """Tokens grouped by word."""
    words: List[List[Entity]] = []
    for token in tokens:
        if words and token["continues"]:
            words[-1].append(token)
        else:
            words.append([token])
    return words


def start_of(encoding: "tokenizers.Encoding") -> int:
    """The character offset at which an encoding starts in its text."""
    texts = zip(encoding.offsets, encoding.special_tokens_mask)
    return next((int(offsets[0]) for offsets, is_special in texts if not is_special), 0)


def parts_of(encodings: Sequence["tokenizers.Encoding"], stride: int) -> List[Part]:
    """The parts of a text, from encodings that overlap by `stride` tokens."""
    parts: List[Part] = []
    begin = 0
    for number, encoding in enumerate(encodings):
        special = encoding.special_tokens_mask
        texts = [place for place, is_special in enumerate(special) if not is_special]
        is_last = number == len(encodings) - 1
        first = texts[0] + stride // 2 if texts and number else 0
        last = texts[-1] + 1 - (stride - stride // 2) if texts and not is_last else len(special)
        words = getattr(encoding, "word_ids", None)
        parts.append(Part(encoding.ids, special, encoding.offsets, words, begin, first, last))
        begin += len(texts) - stride
    return parts


def without_overlaps(entities: List[Entity]) -> List[Entity]:
    """Resolve overlapping entities of several parts: the longest is kept, or the one with the best score."""
    kept: List[Entity] = []
    for entity in sorted(entities, key=lambda one: one["start"]):
        if kept and kept[-1]["start"] <= entity["start"] < kept[-1]["end"]:
            if size(entity) > size(kept[-1]):
                kept[-1] = entity
        else:
            kept.append(entity)
    return kept


def size(entity: Entity) -> Tuple[int, float]:
    """The sort key of overlapping entities: length, then score."""
    return entity["end"] - entity["start"], entity["score"]


def tag_of(label: str) -> Tuple[bool, str]:
    """Whether a label begins an entity (B-), and the label without its prefix."""
    if label[:2] in ("B-", "I-"):
        return label[0] == "B", label[2:]
    return False, label
