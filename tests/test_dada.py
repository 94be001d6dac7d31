"""DADA: the relaxed policy, the step that judges it, and searches for a policy, alone and with a network."""

from dataclasses import replace
from functools import partial
from itertools import islice
from typing import ClassVar

import numpy as np
import pytest
import torch
from facts import refusal
from torch import nn
from torch.func import functional_call

from controllers.dada import JudgedSteps
from controllers.derivation import most_probable
from nas.bilevel import Problem, descended
from nas.controller import SupernetBudget, TrainSupernet
from nas.driver.creation import check
from nas.errors import ConfigError, Unsupported
from nas.evaluator import SupernetJob
from nas.learners.augmentation import chance
from nas.learners.classifier import Classifier
from nas.learners.policies import AutoAugment, RelaxedPolicy, choices, parse
from nas.product import Product, candidate_of
from nas.settings.search import validate
from nas.settings_space import Settings
from nas.space import Decision, TaskShape
from nas.strategy import Batches
from nas.supernet import Joint, Relaxation
from nas.tasks.base import Episode
from nas.tasks.glyphs import Glyphs
from nas.testing.augmentations import SHAPE, AugmentationSuite
from nas.testing.learners import image_classes
from nas.training.oneshot.assembly import assemble
from nas.training.oneshot.batches import Bilevel
from nas.training.oneshot.epochs import train_supernet

pytestmark = pytest.mark.usefixtures("one_thread")


def settings_of(**given):
    """Return the settings of a learner whose policy is chosen, and the rest of its section."""
    section = {"name": "autoaugment", "images": "strokes", "operations": "all", "where": "examples", **given}
    whole = {**section, "policy": choices(section)}
    return Settings("learner", {"lr": [0.1, 0.2], "augmentation": whole}, {"lr": 0.2})


def relaxed_policy(shape=SHAPE, **given):
    policy = AutoAugment(shape, policy="rotate:0.0:0" if not given else _first(given), **given)
    return policy.relax(settings_of(**given), "augmentation")


def _first(given):
    return f"{given['operations'].split('+')[0]}:0.0:0"


def certain(policy, pair, happens, magnitudes):
    """Return the mixture under which every image passes through one pair."""
    place = policy.decisions[0].choices.index(pair)
    mixture = [torch.full((len(d.choices),), 1 / len(d.choices)) for d in policy.decisions]
    mixture[0] = torch.eye(len(mixture[0]))[place]
    for slot in range(2):
        at = 1 + 4 * place + 2 * slot
        mixture[at] = torch.tensor([1.0 - happens[slot], happens[slot]])
        share = torch.as_tensor(magnitudes[slot])
        mixture[at + 1] = torch.stack([1 - share, share])
    return mixture


class TestRelaxedPolicy(AugmentationSuite):
    @pytest.fixture
    def make(self):
        return relaxed_policy

    @pytest.mark.skip("it is made by no settings of its own")
    def test_it_describes_itself(self, make):
        pass


@pytest.mark.parametrize(("happens", "magnitudes"), [((0, 0), (0.5, 0.9)), ((1, 1), (0.0, 0.0))])
def test_probability_0_and_magnitude_0_are_none_to_the_bit(happens, magnitudes):
    policy, episode = relaxed_policy(), image_classes()
    policy.mixture = certain(policy, "rotate+thin", happens, magnitudes)
    found = policy(episode, chance(0))
    assert torch.equal(found.support_x, episode.support_x)
    assert torch.equal(found.query_x, episode.query_x)


def test_a_certain_mixture_is_its_policy():
    """All images pass through the same operations, as those of a policy of one sub-policy do."""
    policy, episode = relaxed_policy(), image_classes()
    policy.mixture = certain(policy, "rotate+thin", (1, 1), (4 / 9, 7 / 9))
    found = policy(episode, chance(0))
    assert not torch.equal(found.query_x, episode.query_x)
    which, magnitudes = policy.choose(50, chance(0))
    names = policy.operations.names
    assert torch.equal(which, torch.tensor([[names.index("rotate"), names.index("thin")]]).expand(50, 2))
    torch.testing.assert_close(magnitudes, torch.tensor([[4 / 9, 7 / 9]]).expand(50, 2))


