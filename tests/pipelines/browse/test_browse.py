"""The server of the browse page: what it answers, whom, and that it changes nothing."""

import json
import os
import signal
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from jobs.bench import ledger_case
from jobs.bench.ledger_case import LedgerCase, make_facts
from jobs.browse import main as browse
from pipelines import open_run
from pipelines.browse.api import browser_value
from pipelines.browse.cuts import Cuts
from pipelines.browse.server import BrowseServer
from pipelines.browse.table import KEPT_BY_SELECT, STEP, RowsTable
from pipelines.config import validate_config
from pipelines.run.committed import Committed
from pipelines.run.reader import EVERY
from pipelines.run.record import StepIdentity, complete_step, read_run
from pipelines.run.recorded_options import check_or_record
from pipelines.steps.kinds import STEP_KINDS, later_steps
from pipelines.steps.select import Select, SelectConfig
from sd_core.errors import EnvironmentFault

NUM_ROWS = 3_000
BOUNDS = {"aesthetic_v2": 4.8, "punsafe": 0.4}


def rules(aesthetic: float = BOUNDS["aesthetic_v2"], **others: Any) -> dict[str, Any]:
    shorter = "least(original_width, original_height) >= 300"
    found: list[dict[str, Any]] = [
        {"column": "aesthetic_v2", "min": aesthetic},
        {"sql": shorter, "name": "shorter side"},
        {"column": "punsafe", "max": BOUNDS["punsafe"]},
    ]
    return {"rules": found, "duplicates": {"by": ["sha256"]}, **others}


def cut(case: LedgerCase, tree: Mapping[str, Any], *, records: bool = True) -> pa.Table:
    """A cut of made facts as the run's own; its ledger."""
    config = validate_config(SelectConfig, dict(tree), where="select")
    parents = (case.images.fingerprint, case.score.fingerprint)
    select = StepIdentity(step="select", options={"select": config.identity()}, parents=parents)
    Select(
        store=case.store,
        fingerprint=select.fingerprint,
        config=config,
        num_shards=case.num_shards,
        images=Committed(case.store, "download", case.images.fingerprint),
        score=Committed(case.store, "score", case.score.fingerprint),
        read_rows=lambda shard_id: pa.table({}),
    ).run(lambda manifest: None)
    if not records:
        made = Committed(case.store, "select", select.fingerprint)
        shards = [made.table(shard, "ledger") for shard in range(case.num_shards)]
        return pa.concat_tables([shard for shard in shards if shard is not None])
    job = {"job": "curate", "config": {"select": dict(tree)}}
    check_or_record(case.store, [case.images, case.score, select], job=job)
    for step in (case.images, case.score, select):
        complete_step(
            case.store,
            step,
            num_shards=case.num_shards,
            folders=STEP_KINDS[step.step].paths,
            later=later_steps(step.step),
        )
    return open_run(case.store.root).ledger()


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> LedgerCase:
    root = tmp_path_factory.mktemp("made") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ledger_case, "ROWS_PER_SHARD", NUM_ROWS // 5)
        return make_facts(root, num_rows=NUM_ROWS, metadata=root / "none")


@pytest.fixture(scope="module")
def earlier(case: LedgerCase) -> pa.Table:
    """Another cut, which the run still has."""
    return cut(case, rules(5.4), records=False)


@pytest.fixture(scope="module")
def ledger(case: LedgerCase, earlier: pa.Table) -> pa.Table:
    return cut(case, rules())


@pytest.fixture(scope="module")
def server(case: LedgerCase, ledger: pa.Table) -> Iterator[BrowseServer]:
    with BrowseServer(open_run(case.store.root)) as found:
        yield found


def ask(server: BrowseServer, name: str, **given: object) -> Any:
    """The JSON that the page gets."""
    told = {
        key: json.dumps(value) if isinstance(value, dict) else value for key, value in given.items()
    }
    with urllib.request.urlopen(f"{server.url}{name}?{urlencode(told)}") as answer:
        return json.load(answer)


def status(url: str, *, method: str = "GET", **headers: str) -> int:
    asked = urllib.request.Request(url, method=method, headers=headers)
    try:
        with urllib.request.urlopen(asked) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def keys(server: BrowseServer, **view: Any) -> list[str]:
    return list(ask(server, "keys", view=view)["keys"])


