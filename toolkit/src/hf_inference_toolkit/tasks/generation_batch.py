"""Texts that are decoded token by token, between the scheduler and the runtime's batch."""

from typing import Callable, Collection, Dict, List, NamedTuple, Sequence

from hf_inference_toolkit.annotations import Row
from hf_inference_toolkit.runtimes.base import Runtime
from hf_inference_toolkit.runtimes.decoding import Selected
from hf_inference_toolkit.runtimes.token_batch import TokenBatch, TokenRow
from hf_inference_toolkit.tasks.incremental_decoder import GeneratedSequence
from hf_inference_toolkit.tasks.service import BatchRow, Check, DecodingBatch, DecodingStep, Finished


class _Member(NamedTuple):
    """A row of the scheduler: its sequences, and for each a row of the runtime's batch."""

    handle: Row
    sequences: List[GeneratedSequence]
    rows: List[TokenRow]


class GenerationBatch(DecodingBatch):
    """The running texts of one service. `sequence` creates the sequences of a row."""

    def __init__(
        self, runtime: Runtime, batch: TokenBatch, sequence: Callable[[BatchRow], GeneratedSequence]
    ) -> None:
        self._runtime = runtime
        self._batch = batch
        self._sequence = sequence
        self._members: Dict[int, _Member] = {}

    @property
    def running(self) -> int:  # type: ignore[override]
        """See DecodingBatch."""
        return len(self._members)

    @property
    def usage(self) -> float:  # type: ignore[override]
        """See DecodingBatch."""
        return self._batch.usage

    def fits(self, piece: BatchRow) -> bool:
        """See DecodingBatch."""
        prompt = piece.row
        length, total = len(prompt.row["input_ids"]), prompt.total
        return self._batch.fits([length] * prompt.copies, [total] * prompt.copies)

    def add(self, handle: Row, piece: BatchRow) -> None:
        """See DecodingBatch."""
        prompt = piece.row
        ids = prompt.row["input_ids"]
        member = _Member(handle, [], [])
        for copy in range(prompt.copies):
            sequence = self._sequence(piece)
            row = self._batch.row(
                ids, prompt.total, prompt.arguments, prompt.row_sampling(copy), _adder(sequence)
            )
            member.sequences.append(sequence)
            member.rows.append(row)
            self._batch.add(row)
        self._members[id(handle)] = member

    def remove(self, handles: Collection[Row]) -> None:
        """See DecodingBatch."""
        for handle in handles:
            for row in self._members.pop(id(handle)).rows:
                row.is_over = True

    def clear(self) -> None:
        """See DecodingBatch."""
        self._members.clear()
        self._batch.clear()

    def share_memory(self, others: Sequence[DecodingBatch]) -> None:
        """See DecodingBatch."""
        self._batch.share_memory([other._batch for other in others if isinstance(other, GenerationBatch)])

    def step(self, check: Check) -> DecodingStep:
        """See DecodingBatch."""
        fresh = [one for one in self._members.values() if not one.rows[0].generated]
        lengths, before = [row.length for row in self._batch.rows], self._batch.selected
        with self._runtime.checked(check):
            self._batch.step()
        started = [one for one in fresh if one.rows[0].generated]
        finished = []
        for member in list(self._members.values()):
            problem = next((row.problem for row in member.rows if row.problem is not None), None)
            if problem is None and not all(row.is_over for row in member.rows):
                continue
            self.remove([member.handle])
            if problem is None:
                for sequence in member.sequences:
                    sequence.close()
            finished.append(Finished(member.handle, member.sequences, problem))
        return DecodingStep(
            finished,
            [one.handle for one in started],
            lengths,
            sum(len(one.rows[0].input_tokens) for one in started),
            self._batch.selected - before,
        )


def _adder(sequence: GeneratedSequence) -> Callable[[Selected], bool]:
    def add(selected: Selected) -> bool:
        sequence.add(*selected)
        return sequence.is_over

    return add
