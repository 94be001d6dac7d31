"""What every space promises, as a suite of tests."""

from __future__ import annotations

import atexit
import math
import os
import pickle
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nas.errors import ConfigError
from nas.space import Architecture, Space, TaskShape

_KEYS = """
import pickle, sys
while sys.stdin.buffer.peek(1):
    sys.path[:] = pickle.load(sys.stdin.buffer)
    space, architectures = pickle.load(sys.stdin.buffer)
    pickle.dump([space.canonical(architecture) for architecture in architectures], sys.stdout.buffer)
    sys.stdout.buffer.flush()
"""
"""A program that answers spaces and architectures with canonical keys."""

_quick = settings(
    max_examples=50,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.differing_executors],
)


def architectures(space: Space[Any]) -> st.SearchStrategy[Architecture]:
    """Return the strategy that draws architectures of a space."""
    choices = (st.integers(0, len(decision.choices) - 1) for decision in space.decisions)
    return st.builds(Architecture, st.just(space.name), st.tuples(*choices))


def some(space: Space[Any], count: int) -> Iterator[Architecture]:
    """Yield the whole space if it is no larger than `count`, else `count` samples, always the same."""
    if space.size <= count:
        for choices in product(*(range(len(decision.choices)) for decision in space.decisions)):
            yield Architecture(space.name, choices)
    else:
        rng = np.random.default_rng(0)
        for _ in range(count):
            yield space.sample(rng)


