"""The numbers of /metrics mean what their names say."""

import pytest
import serving
from prometheus_client.parser import text_string_to_metric_families
from services import Echo, Rows
from test_serving import in_background, until


@pytest.fixture(params=[Echo, Rows])
def server(request):
    service = request.param()
    with serving.serve(lambda settings: service, deadline=20.0) as running:
        running.service = service
        yield running
        service.gate.set()


def samples(server):
    """Every value by its name and labels."""
    text = server.get("/metrics").body.decode()
    found = {}
    for family in text_string_to_metric_families(text):
        assert family.documentation
        for sample in family.samples:
            found[(sample.name, *sorted(sample.labels.items()))] = sample.value
    return found


def bucket(values, name, bound):
    return values[name + "_bucket", ("le", bound)]


def rows_of(server):
    return Rows if isinstance(server.service, Rows) else Echo


def test_requests_are_counted_by_route_and_status(server):
    """Whatever path a client makes up, there is one label for it."""
    server.post({"inputs": "a"})
    server.post(b"{")
    server.post({"inputs": "a"}, path="/")
    for path in ("/x", "/y"):
        server.get(path)
    values = samples(server)
    count = {key[1:]: value for key, value in values.items() if key[0] == "hf_requests_total"}
    assert count == {
        (("route", "/invocations"), ("status", "200")): 1,
        (("route", "/invocations"), ("status", "400")): 1,
        (("route", "/"), ("status", "200")): 1,
        (("route", "other"), ("status", "404")): 2,
    }
    assert values[("hf_request_seconds_count",)] == 3
    assert values[("hf_model_ready",)] == 1
    assert values[("hf_model_load_seconds",)] > 0
    assert values[("hf_queue_waiting",)] == 0


def test_rows_are_those_that_share_a_pass(server):
    """32 clients: the passes hold 32 rows in all, and all that waited while the first one ran went together."""
    service = server.service
    service.gate.clear()
    work = [in_background(lambda: server.post({"inputs": "first"}).status)]
    until(lambda: service.seen)
    work += [in_background(lambda: server.post({"inputs": "later"}).status) for _ in range(31)]
    until(lambda: server.app.scheduler.waiting == 31)
    assert samples(server)[("hf_queue_waiting",)] == 31
    service.gate.set()
    for results, thread in work:
        thread.join(20)
        assert results == [200]
    values = samples(server)
    is_shared = rows_of(server) is Rows
    assert values[("hf_pass_rows_sum",)] == 32
    assert values[("hf_pass_rows_count",)] == values[("hf_pass_seconds_count",)] == (2 if is_shared else 32)
    assert bucket(values, "hf_pass_rows", "1.0") == (1 if is_shared else 32)
    assert bucket(values, "hf_pass_rows", "32.0") == (2 if is_shared else 32)
    assert values[("hf_queue_seconds_count",)] == 32


def test_queue_and_model_are_timed_apart(server):
    """A request that waits behind another one spends that time in the queue, not in the model."""
    service = server.service
    service.gate.clear()
    first = in_background(lambda: server.post({"inputs": "a"}))
    until(lambda: service.seen)
    second = in_background(lambda: server.post({"inputs": "b"}))
    until(lambda: server.app.scheduler.waiting == 1)
    assert not service.gate.wait(0.3)
    service.gate.set()
    for _, thread in (first, second):
        thread.join(20)
    values = samples(server)
    assert values[("hf_pass_seconds_count",)] == values[("hf_queue_seconds_count",)] == 2
    # The first was in the model, and the second in the queue, while the gate was shut.
    assert values[("hf_pass_seconds_sum",)] >= 0.3
    assert values[("hf_queue_seconds_sum",)] >= 0.3
    assert values[("hf_request_seconds_sum",)] >= 0.6
    assert (
        values[("hf_pass_seconds_sum",)] + values[("hf_queue_seconds_sum",)]
        <= values[("hf_request_seconds_sum",)]
    )


def test_padding_is_its_share_of_a_pass():
    """Rows of 6 and of 8 tokens: 2 of 16 are padding. Rows of one length have none."""
    with serving.serve(lambda settings: Rows()) as server:
        server.post({"inputs": ["x" * 6, "y" * 8]})
        server.post({"inputs": ["x" * 6, "y" * 6]})
        values = samples(server)
        assert values[("hf_pass_rows_sum",)] == 4
        assert values[("hf_pass_padding_ratio_sum",)] == 2 / 16
        assert bucket(values, "hf_pass_padding_ratio", "0.0") == 1
        assert bucket(values, "hf_pass_padding_ratio", "0.1") == 1
        assert bucket(values, "hf_pass_padding_ratio", "0.2") == 2


def test_requests_that_are_refused_or_dropped_have_no_pass(server):
    """Errors before the model, and in it."""
    server.post(b"{")
    server.post({"inputs": {"boom": 1}})
    before = samples(server)
    server.post({"inputs": "boom" if rows_of(server) is Echo else "poison"})
    values = samples(server)
    assert values[("hf_pass_rows_sum",)] == before[("hf_pass_rows_sum",)]
    assert values[("hf_requests_total", ("route", "/invocations"), ("status", "500"))] >= 1


def test_two_apps_share_no_numbers():
    """Each has a registry of its own."""
    with serving.serve(lambda settings: Echo()) as one, serving.serve(lambda settings: Echo()) as other:
        one.post({"inputs": 1})
        assert samples(one)[("hf_request_seconds_count",)] == 1
        assert samples(other)[("hf_request_seconds_count",)] == 0


def test_tokens_are_counted_where_the_task_counts_them(model_folder):
    """Those of the prompt, and those that are written."""
    pytest.importorskip("transformers")
    from hf_inference_toolkit.loading.loader import load_model

    folder = str(model_folder("text-generation"))
    with serving.serve(load_model, model_dir=folder, task="text-generation") as server:
        if "min_new_tokens" not in server.app.model.service.supported:
            pytest.skip("this release has no min_new_tokens")
        parameters = {"max_new_tokens": 5, "min_new_tokens": 5}
        server.post({"inputs": "I like you", "parameters": parameters})
        values = samples(server)
        assert values["hf_tokens_total", ("direction", "out")] == 5
        assert values["hf_tokens_total", ("direction", "in")] >= 3
