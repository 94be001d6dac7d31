import pickle
from collections.abc import Iterator

import pytest

from nas import errors
from nas.errors import NasError, UnknownName, Unready


def every(cls: type[NasError] = NasError) -> Iterator[NasError]:
    arguments: dict[type[NasError], tuple[object, ...]] = {
        UnknownName: ("a", "b", ["c"]),
        Unready: ("a", "b"),
    }
    yield cls(*arguments.get(cls, ("a message",)))
    for child in cls.__subclasses__():
        if child.__module__ == errors.__name__:
            yield from every(child)


@pytest.mark.parametrize("error", list(every()), ids=lambda error: type(error).__name__)
def test_errors_reach_the_driver_from_another_process(error: NasError) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert str(again) == str(error)


def test_an_unknown_name_keeps_its_owner_and_what_may_stand_in_its_place() -> None:
    error = UnknownName("setting", "rat", ["rate", "lr"], "Or give none.", of="the learner")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