def test_images_draw_pairs_and_what_happens_by_the_weights():
    policy = relaxed_policy(operations="rotate+thin+scale")
    mixture = certain(policy, "rotate+thin", (0.25, 1), (0.5, 0.5))
    mixture[0] = torch.tensor([0.7, 0.0, 0.3])
    policy.mixture = mixture
    which, _ = policy.choose(20_000, chance(0))
    first = (which[:, 0] == 0).float().mean()
    assert float(first) == pytest.approx(0.7 * 0.25, abs=0.02)
    assert not ((which[:, 0] == 0) & (which[:, 1] == 2)).any()
    assert float((which[:, 1] == 1).float().mean()) == pytest.approx(0.7, abs=0.02)


@pytest.mark.parametrize("happens", [(1, 0), (1, 1)])
@pytest.mark.parametrize("share", [0.0, 0.5])
def test_the_gradient_of_a_magnitude_is_straight_through(happens, share):
    """It is the sum over pixels of the loss's gradient, whatever the operation, at magnitude 0 as well."""
    policy, episode = relaxed_policy(), image_classes()
    magnitudes = [torch.tensor(share, requires_grad=True) for _ in range(2)]
    policy.mixture = certain(policy, "rotate+thin", happens, magnitudes)
    weight = torch.randn(episode.query_x.shape, generator=chance(1))
    found = policy(episode, chance(0))
    gradients = torch.autograd.grad((weight * found.query_x).sum(), magnitudes)
    for slot, gradient in enumerate(gradients):
        torch.testing.assert_close(gradient, happens[slot] * weight.sum())


def test_it_derives_the_largest_weights_and_reads_what_it_derived():
    policy = relaxed_policy()
    generator = chance(0)
    mixture = [torch.rand(len(d.choices), generator=generator).softmax(0) for d in policy.decisions]
    architecture = policy.derive(mixture)
    text = settings_of().chosen(architecture)["augmentation"]["policy"]
    subs = parse(text)
    order = mixture[0].argsort(descending=True)[:5].tolist()
    names = ["+".join(part.operation for part in sub) for sub in subs]
    assert names == [policy.decisions[0].choices[i] for i in order]
    for place, sub in zip(order, subs, strict=True):
        for slot, (_, probability, level) in enumerate(sub):
            happens, magnitude = mixture[1 + 4 * place + 2 * slot : 3 + 4 * place + 2 * slot]
            assert probability == pytest.approx(float(happens[1]), abs=0.05 + 1e-6)
            assert level == pytest.approx(9 * float(magnitude[1]), abs=0.5 + 1e-6)
    again = policy.derive(policy.mixture_of(architecture))
    found = parse(settings_of().chosen(again)["augmentation"]["policy"])
    assert sorted(found) == sorted(subs)
    assert settings_of().chosen(architecture)["lr"] == 0.2


def test_the_next_policies_lack_the_weakest_pairs():
    policy, space = relaxed_policy(), settings_of()
    weights = torch.linspace(1, 2, 45).exp()
    mixture = [weights / weights.sum(), *(torch.tensor([0.5, 0.5]) for _ in policy.decisions[1:])]
    found = list(islice(most_probable(space, policy, mixture), 4))
    pairs = [{i for i, w in enumerate(policy.mixture_of(one)[0]) if w} for one in found]
    assert pairs[:2] == [{44, 43, 42, 41, 40}, {44, 43, 42, 41, 39}]
    assert len({frozenset(one) for one in pairs}) == 4
    sums = [sum(float(weights[i].log()) for i in one) for one in pairs]
    assert sums == sorted(sums, reverse=True)


def test_what_no_gradient_leads_to_is_refused():
    with refusal(Unsupported, "slots.learner.augmentation.operations"):
        relaxed_policy(operations="rotate")
    whole = {"name": "autoaugment", "images": "strokes", "operations": "all", "policy": ["thin:0.1:", [3, 4]]}
    own = Settings("learner", {"augmentation": whole}, {})
    with refusal(Unsupported, "slots.learner.augmentation.policy", "any"):
        AutoAugment(SHAPE, policy="thin:0.1:3").relax(own, "augmentation")
    policy = relaxed_policy()
    swapped = parse("thin:0.1:3+rotate:0.1:3/" + "rotate:0.1:3+thin:0.1:3/" * 3 + "rotate:0.1:3+scale:0.1:3")
    values = {**settings_of().chosen(settings_of().default)}
    text = "/".join("+".join(":".join(map(str, part)) for part in sub) for sub in swapped)
    architecture = settings_of().find({**values, "augmentation": {**values["augmentation"], "policy": text}})
    with refusal(Unsupported, "thin:0.1:3+rotate:0.1:3"):
        policy.mixture_of(architecture)


