"""The store as a process: how it starts, refuses, stops, and what it does when it is overrun."""

from __future__ import annotations

import http.client
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from clickhouse_connect.driver.exceptions import ClickHouseError

from tests.embedded.store.process import StoreProcess

MODULE = [sys.executable, "-m", "embedded.store"]


def ask(
    store: StoreProcess,
    body: bytes,
    path: str = "/",
    headers: dict[str, str] | None = None,
    method: str = "POST",
) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection(store.host, store.port, timeout=30)
    try:
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        names = {name.lower(): value for name, value in answer.getheaders()}
        return answer.status, names, answer.read()
    finally:
        connection.close()


def run_to_end(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*MODULE, *arguments], capture_output=True, text=True, timeout=30, check=False
    )


def test_a_taken_port_is_named_with_its_setting(store: StoreProcess, tmp_path: Path) -> None:
    ended = run_to_end("--data-dir", str(tmp_path / "d"), "--port", str(store.port))
    assert ended.returncode == 2
    assert f"127.0.0.1:{store.port} is already in use" in ended.stderr
    assert ended.stdout == ""
    assert not (tmp_path / "d").exists()


def test_a_directory_has_one_owner_who_is_named(store: StoreProcess) -> None:
    ended = run_to_end("--data-dir", str(store.data_dir), "--port", "0")
    assert ended.returncode == 2
    assert str(store.data_dir) in ended.stderr
    assert f"process {store.process.pid} has this directory open" in ended.stderr
    assert "Fix: stop that process" in ended.stderr


def test_it_does_not_listen_on_the_network_by_accident(tmp_path: Path) -> None:
    ended = run_to_end("--data-dir", str(tmp_path / "d"), "--host", "0.0.0.0", "--port", "0")
    assert ended.returncode == 2
    assert "--allow-remote" in ended.stderr


def test_an_unusable_directory_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    ended = run_to_end("--data-dir", str(tmp_path / "file"), "--port", "0")
    assert ended.returncode == 2
    assert "--data-dir" in ended.stderr


def test_a_password_is_asked_for_and_never_logged(tmp_path: Path) -> None:
    environment = {"REDLINE_STORE_PASSWORD": "s3cret-word"}
    with StoreProcess(tmp_path / "d", environment=environment) as store:
        assert ask(store, b"", "/ping", method="GET")[0] == 200
        status, headers, _ = ask(store, b"SELECT 1")
        assert (status, headers["x-clickhouse-exception-code"]) == (403, "516")
        with pytest.raises(ClickHouseError):
            store.client(password="wrong")
        client = store.client(username="default", password="s3cret-word")
        assert client.query("SELECT 1").result_rows == [(1,)]
        assert ask(store, b"SELECT 1", headers={"X-ClickHouse-Key": "s3cret-word"})[2] == b"1\n"
        client.close()
        store.terminate()
        assert "s3cret-word" not in store.log_text()


def test_sigterm_ends_it_while_a_query_runs_and_a_running_insert_is_finished(
    tmp_path: Path,
) -> None:
    with StoreProcess(tmp_path / "d") as store:
        client = store.client()
        client.command("CREATE TABLE t (a UInt64) ENGINE = MergeTree ORDER BY a")
        insert = b"INSERT INTO t SELECT number + sleepEachRow(0.1) FROM numbers(10)"
        with ThreadPoolExecutor(2) as pool:
            slow = pool.submit(ask, store, b"SELECT sleepEachRow(1) FROM numbers(60)")
            answer = pool.submit(ask, store, insert)
            wait_until(lambda: b"running 2" in ask(store, b"", "/metrics", method="GET")[2])
            started_s = time.monotonic()
            assert store.terminate() == 0
            assert time.monotonic() - started_s < 3
            assert answer.result()[0] == 200
            assert slow.exception() is not None or slow.result()[0] >= 500
    with StoreProcess(tmp_path / "d") as store:
        assert store.client().query("SELECT count() FROM t").result_rows == [(10,)]


