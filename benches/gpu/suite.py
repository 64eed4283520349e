"""Step: `python -m gpu.suite PATH ...`: the tests there that need a GPU, but for what torch's compiler makes slow.

A line for each test.
"""

import sys

import pytest

from gpu.records import REHEARSAL, emit


class Lines:
    """Writes each test's result when it is there: a crash costs the tests behind it alone."""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """The call's result; of set-up and tear-down what is no success."""
        if report.when == "call" or report.outcome != "passed":
            said = "" if report.passed else str(report.longrepr)[-1500:]
            emit("test", test=report.nodeid, outcome=report.outcome, seconds=round(report.duration, 2), said=said)


def main() -> int:
    """pytest's exit status."""
    # The next comes after a failure, unless there are many; a package's warnings are no failures of ours.
    arguments = [*sys.argv[1:], "-m", "gpu", "-q", "--maxfail=30", "-p", "no:cacheprovider"]
    arguments += ["-W", "default", "-W", "error::RuntimeWarning", "-k", "core" if REHEARSAL else "not compile"]
    return int(pytest.main(arguments, plugins=[Lines()]))


if __name__ == "__main__":
    sys.exit(main())