# The step that is judged


def test_a_known_gradient_makes_the_difference_one_sided():
    """It stays that of autograd, to first order, in float64; the change is that of the outer loss."""
    torch.manual_seed(0)
    weight = torch.randn(6, dtype=torch.float64, requires_grad=True)
    phi = torch.randn(6, dtype=torch.float64, requires_grad=True)
    x, optimizer = torch.randn(6, dtype=torch.float64), torch.optim.SGD([weight], 1e-3)

    def inner(view, weights=None):
        return (view[0] * (weights or {"w": weight})["w"] * x).sum().tanh().square()

    def outer(view, weights=None):
        return ((weights or {"w": weight})["w"] - 1).square().mean()

    weights, step = {"w": weight}, partial(descended, optimizer, {"w": weight})
    plain = Problem([phi], lambda: [phi], inner, outer, weights, step)
    exact = plain.gradient("exact")[0]
    torch.testing.assert_close(plain.judged(1e-4).gradient[0], exact, rtol=1e-6, atol=0)
    slope, known = torch.autograd.grad(inner([phi]), [weight, phi])
    passes = []
    counted = replace(
        plain, slopes={"w": slope}, known=[known], inner=lambda *a: passes.append(0) or inner(*a)
    )
    judged = counted.judged(1e-4)
    assert len(passes) == 1
    torch.testing.assert_close(judged.gradient[0], exact, rtol=1e-3, atol=0)
    after = (weight - 1e-3 * slope).detach()
    assert judged.change == pytest.approx(float((outer(None, {"w": after}) - outer(None)).detach()), rel=1e-3)


OPERATIONS = "flip_x+brightness+translate_y"
PHOTOGRAPH = TaskShape((1, 8, 8), 2)


def photograph(mirrored, rng):
    """Draw a minibatch of images that are brighter to the left or to the right: one class, and the other."""
    y = torch.from_numpy(rng.integers(0, 2, (1, 32)))
    left = torch.zeros(8, 8)
    left[:, :4] = 0.3
    x = 0.3 + 0.05 * torch.from_numpy(rng.normal(size=(1, 32, 1, 8, 8))).float()
    x = x + torch.where((y == mirrored)[..., None, None, None], left, left.flip(-1))
    empty = torch.empty(1, 0, dtype=torch.int64)
    return Episode(x.new_empty(1, 0, 1, 8, 8), empty, x.clamp(0, 1), y, 2, 0, np.zeros((1, 2), np.int64))


class Halves(nn.Module):
    """A perceptron of one hidden layer."""

    out_features = 8

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(64, 8)

    def forward(self, x):
        return self.layer(x.flatten(1)).relu()


class Objective(nn.Module):
    def __init__(self, learner):
        super().__init__()
        self.learner = learner

    def forward(self, episode):
        return self.learner.meta_loss(episode)