class SpaceSuite(ABC):
    """Tests that any space passes, whatever it chooses. A space of networks passes `BackboneSuite`, too."""

    @abstractmethod
    def space(self) -> Space[Any]:
        """Fixture: the space."""

    @abstractmethod
    def shape(self) -> TaskShape:
        """Fixture: what is built must fit this."""

    def test_default(self, space: Space[Any]) -> None:
        """The default belongs to the space."""
        assert space.check(space.default) == space.default

    def test_decisions(self, space: Space[Any]) -> None:
        """Names are distinct, and so are a decision's choices; anchors are decisions made before."""
        names = [decision.name for decision in space.decisions]
        assert len(set(names)) == len(names) > 0
        for i, decision in enumerate(space.decisions):
            assert isinstance(decision.choices, tuple)
            assert len(set(decision.choices)) == len(decision.choices) > 0
            assert len(decision.anchors) in (0, len(decision.choices))
            assert len(decision.roles) in (0, len(decision.choices))
            assert all(0 <= anchor < i for anchors in decision.anchors for anchor in anchors)
        assert space.size == math.prod(len(decision.choices) for decision in space.decisions)

    def test_sample(self, space: Space[Any]) -> None:
        """Samples belong to the space, follow their seed and reach every choice."""
        count = 20 * max(len(decision.choices) for decision in space.decisions)
        first, second = (np.random.default_rng(1), np.random.default_rng(1))
        drawn = [space.check(space.sample(first)) for _ in range(count)]
        assert drawn == [space.sample(second) for _ in range(count)]
        for i, decision in enumerate(space.decisions):
            assert {a.choices[i] for a in drawn} == set(range(len(decision.choices)))

    @_quick
    @given(data=st.data())
    def test_text(self, space: Space[Any], data: st.DataObject) -> None:
        """Decoding a text form gives the architecture back; distinct ones have distinct texts."""
        a, b = data.draw(architectures(space)), data.draw(architectures(space))
        assert space.decode(space.encode(a)) == a
        assert (space.encode(a) == space.encode(b)) == (a == b)

    @_quick
    @given(data=st.data())
    def test_garbage(self, space: Space[Any], data: st.DataObject) -> None:
        """A text is an architecture of the space or a `ConfigError`."""
        text = space.encode(data.draw(architectures(space)))
        start, end = sorted((data.draw(st.integers(0, len(text))), data.draw(st.integers(0, len(text)))))
        for garbage in (text[:start] + data.draw(st.text(max_size=3)) + text[end:], data.draw(st.text())):
            try:
                read = space.decode(garbage)
            except ConfigError:
                continue
            assert space.decode(space.encode(read)) == read

    def test_refuses(self, space: Space[Any]) -> None:
        """What is no text form is a `ConfigError`."""
        for text in ("", "no architecture", "\n", "9" * 5000):
            with pytest.raises(ConfigError):
                space.decode(text)

    def test_foreign(self, space: Space[Any], shape: TaskShape) -> None:
        """An architecture of another space, or with choices that do not exist, is a `ConfigError`."""
        choices = (0,) * len(space.decisions)
        beyond = (*choices[:-1], len(space.decisions[-1].choices))
        for wrong in (
            Architecture(f"{space.name}?", choices),
            Architecture(space.name, choices[:-1]),
            Architecture(space.name, beyond),
        ):
            for use in (space.encode, space.canonical, lambda a: space.build(a, shape)):
                with pytest.raises(ConfigError):
                    use(wrong)

    def test_named(self, space: Space[Any]) -> None:
        """Names decode to their architectures; a misspelt name is a `ConfigError`."""
        for name, architecture in space.named.items():
            assert space.decode(name) == space.check(architecture)
            with pytest.raises(ConfigError, match=name):
                space.decode(f"{name}x")

    @_quick
    @given(data=st.data())
    def test_graphs(self, space: Space[Any], data: st.DataObject) -> None:
        architecture = data.draw(architectures(space))
        graphs = space.graphs(architecture)
        assert graphs == space.graphs(architecture)
        for graph in graphs:
            assert graph.title
            for arrow in graph.arrows:
                assert 0 <= arrow.source < arrow.target < len(graph.vertices)
                assert arrow.identity or arrow.operation in ("", *space.operations)

    @_quick
    @given(data=st.data(), seed=st.integers(0, 2**32 - 1))
    def test_mutate(self, space: Space[Any], data: st.DataObject, seed: int) -> None:
        """A mutant differs in exactly one decision, or is what a mutation of the space's own makes."""
        parent = data.draw(architectures(space))
        mutant = space.check(space.mutate(parent, np.random.default_rng(seed)))
        assert mutant == space.mutate(parent, np.random.default_rng(seed))
        if not space.mutations:
            assert _distance(parent, mutant) == min(1, space.size - 1)
            return
        assert mutant != parent
        for mutation in space.mutations.values():
            made = mutation(parent, np.random.default_rng(seed))
            assert made is None or space.check(made) != parent
            assert made == mutation(parent, np.random.default_rng(seed))

    @_quick
    @given(data=st.data(), seed=st.integers(0, 2**32 - 1))
    def test_crossover(self, space: Space[Any], data: st.DataObject, seed: int) -> None:
        """A child has each choice from one of its parents."""
        a, b = data.draw(architectures(space)), data.draw(architectures(space))
        child = space.check(space.crossover(a, b, np.random.default_rng(seed)))
        for mine, *parents in zip(child.choices, a.choices, b.choices, strict=True):
            assert mine in parents

    @_quick
    @given(data=st.data())
    def test_neighbours(self, space: Space[Any], data: st.DataObject) -> None:
        """They are all that differ in exactly one decision, each once."""
        centre = data.draw(architectures(space))
        around = [space.check(neighbour) for neighbour in space.neighbours(centre)]
        assert len(set(around)) == len(around) == sum(len(d.choices) - 1 for d in space.decisions)
        assert all(_distance(centre, neighbour) == 1 for neighbour in around)

    @_quick
    @given(data=st.data())
    def test_one_hot(self, space: Space[Any], data: st.DataObject) -> None:
        """One entry a decision is 1, and they give the architecture back."""
        architecture = data.draw(architectures(space))
        vector = space.one_hot(architecture)
        assert vector.shape == (sum(len(decision.choices) for decision in space.decisions),)
        assert sorted(set(vector)) in ([0, 1], [1])
        assert vector.sum() == len(space.decisions)
        assert space.from_one_hot(vector) == architecture

    def test_canonical_elsewhere(self, space: Space[Any]) -> None:
        """Keys are the same in another process, which receives the space pickled, as workers do."""
        sample = list(some(space, 100))
        keys = [space.canonical(architecture) for architecture in sample]
        assert all(key and "\n" not in key for key in keys)
        assert _keys_elsewhere(space, sample) == keys


def _keys_elsewhere(space: Space[Any], sample: Sequence[Architecture]) -> list[str]:
    """Return the keys that another process finds, one for all tests: it takes seconds to import torch."""
    there = _elsewhere()
    assert there.stdin is not None
    assert there.stdout is not None
    try:
        there.stdin.write(pickle.dumps(sys.path) + pickle.dumps((space, sample)))
        there.stdin.flush()
        keys: list[str] = pickle.load(there.stdout)
    except (EOFError, BrokenPipeError) as error:
        _elsewhere.cache_clear()
        there.communicate()
        raise AssertionError("The keys cannot be found in another process, as it says on stderr.") from error
    return keys


@cache
def _elsewhere() -> subprocess.Popen[bytes]:
    """Start a process that hashes in another way than this one; it ends with this one."""
    program = subprocess.Popen(
        [sys.executable, "-c", _KEYS],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONHASHSEED": "1"},
    )
    atexit.register(_end, program)
    return program


def _end(program: subprocess.Popen[bytes]) -> None:
    if program.poll() is None:
        program.kill()
        program.communicate()


def _distance(a: Architecture, b: Architecture) -> int:
    return sum(x != y for x, y in zip(a.choices, b.choices, strict=True))
