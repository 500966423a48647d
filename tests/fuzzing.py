"""What the tests that make things up have in common.

In pytest each runs a fixed number of examples, the same ones each time. As a program,
``python tests/test_fuzz_replies.py SECONDS``, it tries new ones for that long, ends at
the first that fails, and prints how many it has run.
"""

import collections
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

import hypothesis
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

tally: collections.Counter[str] = collections.Counter()
"""What came of the examples, for whoever reads the output of a long run."""

_ROUND = 500  # examples between two looks at the clock

_COMMON: dict[str, Any] = {
    "deadline": None,
    "database": None,
    "suppress_health_check": list(hypothesis.HealthCheck),
}

_every_day = hypothesis.settings(
    derandomize=True,
    phases=[hypothesis.Phase.generate],  # a smaller example would take minutes
    **_COMMON,
)
_anew = hypothesis.settings(max_examples=_ROUND, derandomize=False, **_COMMON)


def _unnamed(strategy: SearchStrategy[Any]) -> SearchStrategy[Any]:
    """The same; but messages do not repeat all that it is made of."""

    @st.composite
    def example(draw: st.DrawFn) -> Any:
        return draw(strategy)

    return example()


class Trial:
    """A check, and the strategies for what it is given: a test with a name of its own.

    Args:
        check: fails when something is wrong with an example.
        strategies: one for each argument of ``check``.
    """

    def __init__(
        self, check: Callable[..., None], **strategies: SearchStrategy[Any]
    ) -> None:
        self.name = check.__name__
        self._check = check
        self._given = hypothesis.given(
            **{name: _unnamed(each) for name, each in strategies.items()}
        )

    def run(self, n: int = 300) -> None:
        """Try ``n`` examples, which are those of every day."""
        hypothesis.settings(_every_day, max_examples=n)(self._given(self._check))()

    def run_for(self, seconds: float) -> int:
        """Try others for that long. Returns how many."""
        n = 0
        has_failed = False
        end = time.monotonic() + seconds

        def count(**example: Any) -> None:
            nonlocal n, has_failed
            if time.monotonic() < end:
                n += 1
                try:
                    self._check(**example)
                except BaseException:
                    if not has_failed:  # hypothesis may fail to show a hostile value
                        traceback.print_exc()
                    has_failed = True
                    raise

        while time.monotonic() < end:
            try:
                _anew(self._given(count))()
            except Exception:
                if has_failed:
                    raise
                # Between two checks: hypothesis itself asked a hostile value.
                tally["drawings that broke off"] += 1
        return n


def main(trial: Trial, share: float = 1.0) -> None:
    """Be the program: give ``trial`` its share of the seconds, and say what it did."""
    began = time.monotonic()
    tally.clear()
    n = trial.run_for(float(sys.argv[1]) * share)
    print(f"{trial.name}: {n} examples in {time.monotonic() - began:.0f} s")
    for what, count in sorted(tally.items()):
        print(f"{count:12} {what}", flush=True)
