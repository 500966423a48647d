"""The handlers of whole batches that are measured; their fastbatch has to have such."""

import time

import fastbatch

# What a call of a model takes, whatever is asked of it, and what each question adds.
BATCH_NANOSECONDS = 50_000
ITEM_NANOSECONDS = 1_000


@fastbatch.batch
def hello(batch: fastbatch.Batch) -> list[str]:
    """Nothing to do: what a batch handler saves, or costs, by itself."""
    return ["Hello, World!"] * len(batch)


@fastbatch.batch
def model(batch: fastbatch.Batch) -> list[str]:
    """A fixed cost for the batch and a small one for each request.

    One request takes what ``apps.burn`` takes, and 2 % more. It is the thread's own CPU
    time, as there.
    """
    end = time.thread_time_ns() + BATCH_NANOSECONDS + ITEM_NANOSECONDS * len(batch)
    while time.thread_time_ns() < end:
        pass
    return ["Hello, World!"] * len(batch)
