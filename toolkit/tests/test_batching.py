"""Requests that share passes through the model are answered as if each had been alone."""

import asyncio
import itertools

import pytest
import tiny
from in_process import together
from services import Echo, Rows
from test_tasks import PIPELINES, assert_close

from hf_inference_toolkit.content.payload import Request
from hf_inference_toolkit.errors import RequestError
from hf_inference_toolkit.loading.loader import load_model
from hf_inference_toolkit.scheduling import batching
from hf_inference_toolkit.scheduling.batching import Cost, DecodingCost
from hf_inference_toolkit.scheduling.scheduler import Scheduler
from hf_inference_toolkit.scheduling.workers import Workers
from hf_inference_toolkit.settings import Settings
from hf_inference_toolkit.tasks.service import BatchRow, predict_alone


def watched(service):
    """How many pieces each pass of a service has from here on."""
    sizes, run = [], service.run

    def counted(pieces, check):
        sizes.append(len(pieces))
        return run(pieces, check)

    service.run = counted
    return sizes


RANKED = {"query": "what is this", "texts": ["I like you", "paris", "the model of my work in berlin"]}
COMPARED = {"source_sentence": "I like you", "sentences": ["paris", "the model of my work in berlin"]}
# Tasks without a pipeline to compare with.
OTHERS = {
    "sentence-embeddings": [
        {"inputs": "I like you"},
        {"inputs": ["paris", COMPARED, [5, 6, 7]]},
        {"inputs": "paris", "parameters": {"prompt_name": "query", "normalize": False}},
    ],
    "sentence-similarity": [{"inputs": COMPARED}, {"inputs": [COMPARED, COMPARED]}],
    "text-ranking": [{"inputs": RANKED}, {"inputs": RANKED, "parameters": {"top_n": 2, "raw_scores": True}}],
}


def requested(task):
    """Requests of a task: one by one and in lists, with parameters and without, of several lengths."""
    requests = dict(PIPELINES, **OTHERS)["text-classification" if task == "sentiment-analysis" else task]
    requests = [Request(one["inputs"], one.get("parameters", {}), []) for one in requests]
    for one in list(requests):
        if isinstance(one.inputs, str):
            longer = one.inputs + " I live in paris and work at hugging face"
            requests += [one._replace(inputs=longer), one._replace(inputs=[longer, one.inputs, longer])]
    return requests


LEFT_OUT = ["table-question-answering"]
if tiny.FRAMEWORK == "tf":
    LEFT_OUT += ["sentence-embeddings", "sentence-similarity"]
OWN = [task for task in tiny.MAKERS if task not in LEFT_OUT]


@pytest.mark.parametrize("task", OWN)
def test_values_and_order_are_those_of_one_by_one(model_folder, task):
    """Every request of a task, several times, at once; a wrong one among them fails by itself."""
    service = load_model(Settings(model_dir=str(model_folder(task)), task=task))
    requests = requested(task)
    expected = [predict_alone(service, request, lambda: None) for request in requests]
    sizes = watched(service)
    wrong = requests[0]._replace(parameters=dict(requests[0].parameters, no_such_parameter=1))
    answers = together(service, [*requests, wrong, *requests, *requests])
    assert isinstance(answers.pop(len(requests)), RequestError)
    for answer, alone_answer in zip(answers, itertools.cycle(expected)):
        assert_close(answer.value, alone_answer.value)
        assert (answer.items, answer.tokens_in) == (alone_answer.items, alone_answer.tokens_in)
    assert max(sizes) > 1, "nothing was run together"


def test_prompts_of_different_lengths_are_written_together(model_folder):
    """Where padding changes nothing; where an option looks at the prompt, each length is by itself."""
    service = load_model(Settings(model_dir=str(model_folder("text-generation")), task="text-generation"))
    texts = ["I like you", "my name is sylvain and I live in paris", "paris"]
    greedy = {"max_new_tokens": 12, "do_sample": False}
    if "suppress_tokens" in service.supported:
        greedy["suppress_tokens"] = [0, 1, 2, 3, 4]
    expected = [predict_alone(service, Request(text, greedy, []), lambda: None).value for text in texts]
    sizes = watched(service)
    assert [one.value for one in together(service, [Request(text, greedy, []) for text in texts])] == expected
    if service.runtime.generates_padded and "max_new_tokens" in service.supported:
        assert max(sizes) > 1
    del sizes[:]
    careful = dict(greedy, repetition_penalty=3.0)
    together(service, [Request(text, careful, []) for text in texts])
    assert sizes == [1, 1, 1]


