"""A minute at full load: nothing fails, and memory stays where it was."""

import threading
import time
from pathlib import Path

import pytest
import serving

from hf_inference_toolkit.loading.loader import load_model

SECONDS = 60
CLIENTS = 16
MOST_GROWTH = 64 * 1024 * 1024


def resident():
    """This process's memory in bytes; the server runs in it."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


@pytest.mark.slow
def test_a_minute_at_full_load(model_folder):
    """Sixteen clients, inputs of all lengths, now and then a wrong one."""
    with serving.serve(load_model, model_dir=str(model_folder("text-classification"))) as server:
        wrong, counted = [], []

        def client(number):
            step = 0
            while time.monotonic() < ends:
                step += 1
                body = b"{" if step % 50 == 0 else {"inputs": "I like you " * ((step * number) % 90 + 1)}
                status = server.post(body).status
                if status != (400 if step % 50 == 0 else 200):
                    wrong.append(status)
            counted.append(step)

        def run(seconds):
            nonlocal ends
            ends = time.monotonic() + seconds
            threads = [threading.Thread(target=client, args=(number,)) for number in range(CLIENTS)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

        ends = 0.0
        run(5)
        before = resident()
        run(SECONDS)
        assert not wrong
        assert sum(counted) > 1000
        assert resident() - before < MOST_GROWTH
        assert server.get("/ping").status == 200