def learned(draw, operations, seed, steps=200):
    """Return the mixture that DADA learns, and the policy; `draw` makes batches, the outer one if asked."""
    torch.manual_seed(seed)
    given = {"images": "photographs", "operations": operations}
    policy = relaxed_policy(PHOTOGRAPH, **given)
    objective, rng = Objective(Classifier(Halves(), PHOTOGRAPH)), np.random.default_rng(seed)
    optimizer = torch.optim.SGD(objective.parameters(), 0.03)
    strategy = JudgedSteps(settings_of(**given), policy, seed, alpha_rate=0.05)
    names = {name: f"learner.{name}" for name in dict(objective.learner.named_parameters())}

    def loss(episode, weights):
        return functional_call(objective, {names[n]: w for n, w in (weights or {}).items()}, (episode,))

    for step in range(steps):
        batches = [draw(outer, rng) for outer in (False, True)]

        def inner(mixture, weights=None, batches=batches, step=step):
            policy.mixture = mixture
            return loss(policy(batches[0], chance(seed, step)), weights)

        def outer(mixture, weights=None, batches=batches):
            return loss(batches[1], weights)

        strategy.step(
            Batches(inner, outer, dict(objective.learner.named_parameters())), optimizer, step / steps
        )
    return policy, strategy.mixture()


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("needed", [False, True])
def test_a_harmful_operation_loses_its_weight_and_a_necessary_one_wins(seed, needed):
    """A mirror image has a wrong label, or the right one where all that judges is mirrored."""
    policy, mixture = learned(lambda outer, rng: photograph(outer and needed, rng), OPERATIONS, seed)
    weights = dict(zip(policy.decisions[0].choices, mixture[0].tolist(), strict=True))
    probability = {d.name: float(w[1]) for d, w in zip(policy.decisions, mixture, strict=True)}
    mirror = [probability[f"{pair}.flip_x.happens"] for pair in ("flip_x+brightness", "flip_x+translate_y")]
    own = settings_of(images="photographs", operations=OPERATIONS)
    first, *_, last = parse(own.chosen(policy.derive(mixture))["augmentation"]["policy"])
    if needed:
        assert weights["brightness+translate_y"] < 0.3
        assert min(mirror) > 0.55
        assert first[0].operation == "flip_x"
    else:
        assert weights["brightness+translate_y"] > 0.5
        assert max(mirror) < 0.45
        assert last[0].operation == "flip_x"


# Searches


ANY = {"name": "autoaugment", "policy": "any"}
BUDGET = SupernetBudget(epochs=2, steps=3, batch=1, validation_episodes=2)


def search(space, **given):
    """Return the context of a search, and its space."""
    config = validate(
        {
            "space": space,
            "controller": {"name": "random"},
            "tasks": {"name": "glyphs", "ways": 3, "queries": 2},
            "learner": "prototypical",
            "slots": {"learner": {"augmentation": ANY}},
            **given,
        }
    )
    found = config.make_space()
    return config.make_context(found, config.make_tasks()), found


def job(folder=None, number=2):
    supernet = TrainSupernet("controllers.dada:JudgedSteps", {}, number, BUDGET)
    return SupernetJob(0, 0, supernet, 7, "one", None if folder is None else str(folder))


CURVES = {"name": "nas.testing.toy_supernet:ToyCurves"}
CHAIN = {"name": "chain", "layers": 1}


@pytest.mark.parametrize("space", [CHAIN, CURVES])
def test_policies_are_derived_with_a_network_or_for_one(space):
    context, whole = search(space)
    *epochs, last = train_supernet(context, job())
    assert [o.state for o in (*epochs, last)] == ["running", "running", "completed"]
    assert len({whole.canonical(whole.check(one.architecture)) for one in last.derived}) == 2
    parts = [candidate_of(whole, one.architecture) for one in last.derived]
    policies = [part.settings["learner"]["augmentation"]["policy"] for part in parts]
    assert all(len(parse(policy)) == 5 for policy in policies)
    assert epochs[-1].derived[0].architecture == last.derived[0].architecture
    metrics = {seen.metric for seen in epochs[0].measurements}
    assert {"alpha_entropy", "alpha/learner.pair/rotate+shear_x", "train_loss", "supernet_score"} <= metrics
    assert ("alpha/backbone.curve0/cubic" in metrics) == (space is CURVES)
    context.trainee(last.derived[0].architecture)


def test_it_goes_on_from_a_checkpoint_to_the_same_bits(tmp_path):
    context, _ = search(CURVES)

    def told(outcomes):
        return [(o.train_episodes, o.measurements, o.derived) for o in outcomes]

    whole = told(train_supernet(context, job()))
    broken = train_supernet(context, job(tmp_path))
    next(broken)
    broken.close()
    torch.manual_seed(99)
    assert told(train_supernet(context, job(tmp_path))) == whole