@pytest.mark.parametrize("aesthetic", [4.0, 4.8, 5.3, 6.1])
def test_the_live_count_of_a_threshold_is_that_of_the_cut(
    case: LedgerCase, server: BrowseServer, aesthetic: float
) -> None:
    moved = {"column": "aesthetic_v2", "bound": "min", "value": aesthetic}
    told = ask(server, "moved", moved=moved)
    expected = cut(case, rules(aesthetic), records=False)
    now = set(open_run(case.store.root).kept(["key"])["key"].to_pylist())
    then = set(expected.filter(expected["kept"])["key"].to_pylist())
    assert (told["now"], told["then"]) == (len(now), len(then))
    shown = {c: set(keys(server, moved=moved, change=c)) for c in ("gained", "lost")}
    assert {name: len(found) for name, found in shown.items()} == {
        "gained": told["gained"],
        "lost": told["lost"],
    }
    assert len((now - shown["lost"]) | shown["gained"]) == len(then)
    assert f"    - {{column: aesthetic_v2, min: {aesthetic}}}" in told["yaml"]
    tree = "\n".join(told["yaml"])
    assert tree.count("column: aesthetic_v2") == 1
    assert "shorter side" in tree


@pytest.mark.parametrize("beyond", [1e39, -1e39])
def test_a_number_beyond_a_columns_precision_is_held_against_it_as_rules_do(
    case: LedgerCase, server: BrowseServer, ledger: pa.Table, beyond: float
) -> None:
    moved = {"column": "aesthetic_v2", "bound": "min", "value": beyond}
    expected = cut(case, rules(beyond), records=False)
    assert ask(server, "moved", moved=moved)["then"] == pc.sum(expected["kept"]).as_py()
    scored = len(ledger["aesthetic_v2"].drop_null())
    for op, is_all in (("least", beyond < 0), ("most", beyond > 0)):
        where = [{"column": "aesthetic_v2", "op": op, "value": beyond}]
        assert ask(server, "rows", view={"where": where})["total"] == (scored if is_all else 0)


def test_a_column_without_a_threshold_gets_one(server: BrowseServer, ledger: pa.Table) -> None:
    moved = {"column": "clip_similarity", "bound": "max", "value": 0.3}
    told = ask(server, "moved", moved=moved)
    most = pc.less_equal(ledger["clip_similarity"], pa.scalar(0.3, pa.float32()))
    passed = pc.and_(ledger["kept"], pc.fill_null(most, False))
    assert told["then"] >= pc.sum(passed).as_py() > 0  # copies may stand for what is gone
    assert told["gained"] <= told["then"] - pc.sum(passed).as_py()
    assert told["yaml"][-1] == "    - {column: clip_similarity, max: 0.3}"


def test_two_cuts_show_what_only_one_of_them_keeps(
    server: BrowseServer, ledger: pa.Table, earlier: pa.Table
) -> None:
    kept = [set(t.filter(t["kept"])["key"].to_pylist()) for t in (earlier, ledger)]
    [found] = [c for c in ask(server, "cuts") if c["kept"] == len(kept[0])]
    against = {"against": found["fingerprint"]}
    assert set(keys(server, **against, change="gained")) == kept[0] - kept[1]
    assert set(keys(server, **against, change="lost")) == kept[1] - kept[0]
    rows = ask(server, "rows", view={**against, "change": "lost"}, limit=5)["rows"]
    assert [row["then"]["kept"] for row in rows] == [False] * 5


def test_every_row_is_found_by_what_the_ledger_says_of_it(
    server: BrowseServer, ledger: pa.Table
) -> None:
    assert ask(server, "rows", offset=NUM_ROWS - 1)["total"] == NUM_ROWS
    told = ask(server, "run")
    assert sum(reason["rows"] for reason in told["reasons"]) == NUM_ROWS - told["kept"]
    for reason in told["reasons"]:
        view = {name: reason[name] for name in ("step", "reason", "rule") if reason[name]}
        assert ask(server, "rows", view=view)["total"] == reason["rows"], reason
    row = ledger.slice(77, 1).to_pylist()[0]
    for text in (row["key"], row["url"], row["url"].upper()):
        assert row["key"] in keys(server, text=text)
    scores = ledger["aesthetic_v2"].drop_null().to_pylist()
    where = [{"column": "aesthetic_v2", "op": "least", "value": 5.5}]
    view = {"where": where, "sort": "aesthetic_v2", "descending": True}
    page = ask(server, "rows", view=view, limit=10)
    assert page["total"] == sum(score >= 5.5 for score in scores)
    assert [r["aesthetic_v2"] for r in page["rows"]] == sorted(scores, reverse=True)[:10]
    nothing = {"where": [{"column": "aesthetic_v2", "op": "missing"}], "show": "kept"}
    assert ask(server, "rows", view=nothing)["total"] == 0


def test_copies_stand_beside_what_they_copy(server: BrowseServer, ledger: pa.Table) -> None:
    copies = ledger.filter(ledger["duplicate_of"].is_valid())
    told = ask(server, "groups", by="duplicate_of", limit=5)
    assert told["total"] == len(pc.unique(copies["duplicate_of"]))
    for group in told["groups"]:
        assert group["original"]["key"] == group["key"]
        assert group["original"]["kept"]
        assert group["count"] == len(group["rows"]) > 0
        assert {row["duplicate_of"] for row in group["rows"]} == {group["key"]}


