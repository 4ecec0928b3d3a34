"""token-classification (and ner)."""

from typing import Any, Dict, List, Tuple

import numpy

from hf_inference_toolkit.tasks.parameters import TRUNCATION, Parameter
from hf_inference_toolkit.tasks.text_classification import softmax
from hf_inference_toolkit.tasks.text_task import Encoded, TextTask, row

Entity = Dict[str, Any]


class TokenClassification(TextTask):
    """A label for each token that is not `O`, or for each group of tokens; offsets count characters of the text."""

    parameters = (
        Parameter(
            "aggregation_strategy",
            "string",
            "how tokens become entities",
            choices=("none", "simple", "first", "average", "max"),
        ),
        Parameter("ignore_labels", "strings", "labels to leave out; O by default"),
        Parameter("grouped_entities", "boolean", "the older name of aggregation_strategy simple"),
        Parameter("ignore_subwords", "boolean", "with grouped_entities: aggregation_strategy first"),
        TRUNCATION,
    )
    sample = {"inputs": "My name is Sylvain and I work at Hugging Face in Brooklyn."}

    def read_options(self, given: Dict[str, Any]) -> Dict[str, Any]:
        """Parameters with the older names translated."""
        options = super().read_options(given)
        if "aggregation_strategy" not in options and options.get("grouped_entities"):
            options["aggregation_strategy"] = "first" if options.get("ignore_subwords") else "simple"
        ignored = options.get("ignore_labels", ["O"])
        options["ignore_labels"] = [ignored] if isinstance(ignored, str) else ignored
        return options

    def encode(self, item: Any, options: Dict[str, Any]) -> Encoded:
        """One row; the places of its tokens in the text beside it."""
        how = {"return_special_tokens_mask": True}
        if self.tokenizer.is_fast:
            how["return_offsets_mapping"] = True
        encoding, was_cut = self.tokens(item, None, options, **how)
        return Encoded([row(encoding)], was_cut, encoding)

    def decode(
        self, item: Any, encoded: Encoded, outputs: List[Dict[str, Any]], options: Dict[str, Any]
    ) -> Any:
        """The entities of one text."""
        strategy = options.get("aggregation_strategy", "none")
        scores = softmax(outputs[0]["logits"].astype(numpy.float64))
        tokens = self._tokens(item, encoded.extra, scores)
        if strategy == "none":
            entities = [self._single(token) for token in tokens]
        else:
            words = [[token] for token in tokens] if strategy == "simple" else by_word(tokens)
            entities = self._grouped([self._word(word, strategy) for word in words])
        ignored = options["ignore_labels"]
        return [
            entity for entity in entities if entity.get("entity", entity.get("entity_group")) not in ignored
        ]

    def _tokens(self, text: str, encoding: Any, scores: Any) -> List[Entity]:
        offsets = encoding.get("offset_mapping")
        tokens = []
        for index, token_scores in enumerate(scores):
            if encoding["special_tokens_mask"][index]:
                continue
            number = encoding["input_ids"][index]
            word = self.tokenizer.convert_ids_to_tokens(number)
            start, end, is_subword = None, None, word.startswith("##")
            if offsets is not None:
                start, end = map(int, offsets[index])
                is_subword = self._continues(text, word, start, end)
                if number == self.tokenizer.unk_token_id:
                    word, is_subword = text[start:end], False
            tokens.append(
                {
                    "scores": token_scores,
                    "index": index,
                    "word": word,
                    "start": start,
                    "end": end,
                    "is_subword": is_subword,
                }
            )
        return tokens

    def _continues(self, text: str, word: str, start: int, end: int) -> bool:
        """Whether a token is a piece of the word before it."""
        backend = getattr(self.tokenizer, "_tokenizer", None)
        if backend is not None and getattr(backend.model, "continuing_subword_prefix", None):
            return len(word) != end - start
        return start > 0 and " " not in text[start - 1 : start + 1]

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

    def _best(self, scores: Any) -> Tuple[str, float]:
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
    """Tokens in groups of one word each."""
    words: List[List[Entity]] = []
    for token in tokens:
        if words and token["is_subword"]:
            words[-1].append(token)
        else:
            words.append([token])
    return words


def tag_of(label: str) -> Tuple[bool, str]:
    """Whether a label begins an entity (B-), and what it names."""
    if label[:2] in ("B-", "I-"):
        return label[0] == "B", label[2:]
    return False, label