def test_both_slots_learn_and_only_what_the_weights_learn_from_is_augmented():
    context, whole = search(CURVES)
    assembly = assemble(context, job().supernet, 0)
    assert isinstance(whole, Product)
    assert isinstance(assembly.relaxation, Joint)
    strategy, source = assembly.strategy, context.tasks
    before = strategy.learned.detach().clone()
    bilevel = Bilevel(assembly, source, 1, 0)
    drawn = bilevel.next()
    mixture = strategy.mixture()
    policy = assembly.learner.augmentation
    plain = [drawn.inner(mixture).item(), drawn.outer(mixture).item()]
    off = [torch.tensor([1.0, 0.0]) if len(w) == 2 and i > 3 else w for i, w in enumerate(mixture)]
    assert drawn.inner(off).item() != plain[0]
    assert drawn.outer(off).item() == plain[1]
    for _ in range(3):
        strategy.step(bilevel.next(), assembly.optimizer, 0.0)
    moved = torch.split(
        strategy.learned.detach() - before, [len(d.choices) for d in strategy.relaxation.decisions]
    )
    assert all(part.any() for part in moved[:4])
    assert isinstance(policy, RelaxedPolicy)
    one, other = bilevel._sources
    assert one.members("train").isdisjoint(other.members("train"))
    assert one.members("train") | other.members("train") == source.members("train")


def test_what_is_seldom_drawn_moves_as_far_by_the_same_effect():
    """A choice with a loss lower by as much as losses spread: of two, of nine, one that seldom matters."""

    class Drawn(Relaxation):
        decisions = (Decision("two", (0, 1)), Decision("nine", tuple(range(9))), Decision("if", (0, 1)))
        drawn = frozenset({0, 1, 2})
        conditions: ClassVar[dict[int, tuple[int, int]]] = {2: (1, 3)}

        def mixture_of(self, architecture):
            raise NotImplementedError

        def derive(self, mixture):
            raise NotImplementedError

    strategy = JudgedSteps(settings_of(), Drawn(), 0, alpha_rate=1e-3, alpha_decay=0.0)
    rng = np.random.default_rng(0)
    for _ in range(1500):
        drawn, _ = strategy._draw(dict(enumerate(strategy._logits)))
        good = {i: int(each.choices) == 1 for i, each in drawn.items()}
        found = strategy._relaxed(drawn, rng.normal() - sum(good.values()))
        slopes = torch.cat([found.get(i, torch.zeros(n)) for i, n in enumerate(strategy._sizes)])
        strategy.learned.grad = strategy._paces * slopes
        strategy._adams[0].step()
    gains = [float(part[1] - part[torch.arange(len(part)) != 1].mean()) for part in strategy._logits]
    assert min(gains) > 0.4 * max(gains)


def test_half_of_the_classes_must_do():
    tasks = Glyphs(ways=5, train_ways=120)
    with refusal(ConfigError, "tasks.train_ways", 120, 100):
        tasks.halves()
    context, _ = search(CHAIN, tasks={"name": "glyphs", "ways": 5, "train_ways": 120})
    with refusal(ConfigError, "tasks.train_ways", 120, 100):
        list(train_supernet(context, job()))


@pytest.mark.parametrize(
    "slots", [{}, {"learner": {"lr": [0.1, 0.2]}}, {"learner": {"augmentation": ["none", "trivialaugment"]}}]
)
def test_without_a_policy_to_choose_it_is_refused(slots):
    context, _ = search(CHAIN, slots=slots)
    with refusal(Unsupported, "learner.augmentation", "autoaugment"):
        assemble(context, job().supernet, 0)


@pytest.mark.parametrize(
    ("controller", "left"), [("dada", ["learner.lr"]), ("darts", ["learner.augmentation", "learner.lr"])]
)
def test_what_a_supernet_leaves_at_its_default_is_told(controller, left):
    config = validate(
        {
            "space": CURVES,
            "controller": {"name": controller, "budget": BUDGET.model_dump()},
            "tasks": {"name": "glyphs", "ways": 3, "queries": 2},
            "learner": "prototypical",
            "slots": {"learner": {"augmentation": ANY, "lr": [0.01, 0.001]}},
        }
    )
    said = []
    check(config, config.make_tasks(), said.append)
    warned = [words.partition("slots.")[2].partition(" ")[0] for words in said if words.startswith("warning")]
    assert sorted(warned) == left