def test_a_row_comes_whole_with_its_life(server: BrowseServer, ledger: pa.Table) -> None:
    row = ledger.slice(5, 1).to_pylist()[0]
    told = ask(server, "row", place=5)
    assert told["row"]["url"] == told["why"]["row"]["url"] == row["url"]
    assert set(told["row"]) == set(ledger.column_names)


HOSTILE = "x' OR 1=1; DROP TABLE rows; --"


@pytest.mark.parametrize(
    "asked",
    [
        {"name": "rows", "view": {"sort": HOSTILE}},
        {"name": "rows", "view": {"sort": '"'}},
        {"name": "rows", "view": {"where": [{"column": HOSTILE, "op": "there"}]}},
        {"name": "rows", "view": {"where": [{"column": "key", "op": "least", "value": 1}]}},
        {"name": "rows", "view": {"where": [{"column": "punsafe", "op": "least", "value": "1"}]}},
        {"name": "rows", "view": {"against": "../../x", "change": "lost"}},
        {"name": "rows", "view": {"change": "lost"}},
        {"name": "rows", "view": {"nothing": 1}},
        {"name": "rows", "view": "{"},
        {"name": "rows", "offset": "-1"},
        {"name": "groups", "by": HOSTILE},
        {"name": "row", "place": NUM_ROWS},
        {"name": "moved", "moved": {"column": "key", "bound": "min", "value": 1}},
    ],
    ids=str,
)
def test_what_cannot_be_asked_is_told_in_one_line(
    server: BrowseServer, asked: dict[str, Any]
) -> None:
    name = asked["name"]
    with pytest.raises(urllib.error.HTTPError) as error:
        ask(server, **asked)
    assert error.value.code == 400, name
    assert "\n" not in json.load(error.value)["error"]


def test_values_are_parameters(server: BrowseServer) -> None:
    for view in ({"text": HOSTILE}, {"reason": HOSTILE}, {"rule": '"'}, {"step": "%"}):
        assert ask(server, "rows", view=view)["total"] == 0
    where = [{"column": "url", "op": "contains", "value": HOSTILE}]
    assert ask(server, "rows", view={"where": where})["total"] == 0
    assert ask(server, "rows")["total"] == NUM_ROWS


def test_only_whoever_has_the_token_is_answered_and_by_a_name_of_this_machine(
    server: BrowseServer,
) -> None:
    parts = urlsplit(server.url)
    base, token = f"http://{parts.netloc}", parts.path.strip("/")
    assert status(server.url) == 200
    for host in ("localhost", "127.0.0.1:1", "[::1]:8090"):
        assert status(server.url, Host=host) == 200
    for host in ("evil.example", "127.0.0.1.evil.example", "192.0.2.1", ""):
        assert status(server.url, Host=host) == 421
    for path in ("/", "/run", f"/{token[:-1]}/", f"/{token}x/run", "/../etc/passwd"):
        assert status(f"{base}{path}") == 403
    assert status(f"{server.url}passwd") == status(f"{server.url}..%2fapi.py") == 404
    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        assert status(server.url, method=method) == 405
    assert status(server.ticket_url) == 200
    assert status(server.ticket_url) == 403


