"""Models loaded in the tests' own process, and what they answer without a server."""

import asyncio

from hf_inference_toolkit.content.payload import Request
from hf_inference_toolkit.loading.loader import load_model
from hf_inference_toolkit.scheduling.scheduler import Scheduler
from hf_inference_toolkit.settings import Settings
from hf_inference_toolkit.tasks.service import predict_alone


def served(folder, **settings):
    """A loaded model after its warm-up."""
    service = load_model(Settings(model_dir=str(folder), **dict({"runtime": "torch"}, **settings)))
    service.warm_up(lambda: None)
    return service


def answer(service, inputs, **parameters):
    """What a model predicts for one request."""
    request = service.accepted(Request(inputs, parameters, []))
    return predict_alone(service, request, lambda: None).value


def together(service, requests, size=1000):
    """What each of the requests gets when all are there at once: a prediction or an exception."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    scheduler = Scheduler(size)

    async def ask():
        jobs = [scheduler.submit(service, request, 60) for request in requests]
        return await asyncio.gather(*(job.future for job in jobs), return_exceptions=True)

    try:
        return loop.run_until_complete(ask())
    finally:
        loop.close()
