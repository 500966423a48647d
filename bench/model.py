"""The network that ``python -m bench batch`` serves, in numpy: 784-512-10, ReLU.

Usage: python bench/model.py --samples DIR
       python bench/model.py --floor SECONDS BATCH [BATCH ...]

``--samples`` writes what clients send and what they have to be answered: see
``write_samples``. ``--floor`` calls the network in a loop, as no server can do faster,
and prints the seconds per item for each size of batch.

A body is 784 numbers, either as the bytes of float32 or as a list in JSON; the reply is
10 of the same kind. The weights are drawn by a fixed seed: every server has the same.

Each call is counted in the file that MODEL_COUNTS names, if it names one, with the CPU
time that it took: that says of every server alike how large its batches were, in
whichever of its processes the network ran.
"""

# mypy: disable-error-code="import-not-found,misc,no-any-return,untyped-decorator"

import argparse
import json
import mmap
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import orjson

COUNTS = "MODEL_COUNTS"

N_INPUTS = 784
N_HIDDEN = 512
N_OUTPUTS = 10

# As many inputs as there are to check answers with, and the digits that JSON has of
# each number: what a picture of 28 x 28 grey values has.
N_SAMPLES = 64
DIGITS = 4

_random = np.random.default_rng(6)


def _weights(*shape: int) -> Any:
    """Small enough for the outputs to be of the size of the inputs."""
    scaled = _random.standard_normal(shape, dtype=np.float32) / np.sqrt(shape[0])
    return scaled.astype(np.float32)


_HIDDEN, _HIDDEN_BIAS = _weights(N_INPUTS, N_HIDDEN), _weights(N_HIDDEN)
_OUTPUT, _OUTPUT_BIAS = _weights(N_HIDDEN, N_OUTPUTS), _weights(N_OUTPUTS)


# ---- the network ---------------------------------------------------------------------


def network(rows: Any) -> Any:
    """The outputs of a batch: float32, a row for each row of ``rows``."""
    hidden = rows @ _HIDDEN
    hidden += _HIDDEN_BIAS
    np.maximum(hidden, 0, out=hidden)
    outputs = hidden @ _OUTPUT
    outputs += _OUTPUT_BIAS
    return outputs


class Counted:
    """The network, with its calls, items and nanoseconds in a file for all to read.

    One process writes it: no server here has the network in two.
    """

    def __init__(self, path: str) -> None:
        with open(path, "r+b") as file:
            self._counts = memoryview(mmap.mmap(file.fileno(), 24)).cast("Q")

    def __call__(self, rows: Any) -> Any:
        begin = time.thread_time_ns()
        outputs = network(rows)
        counts = self._counts
        counts[0] += 1
        counts[1] += len(rows)
        counts[2] += time.thread_time_ns() - begin
        return outputs


predict = Counted(os.environ[COUNTS]) if os.environ.get(COUNTS) else network


# ---- one item at a time --------------------------------------------------------------


def predict_binary(body: Any) -> bytes:
    row = np.frombuffer(body, np.float32).reshape(1, N_INPUTS)
    return predict(row).tobytes()


def predict_json(body: Any) -> bytes:
    return to_json(predict(np.array([orjson.loads(body)], np.float32))[0])


def to_json(outputs: Any) -> bytes:
    """Of one row."""
    return orjson.dumps(outputs, option=orjson.OPT_SERIALIZE_NUMPY)


# ---- for the runner, which need not have numpy ---------------------------------------


def write_samples(where: Path) -> None:
    """Files of one picture after the other: what to send, what to be answered.

    ``binary`` and ``json`` are lists of bodies in hexadecimal; ``answers`` are lists of
    numbers.
    """
    pictures = _random.random((N_SAMPLES, N_INPUTS)).round(DIGITS)
    rows = pictures.astype(np.float32)
    found = {
        "binary": [row.tobytes().hex() for row in rows],
        "json": [json.dumps(row.tolist()).encode().hex() for row in pictures],
        "answers": network(rows).tolist(),
    }
    (where / "samples.json").write_text(json.dumps(found))


def seconds_per_item(batch: int, seconds: float) -> float:
    """What an item takes with batches of this size and nothing around them."""
    rows = _random.random((batch, N_INPUTS), dtype=np.float32)
    n_calls, used = 0, 0.0
    network(rows)
    begin = time.perf_counter()
    while used < seconds:
        for _ in range(10):
            network(rows)
        n_calls += 10
        used = time.perf_counter() - begin
    return used / (n_calls * batch)


def main() -> None:
    parser = argparse.ArgumentParser(description="The network of bench batch.")
    parser.add_argument("--samples", type=Path, metavar="DIR")
    parser.add_argument("--floor", type=float, metavar="SECONDS")
    parser.add_argument("batches", type=int, nargs="*")
    args = parser.parse_args()
    if args.samples:
        write_samples(args.samples)
    if args.floor:
        found = {n: seconds_per_item(n, args.floor) for n in args.batches}
        json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
