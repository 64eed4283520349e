"""The interpreter for its own tests."""

import pytest

from .emulation import Emulation
from .interpreter import Interpreter, Schedule


@pytest.fixture
def interpreter(emulation: Emulation) -> Interpreter:
    """The interpreter, with the first schedule."""
    emulation.interpreter.schedule(Schedule())
    return emulation.interpreter