def wait_until(holds: object, timeout_s: float = 10) -> None:
    assert callable(holds)
    deadline_s = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline_s, "it did not come about in time"
        time.sleep(0.01)


def test_overrun_is_refused_with_503_and_counted(tmp_path: Path) -> None:
    with StoreProcess(tmp_path / "d", "--running-max", "1", "--queued-max", "1") as store:
        with ThreadPoolExecutor(6) as pool:
            sleeps = [pool.submit(ask, store, b"SELECT sleep(0.7)") for _ in range(6)]
            answers = [sleep.result() for sleep in sleeps]
        statuses = sorted(status for status, _, _ in answers)
        assert statuses == [200, 200, 503, 503, 503, 503]
        refused = next(headers for status, headers, _ in answers if status == 503)
        assert refused["x-clickhouse-exception-code"] == "202"
        metrics = ask(store, b"", "/metrics", method="GET")[2]
        assert b"redline_store_refused_too_busy_total 4" in metrics
        assert ask(store, b"SELECT 1")[2] == b"1\n"


def test_a_body_beyond_the_limit_is_refused_before_it_is_taken(tmp_path: Path) -> None:
    import gzip

    with StoreProcess(tmp_path / "d", "--body-bytes-max", "100000") as store:
        assert ask(store, b"SELECT 1 --" + b" " * 50_000)[0] == 200
        declared = ask(store, b"x", headers={"Content-Length": "100001"})
        assert declared[0] == 413
        bomb = gzip.compress(b"SELECT 1 --" + b" " * 3_000_000)
        assert ask(store, bomb, headers={"Content-Encoding": "gzip"})[0] == 413
        assert b"body_too_large_total 1" in ask(store, b"", "/metrics", method="GET")[2]


def test_what_was_in_the_default_database_stays_readable(tmp_path: Path) -> None:
    """Tables that somebody made there survive; the store itself does not work in it."""
    with StoreProcess(tmp_path / "d") as store:
        store.client().command("CREATE TABLE default.t (a Int8) ENGINE = MergeTree ORDER BY a")
        store.client().command("INSERT INTO default.t VALUES (7)")
        status, _, body = ask(store, b"SELECT currentDatabase()", "/?database=default")
        assert (status, body) == (200, b"redline\n")
        store.terminate()
    with StoreProcess(tmp_path / "d") as store:
        assert store.client().query("SELECT a FROM default.t").result_rows == [(7,)]
        store.terminate()
        assert "store.default_database_in_use" in store.log_text()


@pytest.mark.parametrize(
    "sql", [b"SELECT count() FROM `/etc/hostname`", b"SELECT * FROM '/etc/hostname'"]
)
def test_no_file_is_read_by_its_name(store: StoreProcess, sql: bytes) -> None:
    status, headers, _ = ask(store, sql)
    assert (status, headers["x-clickhouse-exception-code"]) == (404, "60")


def test_two_clients_of_one_session_id_cannot_wedge_it(store: StoreProcess) -> None:
    """A request that fails in preparation gives the session back."""
    for _ in range(3):
        assert ask(store, b"SELECT 1", "/?session_id=w&no_such_setting=1")[0] == 404
    assert ask(store, b"SELECT 1", "/?session_id=w")[2] == b"1\n"


def test_unknown_pages_say_where_queries_go(store: StoreProcess) -> None:
    status, _, body = ask(store, b"", "/play", method="GET")
    assert status == 404
    assert b"/ping" in body
    assert ask(store, b"", "/", method="GET")[2] == b"Ok.\n"
    assert ask(store, b"", "/?query=SELECT+2", method="HEAD")[2] == b""


def test_many_clients_at_once_get_their_own_answers(store: StoreProcess) -> None:
    barrier = threading.Barrier(8)

    def work(number: int) -> bool:
        barrier.wait()
        return all(
            ask(store, f"SELECT {number * 1000 + i}, currentDatabase()".encode(), path)[2]
            == f"{number * 1000 + i}\t{database}\n".encode()
            for i in range(20)
            for path, database in [("/", "redline"), ("/?database=system", "system")]
        )

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(8)))
