import copy
import io

import pytest
import torch
from torch import Tensor

from controllers.collapse import Watch
from controllers.darts import Softmax
from nas.testing.toy_supernet import ToyCurves, ToyRegression


def alpha(epoch: int) -> list[Tensor]:
    return [torch.full((3,), float(epoch)), torch.full((2,), float(-epoch))]


def run(watch: Watch, skips: list[int], eigenvalues: list[float] | None = None) -> tuple[int, int] | None:
    """Return the epoch that ends the search and the one gone back to, or None."""
    for epoch, count in enumerate(skips):
        eigenvalue = eigenvalues[epoch] if eigenvalues else None
        collapse = watch.observe(alpha(epoch), count, eigenvalue)
        if collapse:
            assert collapse.reason
            back = int(collapse.logits[0][0])
            for found, wanted in zip(collapse.logits, alpha(back), strict=True):
                assert torch.equal(found, wanted)
            return epoch, back
    return None


def test_unwatched_nothing_ends() -> None:
    assert run(Watch(None, None), [100] * 20, [float(i**3) for i in range(20)]) is None


@pytest.mark.parametrize(
    ("skips", "ends"),
    [
        ([0, 1, 1, 2, 1, 2], None),
        ([0, 1, 3, 2], (2, 1)),
        ([2, 0, 2, 4, 9], (3, 2)),
        ([3, 0], (0, 0)),  # nothing was before
    ],
)
def test_skips(skips: list[int], ends: tuple[int, int] | None) -> None:
    assert run(Watch(3, None), skips) == ends


def test_eigenvalue_at_window_one_compares_neighbours() -> None:
    watch = Watch(None, 1)
    assert run(watch, [0] * 5, [1.0, 1.3, 1.7, 2.2, 3.0]) == (
        4,
        3,
    )  # 3/4 of 1.3, 1.7, 2.2 is less than before
    assert run(Watch(None, 1), [0] * 4, [4.0, 3.0, 2.0, 1.0]) is None


def test_eigenvalue_of_the_paper_is_smoothed_over_five_and_compared_across_five() -> None:
    """Against the rule written down with all epochs at hand."""
    generator = torch.Generator().manual_seed(0)
    ended = 0
    for _ in range(50):
        rise = 1 + 0.06 * torch.rand((), generator=generator)
        noise = 0.7 + 0.6 * torch.rand(30, generator=generator)
        values = (rise ** torch.arange(30) * noise).tolist()
        smooth = {i: sum(values[i - 2 : i + 3]) / 5 for i in range(2, 28)}
        wanted = next(((i + 2, i - 5) for i in range(7, 28) if smooth[i - 5] / smooth[i] < 0.75), None)
        assert run(Watch(None, 5), [0] * 30, values) == wanted
        ended += wanted is not None
    assert 10 < ended < 50


def test_an_even_window_averages_over_one_more() -> None:
    values = [1.0, 1.0, 1.0, 1.0, 1.0, 1.0]
    assert run(Watch(None, 2), [0] * 6, values) is None
    # λ̄(1) = 1, λ̄(3) = (1 + 1 + 2.1) / 3 = 1.37
    assert run(Watch(None, 2), [0] * 5, [1.0, 1.0, 1.0, 1.0, 2.1]) == (4, 1)
    assert run(Watch(None, 2), [0] * 5, [1.0, 1.0, 1.0, 1.0, 1.9]) is None


def test_unknown_eigenvalues_are_left_out() -> None:
    nan = float("nan")
    assert run(Watch(None, 1), [0] * 5, [1.0, nan, 1.7, nan, 3.0]) is None  # nothing beside to compare with
    assert run(Watch(None, 2), [0] * 5, [1.0, nan, 1.0, nan, 3.0]) == (4, 1)  # 1 and (1 + 3) / 2


def test_state_continues() -> None:
    values = [1.0, 1.0, 1.1, 1.1, 1.4, 1.5, 1.7, 1.9, 2.3, 2.9, 3.5]
    ends = run(Watch(None, 3), [0] * len(values), values)
    assert ends is not None
    assert ends[0] > 5
    first, second, stream = Watch(None, 3), Watch(None, 3), io.BytesIO()
    for epoch in range(5):
        first.observe(alpha(epoch), 0, values[epoch])
    torch.save(first.state_dict(), stream)
    stream.seek(0)
    second.load_state_dict(torch.load(stream, weights_only=True))
    for watch in (first, second):
        for epoch in range(5, ends[0] + 1):
            collapse = watch.observe(alpha(epoch), 0, values[epoch])
        assert collapse is not None
        assert int(collapse.logits[0][0]) == ends[1]


def test_darts_goes_back_to_before_the_skips() -> None:
    problem = ToyRegression(ToyCurves(), 0)
    strategy = Softmax(problem.space, problem.supernet, 0, stop_skips=2)
    identity, square = torch.tensor([0.0, 5, 0, 0]), torch.tensor([0.0, 0, 0, 5])
    strategy.alpha.restore([identity, square, square])
    epoch = strategy.end_epoch(problem.batches())
    assert epoch.stop is None
    assert epoch.measurements["skips"] == 1
    strategy.alpha.restore([identity, identity, square])
    epoch = strategy.end_epoch(problem.batches())
    assert epoch.stop is not None
    assert "2 skip connections" in epoch.stop
    assert epoch.measurements["skips"] == 2  # what was seen
    assert epoch.architecture is not None
    assert epoch.architecture.choices == (1, 3, 3)  # what is derived
    assert strategy.derive(1, problem.score)[0].architecture.choices == (1, 3, 3)


def test_darts_goes_back_to_before_the_rise_of_the_eigenvalue(monkeypatch: pytest.MonkeyPatch) -> None:
    values = iter([1.0, 1.0, 1.0, 1.0, 9.0])
    monkeypatch.setattr("controllers.darts.largest_eigenvalue", lambda *_: next(values))
    problem = ToyRegression(ToyCurves(), 0)
    strategy = Softmax(problem.space, problem.supernet, 0, stop_eigenvalue=2)
    history = []
    for number in range(5):
        strategy.alpha.restore([torch.eye(4)[number % 4]] * 3)
        history.append(copy.deepcopy(strategy.mixture()))
        epoch = strategy.end_epoch(problem.batches())
    assert epoch.stop is not None
    assert "eigenvalue rose from 1 to 3.67 within 2 epochs" in epoch.stop
    assert epoch.measurements["alpha_eigenvalue"] == 9.0
    for found, wanted in zip(strategy.mixture(), history[1], strict=True):
        assert torch.equal(found, wanted)


def test_darts_measures_the_eigenvalue_only_where_it_is_watched() -> None:
    problem = ToyRegression(ToyCurves(), 0)
    for window in (None, 5):
        strategy = Softmax(problem.space, problem.supernet, 0, stop_eigenvalue=window)
        measured = strategy.end_epoch(problem.batches()).measurements
        assert measured["alpha_entropy"] == pytest.approx(1.386, abs=1e-3)  # ln 4 nats at the beginning
        assert ("alpha_eigenvalue" in measured) == (window is not None)
