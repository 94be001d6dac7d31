"""The page: who may ask, what it says, and that it leaves the database as it is."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from facts import lacking, refusal
from recorded import MIXED, Trained, record, record_one_shot
from recorded import search as recorded_search
from sqlalchemy import text

from nas.controller import Measurement, Outcome
from nas.errors import ConfigError, NotFound, StorageError
from nas.metrics import alpha_metric
from nas.states import TrialState
from nas.storage.store import Store
from nas.tasks.sinusoid import Sinusoid
from nas.testing.stores import begin, outcome, search
from nas.testing.toys import Toy
from search_spaces.mlp import Mlp

pytest.importorskip("starlette", reason="needs the extra web")
pytest.importorskip("jinja2", reason="needs the extra web")
pytest.importorskip("httpx2", reason="needs httpx2 of the extra dev")

from starlette.testclient import TestClient

from nas.web import server
from nas.web.figures import of_panels, trial_panel
from nas.web.guard import Rules, rules
from nas.web.site import Site

HERE = rules("127.0.0.1", token=None, prefix="", public=None, port=8000)
TOKEN = "a-token-of-some-length"
LINK = re.compile(r"(?:href|src|action|data-figure)=\"([^\"]*)\"")


def visitor(store: Store, who: Rules = HERE, **site: Any) -> TestClient:
    """Return a browser at a site; it follows no redirection."""
    app = Site(store, prefix=who.prefix, **site).app(who)
    return TestClient(app, base_url="http://127.0.0.1:8000", follow_redirects=False)


@pytest.fixture
def client(store: Store) -> TestClient:
    record(store, MIXED, name="rnd", seed=1)
    record(store, MIXED, name="evo", seed=2, controller="evolution")
    return visitor(store)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:8000", "localhost:1", "LOCALHOST", "[::1]:8000"])
def test_names_of_this_machine_are_answered(client: TestClient, host: str) -> None:
    assert client.get("/", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example:8000", "10.0.0.7", "", "[::1", "a b"]
)
def test_a_name_that_points_here_is_refused(client: TestClient, host: str) -> None:
    answer = client.get("/", headers={"host": host})
    assert (answer.status_code, "evo" in answer.text) == (403, False)


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://127.0.0.1:9", "127.0.0.1:8000", ""]
)
def test_pages_of_other_sites_are_refused(store: Store, client: TestClient, origin: str) -> None:
    assert client.get("/", headers={"origin": origin}).status_code == 403
    stopping = visitor(store, control=True)
    assert stopping.post("/searches/evo/stop", headers={"origin": origin}).status_code == 403
    assert stopping.post("/searches/evo/stop").status_code == 403
    assert not store.search("evo").stop_requested
    assert client.get("/", headers={"origin": "http://127.0.0.1:8000"}).status_code == 200


def test_a_search_is_stopped_by_those_who_may(store: Store, client: TestClient) -> None:
    store.acquire(store.search("evo").id)
    own = {"origin": "http://127.0.0.1:8000"}
    assert "/searches/evo/stop" not in client.get("/searches/evo").text
    answer = client.post("/searches/evo/stop", headers=own)
    assert (answer.status_code, store.search("evo").stop_requested) == (403, False)
    assert lacking(answer.text, "nas stop evo") == []
    stopping = visitor(store, control=True)
    assert "/searches/evo/stop" in stopping.get("/searches/evo").text
    assert stopping.get("/searches/evo/stop").status_code == 405
    assert stopping.post("/searches/evo/stop", headers=own).status_code == 303
    assert store.search("evo").stop_requested
    assert "asked to stop" in stopping.get("/searches/evo").text


def test_a_token_is_asked_for_and_kept_as_a_cookie(store: Store, client: TestClient) -> None:
    who = rules("0.0.0.0", token=TOKEN, prefix="", public=None, port=8000)
    strange = visitor(store, who)
    for path in ("/", "/searches/evo", "/assets/1/style.css", "/leaderboard?token=wrong", "/?token="):
        answer = strange.get(path)
        assert (answer.status_code, "evo" in answer.text) == (401, False)
    assert strange.get("/", headers={"authorization": "Bearer wrong"}).status_code == 401
    assert strange.get("/", headers={"cookie": "nas_token_8000=wrong"}).status_code == 401
    assert strange.get("/", headers={"authorization": f"Bearer {TOKEN}"}).status_code == 200
    assert (
        strange.get("/", headers={"host": "10.0.0.7:8000"}).status_code == 401
    )  # an address of this machine
    answer = strange.get(f"/searches/evo?sort=score&token={TOKEN}")
    kept = answer.headers["set-cookie"].lower()
    assert lacking(kept, "httponly", "samesite=strict", "path=/") == []
    assert TOKEN not in answer.text
    assert 'content="0; url=/searches/evo?sort=score"' in answer.text
    assert strange.get("/searches/evo").status_code == 200


def test_a_proxy_serves_below_a_prefix(store: Store, client: TestClient) -> None:
    who = rules("127.0.0.1", token=TOKEN, prefix="/nas", public="https://example.org", port=8000)
    below = visitor(store, who)
    own = {"authorization": f"Bearer {TOKEN}", "host": "example.org"}
    for path in ("/nas/searches/evo", "/searches/evo"):  # with the prefix, or stripped of it
        answer = below.get(path, headers=own)
        assert answer.status_code == 200
        assert all(link.startswith(("/nas/", "#")) for link in LINK.findall(answer.text))
    assert (
        "secure"
        in below.get(f"/nas/?token={TOKEN}", headers={"host": "example.org"}).headers["set-cookie"].lower()
    )
    assert below.get("/nas", headers=own).status_code == 200
    assert below.get("/nas/", headers={**own, "origin": "https://example.org"}).status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "/assets/1/../../../../pyproject.toml",
        "/assets/1/..%2f..%2f..%2fpyproject.toml",
        "/assets/..%2f../server.py",
        "/assets/1/%2e%2e%2fsite.py",
        "/assets/1/base.html",
        "/searches/..%2f..%2fetc%2fpasswd",
        "/searches/evo'%20OR%201=1",
        "/searches/evo/figures/..%2fx.json",
        "/searches/evo/trials/-1",
        "/nowhere",
    ],
)
def test_what_is_no_page_is_not_found(client: TestClient, path: str) -> None:
    assert client.get(path).status_code == 404


@pytest.mark.parametrize(
    ("path", "facts"),
    [
        ("/searches/evo?sort=score;drop", ["score;drop", "parameters"]),
        ("/searches/evo?state=gone", ["gone", "completed"]),
        ("/searches/evo?after=x", ["after"]),
        ("/searches/evo?max_macs=much", ["max_macs", "much"]),
        ("/leaderboard?sort=zz", ["zz", "score"]),
        ("/leaderboard?pareto=zz", ["zz", "macs"]),
        ("/leaderboard?limit=-3", ["limit"]),
        ("/?state=gone", ["gone", "running"]),
        ("/searches/evo/figures/scatter-zz.json", ["zz", "macs"]),
    ],
)
def test_a_wrong_address_is_told_in_words(client: TestClient, path: str, facts: list[str]) -> None:
    answer = client.get(path)
    assert answer.status_code == 400
    assert lacking(answer.text, *facts) == []


def test_names_and_errors_are_text_and_no_script(store: Store) -> None:
    bad = "<script>alert(1)</script>"
    row = search(store, name="bad")
    begin(store, row, 0, architecture=bad, outcome=outcome(None, TrialState.FAILED, error=bad))
    store.annotate(row.id, f'"{bad}')
    with store._database.write() as connection:
        connection.execute(
            text("UPDATE searches SET name = :bad, controller = :bad"), {"bad": bad[:-9] + "'x"}
        )
    client = visitor(store)
    name = "%3Cscript%3Ealert(1)'x"
    for path in (
        "/",
        f"/searches/{name}",
        f"/searches/{name}/trials/0",
        f"/?text={bad}",
        f"/compare?search={bad}",
        f"/leaderboard?where={bad}",
        f"/searches/{name}y",
    ):
        answer = client.get(path)
        assert "alert(1)" in answer.text, path
        assert "<script>alert" not in answer.text
    assert client.get(f"/searches/{name}").status_code == 200


def test_every_answer_has_the_policy(client: TestClient) -> None:
    for path in (
        "/",
        "/nowhere",
        "/searches/evo",
        "/searches/evo/figures/progress.json",
        "/assets/1/live.js",
    ):
        policy = client.get(path).headers["content-security-policy"]
        assert "unsafe" not in policy
        assert lacking(policy, "default-src 'none'", "script-src 'self'", "frame-ancestors 'none'") == []
    image = client.get("/searches/evo/trials/1/drawing.svg").headers
    assert image["content-security-policy"].startswith("default-src 'none'")
    for path in ("/", "/searches/evo", "/searches/evo/trials/1", "/leaderboard", "/compare?search=evo"):
        page = client.get(path).text
        assert not re.search(r"<style|<script(?! src)|\son\w+=|\sstyle=|https?://|//[a-z]", page)


def test_every_link_of_every_page_leads_somewhere(client: TestClient) -> None:
    seen, todo = set[str](), ["/"]
    while todo:
        path = todo.pop().partition("#")[0].replace("&amp;", "&")
        if (
            path in seen
            or not path
            or "sort=" in path
            or path.endswith("curves.svg")
            or "progress.svg" in path
        ):
            continue
        seen.add(path)
        answer = client.get(path)
        assert answer.status_code == 200, (path, answer.text)
        if answer.headers["content-type"].startswith("text/html"):
            todo += LINK.findall(answer.text)
    assert {"/searches/evo/trials/6", "/leaderboard", "/compare"} <= seen
    assert any("plotly.min.js" in path for path in seen)


def test_a_table_is_there_as_csv_and_json_with_its_command(client: TestClient) -> None:
    path = "/searches/evo?sort=score&state=completed"
    page = client.get(path)
    assert lacking(page.text, "nas show evo", "nas resume evo --trials +20") == []
    rows = [*csv.DictReader(io.StringIO(client.get(f"{path}&table=trials&format=csv").text))]
    assert [(row["trial"], row["score"]) for row in rows] == [("6", "0.6"), ("1", "0.4"), ("3", "0.3")]
    told = client.get(f"{path}&table=trials&format=json").json()
    assert [row["trial"] for row in told] == [6, 1, 3]
    shown = re.search(r'id="trials".*?</table>', page.text, re.DOTALL)
    assert shown
    assert re.findall(r"/trials/(\d+)\"", shown[0]) == ["6", "1", "3"]
    heads = [
        re.sub(r"<[^>]*>| ▼", "", head).strip() for head in re.findall(r"<th.*?</th>", shown[0], re.DOTALL)
    ]
    assert [head.replace(" ", "_") for head in heads] == [*told[0]]
    assert client.get(f"{path}&table=gone&format=csv").status_code == 404


def test_the_leaderboard_asks_what_its_command_asks(client: TestClient, store: Store) -> None:
    answer = client.get("/leaderboard?search=evo&limit=2&pareto=score,seconds")
    assert lacking(answer.text, "nas leaderboard --search=evo --pareto=score,seconds --limit=2") == []
    told = client.get("/leaderboard?search=evo&limit=2&table=board1&format=json").json()
    assert [(row["rank"], row["trial"]) for row in told] == [(1, 6), (2, 1)]
    assert client.get("/leaderboard?stage=test").status_code == 200


def test_searches_are_compared_at_equal_cost(client: TestClient) -> None:
    answer = client.get("/compare?search=evo+rnd")
    assert lacking(answer.text, "30 s of worker time", "nas compare evo rnd", "evolution", "random") == []
    figure = client.get("/compare/curves.json?search=evo&search=rnd").json()
    assert sorted(trace["name"] for trace in figure["data"] if "name" in trace)[:2] == [
        "evolution (n = 1)",
        "evolution (n = 1)",
    ]


def test_a_search_is_drawn_beside_random_search(client: TestClient) -> None:
    figure = client.get("/searches/evo/figures/progress.json").json()
    lines = {trace["name"]: trace for trace in figure["data"] if trace["yaxis"] == "y"}
    assert [*lines] == ["evolution (n = 1)", "random (n = 1)"]
    assert lines["random (n = 1)"]["y"][-1] == 0.6
    assert [*client.get("/searches/rnd/figures/progress.json").json()["data"][0]["y"]][-1] == 0.6


def test_the_scatter_has_the_whole_front(store: Store) -> None:
    config = {"space": {"name": "chain"}, "tasks": None, "evaluator": {"name": "tabular"}}
    row = search(store, name="s", config=config)
    points = [(0.5, 10), (0.7, 30), (0.6, 20), (0.4, 15), (0.65, 40)]
    for number, (score, size) in enumerate(points):
        begin(store, row, number, outcome=outcome(score, costs={"parameters": size}))
    others, front = visitor(store).get("/searches/s/figures/scatter-parameters.json").json()["data"]
    assert [*zip(front["x"], front["y"], front["customdata"], strict=True)] == [
        (10, 0.5, 0),
        (20, 0.6, 2),
        (30, 0.7, 1),
    ]
    assert sorted(others["customdata"]) == [3, 4]


def test_a_supernet_shows_what_it_derived(store: Store) -> None:
    toy = Toy()
    one, other = (toy.encode(toy.sample(np.random.default_rng(seed))) for seed in range(2))
    trained = Trained([(one, 0.6), (other, 0.5)])
    record_one_shot(store, trained, {one: ("completed", 0.4)}, name="shot", controller="gdas")
    answer = visitor(store).get("/searches/shot/trials/0")
    assert lacking(answer.text, "Derived, best first", "0.6000", "0.5000") == []
    assert visitor(store).get("/searches/shot").status_code == 200


def test_a_supernet_shows_how_it_decided(store: Store) -> None:
    row = recorded_search(store, name="shot", controller="darts")
    trial = begin(store, row, 0, architecture=None, key=None, supernet={"strategy": "darts"})
    seen = [Measurement(step, alpha_metric("edge", op), 0.5) for op in ("a", "b") for step in (20, 40)]
    seen += [Measurement(step, "alpha_entropy", 0.7) for step in (20, 40)]
    store.finish(trial, Outcome(TrialState.COMPLETED, None, seconds=1.0, measurements=tuple(seen)))
    client = visitor(store)
    offered = re.findall(r'data-figure="([^"]*)"', client.get("/searches/shot").text)
    kinds = [Path(address).stem for address in offered]
    assert kinds == ["entropy", "alpha"]  # no trial has a score
    found = client.get("/searches/shot/figures/alpha.json").json()
    assert {trace["name"] for trace in found["data"] if "name" in trace} == {"a (n = 1)", "b (n = 1)"}
    assert client.get("/searches/shot/figures/alpha.svg").status_code == 200


def test_a_trial_shows_its_layers(store: Store) -> None:
    row, space = recorded_search(store, name="m", space="mlp"), Mlp()
    text = space.encode(space.sample(np.random.default_rng(0)))
    store.finish(begin(store, row, 0, architecture=text), outcome(0.5))
    client = visitor(store)
    address = "/searches/m/trials/0/layers"
    assert address in client.get("/searches/m/trials/0").text
    assert lacking(client.get(address).text, "Linear", "nas show m/0 --layers") == []
    rows = client.get(f"{address}?format=json").json()
    assert (
        sum(one["parameters"] for one in rows) == space.cost(space.decode(text), Sinusoid().shape).parameters
    )


def test_nothing_new_is_a_304_and_what_is_new_is_not(store: Store) -> None:
    row = search(store, name="s")
    store.acquire(row.id)
    client = visitor(store)
    tags = {path: client.get(path).headers["etag"] for path in ("/searches/s", "/leaderboard", "/")}
    for path, tag in tags.items():
        again = client.get(path, headers={"if-none-match": tag})
        if path != "/":  # the list tells the age of a sign of life
            assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
        assert float(again.headers["nas-next"]) >= 2
    trial = begin(store, row, 0)
    store.finish(trial, outcome(0.5))
    for path, tag in tags.items():
        assert client.get(path, headers={"if-none-match": tag}).status_code == 200
    assert "0.5000" in client.get("/searches/s").text
    assert (
        client.get("/searches/s?sort=score", headers={"if-none-match": tags["/searches/s"]}).status_code
        == 200
    )


def test_the_database_stays_as_it_is(store: Store, client: TestClient, tmp_path: Path) -> None:
    store.close()

    def state() -> dict[str, str]:
        return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in tmp_path.iterdir()}

    before = state()
    with Store(f"sqlite:///{tmp_path}/nas.db") as again:
        reader = visitor(again)
        for path in ("/", "/searches/evo", "/searches/evo/trials/1", "/leaderboard", "/compare?search=evo"):
            assert reader.get(path).status_code == 200
    assert state() == before == {"nas.db": before["nas.db"]}


def test_a_database_that_goes_away_is_told(store: Store, client: TestClient, tmp_path: Path) -> None:
    store.close()
    for file in tmp_path.glob("nas.db*"):
        file.unlink()
    answer = client.get("/searches/evo")
    assert (answer.status_code, "nas.db" in answer.text) == (503, True)
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("", ("", None)),
        ("/", ("", None)),
        ("/nas/", ("/nas", None)),
        ("https://example.org/a/b", ("/a/b", "https://example.org")),
        ("http://example.org:81", ("", "http://example.org:81")),
    ],
)
def test_where_a_proxy_serves(given: str, expected: tuple[str, str | None]) -> None:
    assert server.place(given) == expected


@pytest.mark.parametrize("given", ["nas", "/a?b", "//x/y z", "/a//b", "ftp://x/y", '/"><script>'])
def test_what_is_no_place(given: str) -> None:
    with refusal(ConfigError, "--root-path", "/nas"):
        server.place(given)


def test_a_port_that_is_taken() -> None:
    with server.listening("127.0.0.1", 0) as taken, refusal(ConfigError, "--port", taken.getsockname()[1]):
        server.listening("127.0.0.1", taken.getsockname()[1])


def test_the_link_has_the_token_where_one_is_needed() -> None:
    assert server.link("127.0.0.1", 80, "", None, None) == "http://127.0.0.1:80/"
    assert server.link("::1", 80, "/nas", None, "t") == "http://[::1]:80/nas/?token=t"
    assert (
        server.link("0.0.0.0", 80, "/nas", "https://example.org", "t") == "https://example.org/nas/?token=t"
    )


def test_panels_of_one_axis_are_drawn_over_the_same_range() -> None:
    """A score measured once stands below the end of a curve, not in the middle of a panel of its own."""
    one, curve = trial_panel("score", [(60, 0.5)]), trial_panel("train_loss", [(6, 1.0), (60, 0.5)])
    assert of_panels([one, curve])["layout"]["xaxis2"]["matches"] == "x"
    other = replace(curve, x_label="epoch")
    assert "matches" not in of_panels([one, other])["layout"]["xaxis2"]


def test_titles_beside_panels_are_broken_where_they_are_longer() -> None:
    """Of one panel between words; of many low ones at the first dot of a decision's name."""
    few = replace(
        trial_panel("score", [(60, 0.5)]), y_label="entropy of the weights by α, mean over decisions"
    )
    named = of_panels([few])["layout"]["yaxis"]["title"]["text"].split("<br>")
    assert (len(named), max(map(len, named)) <= 30) == (2, True)
    many = replace(few, y_label="normal.node2.from0")
    assert of_panels([many] * 4)["layout"]["yaxis"]["title"]["text"] == "normal.<br>node2.from0"


