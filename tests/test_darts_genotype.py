import pytest
from facts import Facts, refusal

from nas.errors import ConfigError, UnknownName
from search_spaces.darts import DARTS_V1, DARTS_V2, Darts
from search_spaces.genotype import Genotype

SMALL = Darts(channels=2, cells=4)

V1 = (
    "Genotype(normal=[('sep_conv_3x3', 1), ('sep_conv_3x3', 0), ('skip_connect', 0), ('sep_conv_3x3', 1), "
    "('skip_connect', 0), ('sep_conv_3x3', 1), ('sep_conv_3x3', 0), ('skip_connect', 2)], "
    "normal_concat=[2, 3, 4, 5], reduce=[('max_pool_3x3', 0), ('max_pool_3x3', 1), ('skip_connect', 2), "
    "('max_pool_3x3', 0), ('max_pool_3x3', 0), ('skip_connect', 2), ('skip_connect', 2), "
    "('avg_pool_3x3', 0)], reduce_concat=[2, 3, 4, 5])"
)
V2 = (
    "Genotype(normal=[('sep_conv_3x3', 0), ('sep_conv_3x3', 1), ('sep_conv_3x3', 0), ('sep_conv_3x3', 1), "
    "('sep_conv_3x3', 1), ('skip_connect', 0), ('skip_connect', 0), ('dil_conv_3x3', 2)], "
    "normal_concat=[2, 3, 4, 5], reduce=[('max_pool_3x3', 0), ('max_pool_3x3', 1), ('skip_connect', 2), "
    "('max_pool_3x3', 1), ('max_pool_3x3', 0), ('skip_connect', 2), ('skip_connect', 2), "
    "('max_pool_3x3', 1)], reduce_concat=[2, 3, 4, 5])"
)
"""Both as the authors wrote them."""


def test_decisions() -> None:
    names = [decision.name for decision in Darts.decisions]
    parts = ("inputs", "op1", "op2")
    assert names == [f"{k}.node{n}.{p}" for k in ("normal", "reduce") for n in range(4) for p in parts]
    assert [len(decision.choices) for decision in Darts.decisions] == [
        1,
        8,
        8,
        3,
        8,
        8,
        6,
        8,
        8,
        10,
        8,
        8,
    ] * 2
    assert SMALL.size == (180 * 8**8) ** 2


def test_anchors_are_the_nodes_that_a_choice_takes() -> None:
    for decision in Darts.decisions:
        if not decision.name.endswith("inputs"):
            assert not decision.anchors
            continue
        kind = decision.name.partition(".")[0]
        for choice, anchors in zip(decision.choices, decision.anchors, strict=True):
            nodes = [int(state) - 2 for state in str(choice).split("+") if int(state) >= 2]
            assert [Darts.decisions[i].name for i in anchors] == [f"{kind}.node{node}.op2" for node in nodes]


@pytest.mark.parametrize(
    ("text", "name", "genotype"), [(V1, "darts_v1", DARTS_V1), (V2, "darts_v2", DARTS_V2)]
)
def test_published_genotypes(text: str, name: str, genotype: Genotype) -> None:
    architecture = SMALL.decode(text)
    spread = (
        text.replace("[2, 3, 4, 5]", "range(2,6)").replace("(", "( ").replace("'", '"').replace(", ", " ,\n")
    )
    for same in (name, name.upper(), spread, SMALL.encode(architecture)):
        assert SMALL.decode(same) == architecture
    assert SMALL.genotype_of(architecture) == genotype


def test_text_is_what_python_prints() -> None:
    printed = SMALL.encode(SMALL.decode("darts_v2"))
    names = {"Genotype": lambda **fields: fields, "range": range}
    fields = eval(printed, {"__builtins__": {}}, names)
    assert fields == {
        "normal": list(DARTS_V2.normal),
        "normal_concat": range(2, 6),
        "reduce": list(DARTS_V2.reduce),
        "reduce_concat": range(2, 6),
    }


@pytest.mark.parametrize(
    ("text", "facts"),
    [
        (
            V2.replace("('dil_conv_3x3', 2)", "('dil_conv_3x3', 0)"),
            ("Node 3", "normal", "0 and 0", "0 to 4"),
        ),
        (
            V2.replace("[('max_pool_3x3', 0)", "[('max_pool_3x3', 2)"),
            ("Node 0", "reduce", "0 to 1"),
        ),
        (V2.replace("dil_conv_3x3", "dil_conv_7x7"), ("Genotype", "max_pool_3x3")),
        (V2.replace("[2, 3, 4, 5]", "[2, 3, 4]"), ("Genotype",)),
        (V2.replace("('dil_conv_3x3', 2)", "('dil_conv_3x3', 10)"), ("Genotype",)),
        (V2.replace(", ('dil_conv_3x3', 2)", ""), ("Genotype",)),
        (V2.replace("sep_conv", "sep_ conv"), ("Genotype",)),
    ],
)
def test_misprints_are_refused(text: str, facts: Facts) -> None:
    with refusal(ConfigError, *facts):
        SMALL.decode(text)


def test_a_misspelt_name_is_corrected() -> None:
    with refusal(UnknownName, "'darts_v3'", "'darts_v2'"):
        SMALL.decode("darts_v3")
