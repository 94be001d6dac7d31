import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import pytest
from facts import Facts, refusal
from pydantic import AfterValidator, Field

from nas.cli.catalog import settings_of
from nas.errors import ConfigError, PluginError, UnknownName
from nas.plugins import GROUPS, FilePath, absolute, find, installed, load, resolve, settings
from nas.settings.search import validate
from nas.settings.sections import read

SOURCE = """
class Third:
    def __init__(self, *, width: int = 3) -> None:
        self.width = width

instance = Third()
"""

ENTRY_POINTS = """
[nas.search_spaces]
sound = third_party_spaces:Third
absent = third_party_spaces:Fourth
missing = no_such_module_anywhere:Third
raising = third_party_broken:Third
object = third_party_spaces:instance
"""


class Example:
    def __init__(
        self,
        space: str,
        *,
        ways: Annotated[int, Field(ge=2, description="classes of a task")] = 5,
        rate: float,
        sizes: tuple[int, ...] = (1, 2),
    ) -> None:
        pass


@pytest.fixture
def third_party(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A distribution with a sound space and four broken ones."""
    (tmp_path / "third_party_spaces.py").write_text(SOURCE)
    (tmp_path / "third_party_broken.py").write_text("1 / 0")
    info = tmp_path / "third_party-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: third-party\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    monkeypatch.syspath_prepend(tmp_path)
    installed.cache_clear()
    yield
    installed.cache_clear()
    for module in ("third_party_spaces", "third_party_broken"):
        sys.modules.pop(module, None)


def test_groups_are_sorted_by_name_and_nothing_is_imported() -> None:
    for kind in GROUPS:
        plugins = installed(kind)
        assert list(plugins) == sorted(plugins)
        assert all(plugin.kind == kind and plugin.name == name for name, plugin in plugins.items())
    assert {"chain", "mlp", "nasbench201"} <= set(installed("space"))


@pytest.mark.usefixtures("third_party")
def test_a_third_party_plugin_is_like_any_other() -> None:
    assert load("space", "sound")().width == 3
    assert installed("space")["sound"].distribution == "third-party"
    assert "chain" in installed("space")


@pytest.mark.usefixtures("third_party")
@pytest.mark.parametrize(
    ("name", "facts"),
    [
        (
            "absent",
            ("third_party_spaces:Fourth", "third-party", "'Fourth'"),
        ),
        (
            "missing",
            ("ModuleNotFoundError", "'no_such_module_anywhere'"),
        ),
        ("raising", ("ZeroDivisionError",)),
        ("object", ("third_party_spaces:instance",)),
    ],
)
def test_a_broken_plugin_is_listed_and_named_when_loaded(name: str, facts: Facts) -> None:
    assert name in installed("space")
    with refusal(PluginError, f"'{name}'", *facts):
        load("space", name)
    assert load("space", "chain").name == "chain"


@pytest.mark.parametrize(
    ("kind", "name", "facts"),
    [
        (
            "space",
            "nasbench",
            ("'nasbench201'", "chain, darts, enas_macro"),
        ),
        (
            "learner",
            "protypical",
            ("'prototypical'", "anil, classifier"),
        ),
        ("controller", "??", ("darts", "evolution", "fixed", "random")),
    ],
)
def test_an_unknown_name_is_met_with_the_nearest_one_and_all_allowed(
    kind: str, name: str, facts: Facts
) -> None:
    with refusal(UnknownName, kind, f"'{name}'", *facts):
        find(kind, name)


@pytest.mark.usefixtures("third_party")
def test_a_path_needs_no_entry_point() -> None:
    assert load("space", "third_party_spaces:Third") is load("space", "sound")


@pytest.mark.parametrize(
    ("path", "fact"),
    [
        ("no_such_module_anywhere:Third", "ModuleNotFoundError"),
        ("search_spaces.chain:Chian", "'Chian'"),
        ("search_spaces.chain:", "AttributeError"),
        (":Chain", "ValueError"),
        ("search_spaces.chain:join", "space"),
    ],
)
def test_a_wrong_path_is_a_plugin_error(path: str, fact: str) -> None:
    with refusal(PluginError, path, fact):
        load("space", path)


def test_settings_are_the_keyword_only_parameters() -> None:
    fields = settings(Example)
    assert list(fields) == ["ways", "rate", "sizes"]
    assert fields["ways"].description == "classes of a task"
    assert fields["rate"].is_required()


def test_resolved_settings_are_complete_and_plain() -> None:
    resolved = resolve(Example, {"rate": 1, "sizes": [3]}, "tasks")
    assert resolved == {"ways": 5, "rate": 1.0, "sizes": [3]}
    assert isinstance(resolved["rate"], float)
    assert resolve(Example, resolved, "tasks") == resolved


@pytest.mark.parametrize(
    ("given", "facts"),
    [
        ({"rate": 1, "ways": 1}, ("tasks.ways", 2, 1)),
        ({"rate": "fast"}, ("tasks.rate", '"fast"')),
        ({"rate": 1, "sizes": [1, "x"]}, ("tasks.sizes.1", '"x"')),
        ({}, ("tasks.rate",)),
        ({"ways": 1}, ("tasks.ways", "tasks.rate")),
    ],
)
def test_a_wrong_value_is_named_with_its_section(given: dict[str, object], facts: Facts) -> None:
    with refusal(ConfigError, *facts):
        resolve(Example, given, "tasks")


@pytest.mark.parametrize(
    ("bounds", "words"),
    [
        ({"minimum": 1}, "int ≥ 1"),
        ({"minimum": 1, "maximum": 10000}, "int, 1 to 10000"),
        ({"exclusiveMinimum": 0, "maximum": 1}, "int > 0 and ≤ 1"),
        ({"minimum": 0, "maximum": 2**63}, "int ≥ 0"),
        ({}, "int"),
    ],
)
def test_a_type_is_read_with_its_bounds(bounds: dict[str, int], words: str) -> None:
    [row] = settings_of("tasks", {"properties": {"ways": {"type": "integer", **bounds}}}, {})
    assert row["type"] == words


@pytest.mark.parametrize("wrong", ["way", "space", "WAYS"])
def test_an_unknown_setting_is_met_with_the_nearest_one(wrong: str) -> None:
    with refusal(UnknownName, f"'{wrong}'", "tasks", "rate, sizes, ways"):
        resolve(Example, {"rate": 1, wrong: 3}, "tasks")


class Located:
    def __init__(self, *, weights: FilePath = "w.pt", note: str = "") -> None: ...


def test_relative_paths_in_a_file_count_from_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of plug-ins that are not ours, too; other texts stay, and what is wrong is said later."""
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    file = tmp_path / "there" / "search.toml"
    file.write_text(
        """
        learner = "maml"
        space = {name = "test_plugins:Located", weights = "w.pt", note = "w.pt"}
        tasks = {name = "image_folder", path = "images"}
        evaluator = {name = "tabular", table = "/data/t.csv", metric = "~"}
        controller = {name = "no such", path = "w.pt"}
        """
    )
    monkeypatch.chdir(tmp_path / "here")
    _, values = read(Path("../there/search.toml"))
    found = {kind: values[kind] for kind in ("space", "tasks", "evaluator", "controller")}
    inside = tmp_path / "here" / ".." / "there"
    assert found == {
        "space": {"name": "test_plugins:Located", "weights": f"{inside}/w.pt", "note": "w.pt"},
        "tasks": {"name": "image_folder", "path": f"{inside}/images"},
        "evaluator": {"name": "tabular", "table": "/data/t.csv", "metric": "~"},
        "controller": {"name": "no such", "path": "w.pt"},
    }
    assert resolve(Located, {"weights": "w.pt"}, "space")["weights"] == str(tmp_path / "here" / "w.pt")


@pytest.mark.parametrize("kind", GROUPS)
def test_settings_that_are_paths_say_so(kind: str) -> None:
    for name in installed(kind):
        fields = settings(load(kind, name))
        paths = {setting for setting in fields if setting in ("path", "table", "file", "folder")}
        assert all(AfterValidator(absolute) in fields[setting].metadata for setting in paths), name


BAD = ("x", "3x", "", 3, -5, 2.5, True, None, [], [1], ["x"], [[1]], {}, {"a": 1}, float("inf"), 10**30)
THEIRS = (
    "Input should",
    "a valid",
    "after validation",
    "instance of",
    "parse",
    "Tuple",
    "boolean",
    "dictionary",
)


@pytest.mark.parametrize("kind", GROUPS)
def test_no_value_is_refused_in_words_of_pydantic(kind: str) -> None:
    """Whatever a plugin's setting is given, the error is ours, and names the setting."""
    for name in installed(kind):
        plugin = load(kind, name)
        for setting in settings(plugin):
            for value in BAD:
                try:
                    resolve(plugin, {setting: value}, kind)
                except ConfigError as error:
                    for line in str(error).splitlines():
                        assert line.startswith(f"{kind}."), line
                        assert not any(word in line for word in THEIRS), line


def test_sections_and_lists_are_told_with_what_to_write() -> None:
    base = {"space": "mlp", "controller": "random", "tasks": "sinusoid", "learner": "maml"}
    for changes, facts in (
        ({"budget": 3}, ("budget:", "budget.train_episodes=…")),
        ({"resources": "x"}, ("resources:", "resources.cpus=…")),
        (
            {"controller": {"name": "fixed", "architectures": "conv4"}},
            ('controller.architectures=["conv4"]',),
        ),
    ):
        with refusal(ConfigError, *facts):
            validate(base | changes)
