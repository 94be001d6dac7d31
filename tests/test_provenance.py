from nas.provenance import environment


def test_what_is_done_to_an_environment_stays_there() -> None:
    before = environment()
    assert {"nas", "python", "torch", "platform", "cores"} <= set(before)
    environment()["nas"] = "other"
    assert environment() == before