@pytest.mark.parametrize("inputs", ["I like you" * 900, "", "  ", 7, {"text": 7}, None])
def test_item_that_cannot_be_taken_fails_alone(model_folder, inputs):
    """Too long, empty, of the wrong type: it gets what it gets alone, an error or not, and the others their answers."""
    service = load_model(Settings(model_dir=str(model_folder("text-classification"))))
    good = Request("I like you", {}, [])
    options = {"truncation": False}
    answers = together(service, [good, Request(inputs, options, []), good])
    for answer in (answers[0], answers[2]):
        assert_close(answer.value, predict_alone(service, good, lambda: None).value)
    try:
        expected = predict_alone(service, Request(inputs, options, []), lambda: None).value
    except RequestError as problem:
        assert (answers[1].kind, str(answers[1])) == (problem.kind, str(problem))
        assert ("the model takes" if isinstance(inputs, str) else "text") in str(problem)
    else:
        assert inputs.strip() == ""
        assert_close(answers[1].value, expected)


def test_error_says_which_item_of_a_list():
    """A list is answered whole or not at all; the message names the item."""
    answers = together(Rows(), [Request(["good", "long", "bad"], {}, []), Request("good", {}, [])])
    assert str(answers[0]) == "inputs[2]: bad is refused"
    assert answers[1].value == ["good"]


def test_pass_that_fails_is_taken_apart():
    """One row breaks the pass: who sent it gets the error, and all others their answers."""
    service = Rows()
    sizes = watched(service)
    answers = together(service, [Request(text, {}, []) for text in ("one", "poison", "two", "three")])
    assert isinstance(answers[1], RuntimeError)
    assert [one.value for place, one in enumerate(answers) if place != 1] == [["one"], ["two"], ["three"]]
    assert max(sizes) > 1


def test_what_was_read_along_is_not_written_again():
    """A pass breaks after tokens were sent: who read them gets the error, not the same tokens once more."""
    service = Rows()
    service.gate.clear()
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    scheduler = Scheduler(10)
    read = []
    try:
        first = scheduler.submit(service, Request("first", {}, []), 60)
        while not service.seen:
            pass
        others = [scheduler.submit(service, Request(text, {}, []), 60) for text in ("poison", "fine")]
        reads = scheduler.submit(service, Request("read", {}, []), 60, read.append)
        service.gate.set()
        wait = asyncio.gather(*(job.future for job in (first, *others, reads)), return_exceptions=True)
        answers = loop.run_until_complete(wait)
    finally:
        service.gate.set()
        loop.close()
    assert [answers[0].value, answers[2].value] == [["first"], ["fine"]]
    assert [str(answers[1]), str(answers[3])] == ["broken", "broken"]
    assert read == ["read"]


def test_left_work_that_still_runs_makes_no_more_room():
    """The queue has its size, also during a pass whose requests were cancelled."""
    service = Rows()
    service.gate.clear()
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    scheduler = Scheduler(4)
    try:
        left = scheduler.submit(service, Request(["a"] * 4, {}, []), 60)
        while not service.seen:
            pass
        # A pass that looks at the time would end when it is left; this one does not.
        scheduler._step.check = lambda: None
        scheduler.cancel(left)
        scheduler.submit(service, Request(["b"] * 4, {}, []), 60)
        with pytest.raises(RequestError, match="4 inputs are waiting"):
            scheduler.submit(service, Request("c", {}, []), 60)
    finally:
        service.gate.set()
        loop.close()


def test_list_counts_by_its_items():
    """A list takes as many places as it has items."""
    service = Rows()
    service.gate.clear()
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    scheduler = Scheduler(4)
    try:
        first = scheduler.submit(service, Request(["a"] * 4, {}, []), 60)
        while not service.seen:  # the second may share a pass that has not begun
            pass
        second = scheduler.submit(service, Request("b", {}, []), 60)
        with pytest.raises(RequestError) as full:
            scheduler.submit(service, Request(["c"] * 4, {}, []), 60)
        assert full.value.status == 503
        scheduler.cancel(first)
        third = scheduler.submit(service, Request(["c"] * 3, {}, []), 60)
        service.gate.set()
        answers = loop.run_until_complete(asyncio.gather(second.future, third.future))
        assert [one.value for one in answers] == [["b"], ["c"] * 3]
    finally:
        service.gate.set()
        loop.close()


