"""hex_ssl on its interpreted CUDA kernels: the parts of the fixture `emulate`."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path

import pytest
from filelock import FileLock

from . import kernels
from .interpreter import Interpreter, build
from .mutations import Mutation, mutated


class Emulation:
    """The interpreter and the PTX of this run, both made in the background, two at a time, and kept by content."""

    def __init__(self, cache: Path) -> None:
        self._cache = cache
        self._pool = ThreadPoolExecutor(2)
        self._interpreter: Future[Interpreter] = self._pool.submit(lambda: Interpreter(build(cache)))
        self._texts: dict[tuple[str, int, str | None], Future[str]] = {}
        self._replaced: dict[str, str] = {}  # by the names of loaded variants, the kernels that replace some of theirs

    @property
    def interpreter(self) -> Interpreter:
        """The interpreter, once it is built."""
        return self._interpreter.result()

    def start(self, operand: str, dims: int, mutation: str | None = None) -> Future[str]:
        """Begin to compile a variant, unless that has begun; or the kernels that one of the mutations changes."""
        key = (operand, dims, mutation)
        if key not in self._texts:
            sources = None if mutation is None else mutated(mutation)
            self._texts[key] = self._pool.submit(self._compiled, operand, dims, sources)
        return self._texts[key]

    def _compiled(self, operand: str, dims: int, sources: str | None) -> str:
        # What another process compiles is waited for. Mutations are compiled by one.
        with FileLock(self._cache / f"{operand}_{dims}.lock") if sources is None else nullcontext():
            return kernels.compiled(self._cache, operand, dims, sources)

    def start_planted(
        self, mutations: dict[str, Mutation], session: pytest.Session, test: Callable[..., None], kind: str = ""
    ) -> None:
        """Begin to compile the mutations, of 64 dimensions, for which the session has chosen this test.

        `kind` stands behind the operands' names: "" or `kernels.WGMMA`.
        """
        chosen = {item.name for item in session.items}
        for name, mutation in mutations.items():
            if f"{test.__name__}[{name}]" in chosen:
                self.start(kernels.operand_of(mutation.dtype) + kind, 64, name)

    def load(self, operand: str, dims: int, mutation: str | None = None) -> None:
        """Let the interpreter have a variant."""
        name = f"{operand}_{dims}"
        text = self.start(operand, dims).result()
        changed = "" if mutation is None else self.start(operand, dims, mutation).result()
        if name not in self._replaced:
            self.interpreter.load(name, text)
            self._replaced[name] = ""
        if self._replaced[name] != changed:
            self.interpreter.replace(name, changed)
            self._replaced[name] = changed

    def close(self) -> None:
        """Compile no more."""
        self._pool.shutdown(cancel_futures=True)
