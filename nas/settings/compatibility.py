"""Which settings of a search exclude each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nas import plugins
from nas.costs import OWN
from nas.errors import ConfigError, Unsupported
from nas.evaluator import Evaluator, Lookup
from nas.objective import Objective
from nas.schedulers.settings import PROMOTING
from nas.settings.sections import UNTRAINED, controllers, lacking

if TYPE_CHECKING:
    from nas.proxies.base import Proxy
    from nas.settings.search import SearchConfig


def check(config: SearchConfig) -> None:
    """Refuse a search whose settings do not go together.

    Raises:
        ConfigError, Unsupported: a setting excludes another one; the first names itself.
        PluginError: a plug-in cannot be imported.
    """
    _scheduler(config)
    _racing(config)
    _continuing(config)
    _phases(config)
    _prescreen(config)
    if config.looks_up:
        _looking_up(config)
    else:
        _training(config)
    _keep(config)


def _by_score(config: SearchConfig, reason: str) -> None:
    """Refuse an objective other than the score."""
    if config.aim != Objective():
        raise ConfigError(f"{reason}, and the objective is {config.aim}. Leave one of them out.")


def _scheduler(config: SearchConfig) -> None:
    scheduler = config.scheduler
    if scheduler is None:
        return
    _by_score(config, "scheduler: it judges trials by their score alone")
    if config.budget.score_at:
        raise ConfigError(
            "budget.score_at: the scheduler says when a trial is scored. Leave one of them out."
        )
    if scheduler.promotes and config.proposer.one_shot:
        raise ConfigError(
            f"scheduler: '{scheduler.name}' promotes candidates, and '{config.controller['name']}' "
            f"trains a supernet. Leave it out, or choose {controllers(one_shot=False)}."
        )
    if scheduler.promotes and config.prescreen is not None:
        raise ConfigError(
            f"prescreen: it chooses among candidates, and the scheduler '{scheduler.name}' asks for "
            "longer trainings of known ones. Leave one of them out."
        )


def _racing(config: SearchConfig) -> None:
    if config.racing is None:
        return
    _by_score(config, "racing: it compares candidates by their score alone")
    evaluator: type[Evaluator] = plugins.load("evaluator", config.evaluator["name"])
    if issubclass(evaluator, Lookup) and not evaluator.repeats:
        raise ConfigError(
            f"racing: the evaluator '{config.evaluator['name']}' has one score of each architecture, and "
            "no further seeds. Leave racing out."
        )


def _continuing(config: SearchConfig) -> None:
    if not config.proposer.continues:
        return
    name = config.controller["name"]
    if config.looks_up:
        raise ConfigError(
            f"controller: '{name}' lets trainings go on from one another, and the evaluator "
            f"'{config.evaluator['name']}' trains nothing. Set another controller, such as 'evolution'."
        )
    for setting in ("scheduler", "racing", "prescreen", "phases"):
        if getattr(config, setting) is not None:
            raise ConfigError(
                f"{setting}: the controller '{name}' itself says how long what is trained, and under "
                "which settings it goes on. Leave one of them out."
            )


def _phases(config: SearchConfig) -> None:
    if config.phases is None:
        return
    guided = config.prescreen is not None and config.prescreen.supernet is not None
    if config.proposer.one_shot or guided:
        trains = "prescreen.supernet" if guided else f"the controller '{config.controller['name']}'"
        raise ConfigError(
            f"phases: {trains} trains a supernet, whose settings stay as they are while it trains. Leave "
            "one of them out; `nas evaluate` trains what a search found through phases."
        )


def _prescreen(config: SearchConfig) -> None:
    if config.prescreen is None:
        return
    if config.looks_up:
        _counted(config)
    _by_score(config, "prescreen: what is promised is a score")
    if config.proposer.one_shot or config.proposer.given:
        raise ConfigError(
            f"prescreen: what the controller '{config.controller['name']}' tries is settled, so that "
            "nothing is left to choose. Leave prescreen out, or set another controller, such as "
            "'evolution'."
        )


def _counted(config: SearchConfig) -> None:
    """Refuse to choose by what needs a network, where scores are looked up."""
    assert config.prescreen is not None
    chosen = config.prescreen.proxy
    evaluator = f"the evaluator '{config.evaluator['name']}' builds no network"
    if chosen is None:
        raise ConfigError(
            f"prescreen.supernet: {evaluator}, and trains none. Set prescreen.proxy=macs instead."
        )
    proxy: type[Proxy] = plugins.load("proxy", chosen["name"])
    if proxy.counts is None:
        raise ConfigError(
            f"prescreen.proxy: '{chosen['name']}' looks at a network, and {evaluator}. Choose "
            "what is counted: parameters or macs."
        )
    if proxy.counts not in config.told:
        raise ConfigError(
            f"prescreen.proxy: nothing tells the {proxy.counts} of a network. Set evaluator.input to the "
            "shape of an example, such as [3, 32, 32]; or, if a table has them, name its columns with "
            "evaluator.costs."
        )


def _training(config: SearchConfig) -> None:
    for kind in UNTRAINED:
        if getattr(config, kind) is None:
            raise lacking(kind)


def _looking_up(config: SearchConfig) -> None:
    name = config.evaluator["name"]
    if config.proposer.one_shot:
        raise Unsupported(
            f"controller: '{config.controller['name']}' is one-shot: it trains a supernet, and the "
            f"evaluator '{name}' trains nothing. Choose {controllers(one_shot=False)}."
        )
    if config.resources.latency or config.constraints.measured:
        raise ConfigError(
            f"resources.latency: the evaluator '{name}' builds no network, so that no latency can be "
            "measured. Leave it out, with limits of latency."
        )
    if untold := [goal for goal in config.aim.goals if goal in OWN and goal not in config.told]:
        raise ConfigError(
            f"objective: the evaluator '{name}' builds no network, and tells no {', '.join(untold)}. "
            "Leave them out, or set evaluator.input to the shape of an example; or, if a table has them, "
            "name its columns with evaluator.costs."
        )
    if config.constraints.counted:
        raise ConfigError(
            f"constraints: the evaluator '{name}' builds no network, whose cost could be counted. Leave "
            "them out."
        )
    for kind in UNTRAINED:
        if getattr(config, kind) is not None:
            raise ConfigError(f"{kind}: the evaluator '{name}' trains nothing; leave {kind} out.")
    if config.scheduler is not None and len(config.lengths) < 2:
        raise ConfigError(
            f"scheduler: the evaluator '{name}' has the scores of one training length, so that no trial "
            "can be stopped early. Give the columns of several with evaluator.metric, such as "
            '{4 = "valid_4", 12 = "valid_12", 108 = "valid_108"}, or leave the scheduler out.'
        )


def _keep(config: SearchConfig) -> None:
    promotes = config.scheduler is not None and config.scheduler.promotes
    if config.kept is not None and (config.looks_up or not promotes):
        raise ConfigError(
            f"keep: '{config.keep}'; the trials of this search leave nothing to keep, since no scheduler "
            f"asks for short ones and promotes them. Leave keep out, or add --scheduler {PROMOTING[-1]}."
        )