def test_list_longer_than_the_queue_is_answered_and_leaves_places_to_others():
    """It takes half of the free places, whatever its length, and gives them back."""
    service = Rows()
    service.gate.clear()
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    scheduler = Scheduler(4)
    try:
        runs = scheduler.submit(service, Request("a", {}, []), 60)
        while not service.seen:
            pass
        long = scheduler.submit(service, Request(["b"] * 50, {}, []), 60)
        assert scheduler.waiting == 2
        others = [scheduler.submit(service, Request("c", {}, []), 60) for _ in range(2)]
        with pytest.raises(RequestError, match="4 inputs are waiting"):
            scheduler.submit(service, Request(["d"] * 50, {}, []), 60)
        service.gate.set()
        jobs = [runs, long, *others]
        answers = loop.run_until_complete(asyncio.gather(*(job.future for job in jobs)))
        assert [len(one.value) for one in answers] == [1, 50, 1, 1]
        for job in jobs:
            scheduler.cancel(job)
        assert not scheduler.is_busy
    finally:
        service.gate.set()
        loop.close()


def test_who_leaves_takes_the_pieces_along():
    """A job that is left while its pieces wait is never run."""
    service = Rows()
    service.gate.clear()
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    scheduler = Scheduler(10)
    try:
        stays = scheduler.submit(service, Request("stays", {}, []), 60)
        while not service.seen:
            pass
        left = scheduler.submit(service, Request(["left", "left"], {}, []), 60)
        scheduler.cancel(left)
        assert scheduler.waiting == 0
        service.gate.set()
        assert loop.run_until_complete(stays.future).value == ["stays"]
        assert service.seen == ["stays"]
    finally:
        service.gate.set()
        loop.close()


def cheapest(lengths, overhead, budget):
    """The least price of all ways to cut, found by trying them."""
    prices = []
    for cuts in itertools.product([False, True], repeat=len(lengths) - 1):
        groups, group = [], [lengths[0]]
        for cut, length in zip(cuts, lengths[1:]):
            if cut:
                groups.append(group)
                group = []
            group.append(length)
        groups.append(group)
        if all(len(one) == 1 or len(one) * one[-1] <= budget for one in groups):
            prices.append(sum(overhead + len(one) * one[-1] for one in groups))
    return min(prices)


@pytest.mark.parametrize("overhead", [0, 7, 30, 500])
@pytest.mark.parametrize("budget", [10, 64, 1000])
@pytest.mark.parametrize("lengths", [[5], [1, 1, 1, 9], [4, 9, 11, 30, 31, 90, 91, 96], [64] * 7])
def test_partition_is_the_cheapest(lengths, overhead, budget):
    """No other way to cut costs less."""
    groups = batching.partition(lengths, overhead, budget)
    assert [place for group in groups for place in group] == list(range(len(lengths)))
    price = sum(overhead + len(group) * lengths[group[-1]] for group in groups)
    assert price == cheapest(lengths, overhead, budget)


def test_oldest_piece_is_always_chosen():
    """However odd its length and its key are."""
    waiting = [BatchRow("old", 900, "x")] + [BatchRow(str(n), 4, "y") for n in range(50)]
    assert batching.choose(waiting, Cost()) == [0]
    assert len(batching.choose(waiting[1:], Cost())) == 50
    assert batching.choose([BatchRow(0, 5), BatchRow(0, 9), BatchRow(0, 500), BatchRow(0, 6)], Cost()) == [
        0,
        3,
        1,
    ]
    assert len(batching.choose([BatchRow(0, 5), BatchRow(0, 900)], DecodingCost(10000))) == 2


def test_overhead_is_learned():
    """From passes of different sizes; passes of one size teach nothing."""
    cost = Cost()
    for _ in range(20):
        cost.observe(100, 0.5)
    assert cost.overhead == Cost().overhead
    for tokens in (10, 500, 100, 1000) * 50:
        cost.observe(tokens, 0.002 * (tokens + 100))
    assert cost.overhead == pytest.approx(100, rel=0.3)
    assert cost.budget == pytest.approx(100 * batching.ENOUGH, rel=0.3)


def test_models_take_turns_with_a_thread():
    """A request does not wait for all requests of another model that were there before it."""
    seen, workers = [], Workers(1)

    class Named(Echo):
        def predict(self, request, check):
            seen.append(request.inputs)
            return super().predict(request, check)

    many, few = Named(), Named()
    many.gate.clear()
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)

    async def ask():
        first, second = Scheduler(100, None, workers), Scheduler(100, None, workers)
        jobs = [first.submit(many, Request("many", {}, []), 60) for _ in range(10)]
        jobs += [second.submit(few, Request("few", {}, []), 60) for _ in range(2)]
        many.gate.set()
        await asyncio.gather(*(job.future for job in jobs))

    try:
        loop.run_until_complete(ask())
    finally:
        loop.close()
    assert len(seen) == 12
    assert [place for place, name in enumerate(seen) if name == "few"] == [1, 3]