def test_a_request_that_names_no_path_is_refused_in_silence(
    server: BrowseServer, caplog: pytest.LogCaptureFixture
) -> None:
    parts = urlsplit(server.url)
    token = parts.path.strip("/").encode()
    asked = {
        b"OPTIONS *": b"403",
        b"CONNECT a:80": b"403",
        b"GET http://localhost": b"403",
        b"GET //%s/run" % token: b"403",
        b"CONNECT %s:80" % token: b"403",
        "GET /\u00e9".encode(): b"400",
        b"nonsense": b"400",
    }
    for line, code in asked.items():
        with socket.create_connection((parts.hostname or "", parts.port or 0), timeout=10) as sent:
            sent.sendall(line + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            assert sent.recv(64).split()[1] == code, line
    assert not caplog.records


def test_every_answer_forbids_what_is_not_of_this_server(server: BrowseServer) -> None:
    for name in ("", "main.js", "run", "picture?place=0", "nothing"):
        try:
            answer = urllib.request.urlopen(f"{server.url}{name}")
        except urllib.error.HTTPError as error:
            answer = error
        with answer:
            policy = answer.headers["Content-Security-Policy"]
            assert policy.startswith("default-src 'none'; script-src 'self'")
            assert "unsafe" not in policy
            assert answer.headers["Cache-Control"] == "no-store"
            assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_nothing_of_the_run_is_written(case: LedgerCase, server: BrowseServer) -> None:
    root = Path(case.store.root)

    def files() -> dict[Path, tuple[int, int]]:
        found = ((path, path.stat()) for path in root.rglob("*"))
        return {path: (stat.st_mtime_ns, stat.st_size) for path, stat in found}

    before = files()
    for name in ("run", "cuts", "rows"):
        ask(server, name)
    moved = {"column": "punsafe", "bound": "max", "value": 0.2}
    ask(server, "moved", moved=moved)
    assert files() == before
    assert read_run(case.store)["job"] == "curate"


def test_a_temporary_folder_that_cannot_be_used_is_the_environments(
    case: LedgerCase, ledger: pa.Table, tmp_path: Path
) -> None:
    with pytest.raises(EnvironmentFault, match="TMPDIR"):
        RowsTable(open_run(case.store.root), tmp_path / "gone", say=print)


def test_many_shards_are_read_into_the_table_at_once(
    case: LedgerCase,
    ledger: pa.Table,
    earlier: pa.Table,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    added, add = list[tuple[str, int]](), RowsTable.add

    def counted(self: RowsTable, name: str, table: pa.Table) -> None:
        added.append((name, table.num_rows))
        add(self, name, table)

    monkeypatch.setattr(RowsTable, "add", counted)
    with closing(RowsTable(open_run(case.store.root), tmp_path, say=print)) as table:
        cuts = Cuts(table)
        cuts.add_earlier([], cuts.earlier()[0].fingerprint)
        assert case.num_shards == 5
        assert [found for found in added if found[1]] == [("rows", NUM_ROWS), ("cuts", NUM_ROWS)]
        told = dict(table.ask("SELECT key, kept FROM rows"))
    assert told == dict(zip(*(ledger[c].to_pylist() for c in ("key", "kept")), strict=True))


def test_a_row_that_encode_refused_is_its_and_no_other_of_that_key(
    case: LedgerCase, ledger: pa.Table, tmp_path: Path
) -> None:
    run, kept = open_run(case.store.root), ledger.filter(ledger["kept"])
    row, other = (kept.filter(pc.equal(kept["shard_id"], s)).to_pylist()[0] for s in (0, 1))
    ends = [{"reason": name, "error_message": "no"} for name in ("row_failed", "shard_quarantined")]
    refused = {0: {row["key"]: ends[0], other["key"]: ends[0]}, 3: {EVERY: ends[1]}}
    run.__dict__["refused"] = refused  # by shard, as the run tells it
    with closing(RowsTable(run, tmp_path, say=print)) as table:
        found = table.ask(f"SELECT shard_id, key FROM rows WHERE {STEP} = 'encode'")
        [(by_select,)] = table.ask(f"SELECT count(*) FROM rows WHERE {KEPT_BY_SELECT}")
    whole = kept.filter(pc.equal(kept["shard_id"], 3))["key"].to_pylist()
    assert set(found) == {(0, row["key"]), *((3, key) for key in whole)}
    assert by_select == kept.num_rows


def test_values_reach_the_browser_as_they_are_and_as_texts_where_it_has_no_such() -> None:
    told = browser_value({"seed": 2**60, "nan": float("nan"), "text": "a\u202eb\x1b", "no": None})
    assert told == {"seed": str(2**60), "nan": "nan", "text": "a b ", "no": None}
    secret = "https://user:pass@host/a?X-Amz-Signature=abc"
    assert "pass" not in browser_value([secret])[0]


def test_the_command_ends_as_its_codes_say(
    case: LedgerCase, ledger: pa.Table, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = case.store.root
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert browse([root, "--no-open", "--port", str(port)]) == 2
    assert capsys.readouterr().err.startswith(f"127.0.0.1, port {port}: is taken")
    for host in ("0.0.0.0", "192.0.2.1", "example.org"):
        assert browse([root, "--no-open", "--host", host]) == 2
        assert "--allow-others" in capsys.readouterr().err
    for host in ("no.such.name.invalid", "no..name"):
        assert browse([root, "--no-open", "--host", host, "--allow-others"]) == 2
        assert capsys.readouterr().err == (
            f"--host {host}: that name has no address; give an address of this machine\n"
        )
    assert browse([str(tmp_path), "--no-open"]) == 2
    assert "not a run" in capsys.readouterr().err
    stop = threading.Timer(2.0, os.kill, (os.getpid(), signal.SIGINT))
    stop.start()
    assert browse([root, "--no-open"]) == 130
    told = capsys.readouterr()
    assert "http://127.0.0.1:" in told.out
    assert told.err == "stopped by SIGINT: the same command goes on\n"