def test_figures_are_small_however_long_a_search_is(store: Store) -> None:
    config = {"space": {"name": "chain"}, "tasks": None, "evaluator": {"name": "tabular"}}
    row = search(store, name="s", trials=3000, config=config)
    begin(store, row, 0, outcome=outcome(0.1, seconds=1.0, costs={"parameters": 5}))
    with store._database.write() as connection:
        columns = (
            "state, attempt, architecture_id, architecture, score, seconds, seed, created_at, started_at"
        )
        connection.execute(
            text(
                f"INSERT INTO trials (search_id, number, observed, parameters, {columns}) "
                "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000) "
                f"SELECT search_id, i, i + 1, 5 + i * 7919 % 3001, {columns} FROM n, trials WHERE number = 0"
            )
        )
    client = visitor(store)
    for path in (
        "/searches/s",
        "/searches/s/figures/progress.json",
        "/searches/s/figures/scatter-parameters.json",
    ):
        answer = client.get(path)
        assert (answer.status_code, len(answer.content) < 200_000) == (200, True), answer.text
    told = json.dumps(client.get("/searches/s/figures/scatter-parameters.json").json())
    assert "of 3000 other trials" in told


def _serve(*arguments: str) -> tuple[int, str, str]:
    from command_line import nas

    return nas("serve", *arguments)


def test_a_database_that_is_missing_is_not_made(db: Path) -> None:
    code, _, err = _serve()
    assert (code, db.exists()) == (NotFound.exit_code, False)
    assert lacking(err, "nas run") == []


def test_a_database_of_another_revision_or_program_is_left_alone(store: Store, db: Path) -> None:
    with store._database.write() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '0009'"))
    code, _, err = _serve()
    assert (code, lacking(err, "0009", "nas db upgrade")) == (StorageError.exit_code, [])
    with store._database.write() as connection:
        connection.execute(text("DROP TABLE alembic_version"))
    code, _, err = _serve()
    assert (code, lacking(err, "another program", "--db")) == (StorageError.exit_code, [])
    assert _serve("--root-path", "nas")[0] == ConfigError.exit_code
    assert _serve("--token", "short")[0] == 2
