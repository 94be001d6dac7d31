"""One-shot searches compared: whether shared weights foretell scores from scratch, and who collapsed."""

from __future__ import annotations

import pytest
from recorded import MIXED, SCRIPTED, Trained, record, record_one_shot, record_scratch
from scripted_searches import run

from nas.comparison.curves import curves
from nas.comparison.groups import Group, find, grouped
from nas.comparison.supernets import Supernets, TrainedSupernet, supernets
from nas.driver.records import SAMPLE
from nas.metrics import shared_architecture
from nas.storage.store import Store
from nas.testing.oneshot import configure

A, B, C, D = (f"{depth}.0.0.0.0.0.0.0.0.0.0" for depth in range(4))
COLLAPSED = "The derived architecture has 5 skip connections."


def found_in(store: Store, groups: list[Group]) -> list[Supernets]:
    return supernets(store, groups, [curves(store, group.searches) for group in groups])


def one_shot(store: Store, seed: int, trained: Trained, scratch: dict[str, tuple[str, float | None]]) -> None:
    record_one_shot(store, trained, scratch, name=f"d{seed}", seed=seed, controller="darts")


def test_rank_correlations_by_hand(store: Store) -> None:
    """Ranks 1, 2, 3 against 1, 3, 2: ρ = 1 − 6 · 2 / 24 = 0.5. Two pairs, as of seed 1, have none."""
    every = [(A, 0.9), (B, 0.8), (C, 0.7), (D, 0.6)]
    one_shot(
        store,
        0,
        Trained(every, skips=[1, 4, 3]),
        {A: ("completed", 0.5), B: ("completed", 0.3), C: ("reused", 0.4), D: ("stopped", 0.99)},
    )
    lacking = Trained([(A, 0.9), (B, None), (C, 0.7), (D, 0.6)], skips=[5], ended=COLLAPSED)
    scratch = {A: ("completed", 0.2), B: ("completed", 0.3), C: ("failed", None), D: ("completed", 0.4)}
    one_shot(store, 1, lacking, scratch)
    one_shot(store, 2, Trained([(A, 0.9)]), {A: ("completed", 0.2)})
    record(store, MIXED, name="r")
    groups, _ = grouped(find(store, ["d", "r"]))
    random, darts = found_in(store, groups)
    assert random == Supernets(None, None, None, None, ())
    assert darts.rho == pytest.approx(0.5)
    assert darts.pairs == 3
    first, second, third = darts.supernets
    assert first.rho == pytest.approx(0.5)
    assert first == TrainedSupernet("d0", 0, first.rho, 3, None, 0, 3, None)
    assert second == TrainedSupernet("d1", 1, None, 2, None, 0, 5, COLLAPSED)
    assert third == TrainedSupernet("d2", 2, None, 1, None, 0, None, None)


def test_correlations_over_a_sample_that_nobody_selected(store: Store) -> None:
    """Its pairs are those of the random search under the same seed, in the same space; of no other."""
    trained = Trained([(D, 0.9)], sampled={A: 0.1, B: 0.3, C: 0.2, D: 0.9, "unknown": 1.0})
    one_shot(store, 0, trained, {D: ("completed", 0.5)})
    scratch = {A: ("completed", 0.4), B: ("completed", 0.5), C: ("reused", 0.6), D: ("failed", None)}
    other = {text: ("completed", -score) for text, score in trained.sampled.items() if text != "unknown"}
    record_scratch(store, scratch, name="r0", seed=0)
    record_scratch(store, other, name="r1", seed=1)
    record_scratch(store, other, name="narrow", seed=0, space={"name": "nas.testing.toys:Toy", "layers": 2})
    groups, _ = grouped(find(store, ["d", "r", "narrow"]))
    [darts] = [found for found in found_in(store, groups) if found.supernets]
    assert (darts.rho_random, darts.pairs_random) == (pytest.approx(0.5), 3)
    assert (darts.rho, darts.pairs) == (None, 0)
    [alone] = found_in(store, grouped(find(store, ["d"]))[0])
    assert (alone.rho_random, alone.pairs_random) == (None, 0)


def test_the_sample_is_what_random_search_begins_with(store: Store) -> None:
    controller = {"name": "nas.testing.oneshot:ToyOneShot", "derive": 4, "stop": 2}
    run(store, configure(name="s", controller=controller, evaluator=SCRIPTED, seed=3))
    run(store, configure(name="r", controller="random", evaluator=SCRIPTED, seed=3, trials=20))
    found = {
        text for m in store.measurements(find(store, ["s"])[0].id) if (text := shared_architecture(m.metric))
    }
    trials = store.history(find(store, ["r"])[0].id)
    assert found == {trial.architecture for trial in trials if trial.number < SAMPLE}
    [_, one_shot] = found_in(store, grouped(find(store, ["s", "r"]))[0])
    assert one_shot.pairs_random == len(found)
    assert one_shot.rho_random is not None


@pytest.mark.slow
def test_a_search_that_ran(store: Store) -> None:
    """What is read is what a search writes: a supernet that stops after two epochs, four derived."""
    controller = {"name": "nas.testing.oneshot:ToyOneShot", "derive": 4, "stop": 2}
    run(store, configure(name="s", controller=controller, evaluator=SCRIPTED))
    groups, _ = grouped(find(store, ["s"]))
    [found] = found_in(store, groups)
    [supernet] = found.supernets
    assert (supernet.pairs, supernet.ended_early, supernet.skips) == (4, "asked to stop", None)
    assert supernet.rho is not None
    assert -1 <= supernet.rho <= 1
