"""What the store never runs, whoever asks, and what a read-only request may do.

The engine has no users and no roles: whoever reaches the port could read the machine's files
(``file()``), start programs (``executable()``) or call other hosts (``url()``). So statements that
name such functions or engines are refused from their tokens, before the engine sees them.
This file refuses to be a sandbox: the address stays on loopback and behind a password for that.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from embedded.store.refusal import StoreRefusal
from embedded.store.request import Request
from embedded.store.statement import Statement
from redline.clickhouse_lexer import Token, TokenKind, read_tokens, unquote_name

# Table functions, table engines, database engines and dictionary sources that leave the store's
# own directory. A test compares this list and SAFE_NAMES with what the engine really has.
_OUTSIDE = """
arrowstream azureblobstorage azureblobstoragecluster azurequeue backup bigquery cassandra
clickhouse cluster clusterallreplicas cosn datalakecatalog deltalake deltalakeazure
deltalakeazurecluster deltalakecluster deltalakelocal deltalakes3 deltalakes3cluster disk
distributed embeddedrocksdb eval executable executable_pool executablepool file filecluster
filelog filesystem fuzzquery gcs hdfs hdfscluster http hudi hudicluster iceberg icebergazure
icebergazurecluster icebergcluster iceberghdfs iceberghdfscluster iceberglocal
iceberglocalcluster icebergs3 icebergs3cluster jdbc kafka keepermap
materializedpostgresql mongodb mysql odbc oss overlay paimon paimonazure paimonazurecluster
paimoncluster paimonhdfs paimonhdfscluster paimonlocal paimons3 paimons3cluster postgresql
prometheusquery prometheusqueryrange python queryrunner redis remote remotesecure replicated
s3 s3cluster s3queue sqlite url urlcluster yamlregexptree ytsaurus
"""
_SAFE = """
aggregatingmergetree alias atomic buffer coalescingmergetree collapsingmergetree dictionary
format fuzzjson generate_series generaterandom generateseries graphitemergetree input join log
loop materializedview memory merge mergetree mergetreeanalyzeindexes
mergetreeanalyzeindexesuuid mergetreecodecblockcounts mergetreeindex mergetreeprojection
mergetreetextindex null numbers numbers_mt ordinary primes replacingmergetree
replicatedaggregatingmergetree replicatedcoalescingmergetree replicatedcollapsingmergetree
replicatedgraphitemergetree replicatedmergetree replicatedreplacingmergetree
replicatedsummingmergetree replicatedversionedcollapsingmergetree set sqlstandardvalues
stripelog summingmergetree timeseries timeseriesdata timeseriesmetricfamilies
timeseriesmetrics timeseriessamples timeseriesselector timeseriestags tinylog values
versionedcollapsingmergetree view viewexplain viewifpermitted zeros zeros_mt
"""
OUTSIDE_NAMES = frozenset(_OUTSIDE.split())
SAFE_NAMES = frozenset(_SAFE.split())
_BEFORE_A_TABLE_NAME = frozenset(
    [
        b"CREATE",
        b"OR",
        b"REPLACE",
        b"TEMPORARY",
        b"TABLE",
        b"IF",
        b"NOT",
        b"EXISTS",
        b"INSERT",
        b"INTO",
    ]
)
# Settings whose value is SQL, or which change the language that the statement is written in.
DENIED_SETTINGS = frozenset(
    ["dialect", "polyglot_dialect", "additional_table_filters", "additional_result_filter"]
)
_ANY_OUTSIDE_NAME = re.compile(
    rb"(?i)(?<![a-z0-9_])(?:" + b"|".join(sorted(name.encode() for name in OUTSIDE_NAMES)) + rb")"
    rb"(?![a-z0-9_])"
)
_NAMES = (TokenKind.WORD, TokenKind.QUOTED_NAME)
_STOPS_THE_STORE = frozenset([b"SHUTDOWN", b"KILL", b"SUSPEND"])


def check_request(request: Request, statement: Statement) -> None:
    """Refuse what the store does not run: by its settings, its text, and the data of VALUES.

    VALUES may hold expressions, so its data is SQL too; it is read only if a name in it stands out.

    Raises:
        StoreRefusal: see ``check_statement``.
    """
    for name in request.settings:
        if name.lower() in DENIED_SETTINGS:
            raise _denied(f"The setting {name}", "write the condition into the query")
    check_statement(statement, readonly=request.readonly)
    insert = statement.insert
    if insert is None or insert.format.lower() != "values":
        return
    if _ANY_OUTSIDE_NAME.search(request.sql, insert.data_offset):
        tokens = tuple(read_tokens(request.sql, insert.data_offset))
        _check_marks(tokens)
        for index in range(len(tokens)):
            _check_outside(tokens, index)


def check_statement(statement: Statement, *, readonly: bool) -> None:
    """Refuse what the store does not run.

    Raises:
        StoreRefusal: with ClickHouse's own number where the server has one (358 for INTO OUTFILE,
            164 for a write in a read-only request), else 497 ACCESS_DENIED.
    """
    tokens = statement.tokens
    _check_marks(tokens)
    for index in range(len(tokens)):
        _check_files(tokens[index : index + 2])
        _check_outside(tokens, index)
        _check_settings(tokens[index : index + 2])
    if statement.verb == "SYSTEM" and len(tokens) > 1 and tokens[1].upper in _STOPS_THE_STORE:
        raise _denied("SYSTEM " + tokens[1].upper.decode(), "stop the store's process instead")
    if readonly and not statement.reads:
        raise StoreRefusal(
            164,
            "READONLY",
            f"Cannot execute {statement.verb or 'this'} in readonly mode: GET requests and "
            "readonly=1 only read, send it by POST",
        )


def _check_files(pair: tuple[Token, ...]) -> None:
    if len(pair) < 2 or pair[0].kind is not TokenKind.WORD:
        return
    words = (pair[0].upper, pair[1].upper)
    if words == (b"INTO", b"OUTFILE"):
        raise StoreRefusal(358, "INTO_OUTFILE_NOT_ALLOWED", "INTO OUTFILE is not allowed")
    if words == (b"FROM", b"INFILE"):
        raise _denied("FROM INFILE", "send the file as the body of the request")


def _check_marks(tokens: Iterable[Token]) -> None:
    """What the engine may read in another way than ``redline.clickhouse_lexer`` is not run.

    It takes some characters beyond ASCII for blanks or quotes, an open ``$tag$`` for a name, and
    ``\\G`` for the end of a statement.
    """
    for token in tokens:
        if token.kind is TokenKind.BROKEN:
            raise StoreRefusal(
                62, "SYNTAX_ERROR", f"Syntax error: what begins at byte {token.start} never ends"
            )
        if token.kind is TokenKind.MARK and (
            not 0x20 < token.text[0] < 0x7F or token.text == b"\\"
        ):
            raise StoreRefusal(
                62,
                "SYNTAX_ERROR",
                f"Syntax error: the character at byte {token.start} is served only inside quotes",
            )


def _check_settings(pair: tuple[Token, ...]) -> None:
    name = unquote_name(pair[0]).lower() if pair[0].kind in _NAMES else ""
    if len(pair) == 2 and pair[1].text == b"=" and name in DENIED_SETTINGS:
        raise _denied(f"The setting {name}", "write the condition into the query")


def _check_outside(tokens: tuple[Token, ...], index: int) -> None:
    here = tokens[index]
    if here.kind not in _NAMES:
        return
    name = unquote_name(here)
    if name.lower() not in OUTSIDE_NAMES:
        return
    if index and all(token.upper in _BEFORE_A_TABLE_NAME for token in tokens[:index]):
        return  # the statement makes or fills a table of that name
    called = index + 1 < len(tokens) and tokens[index + 1].text == b"("
    before = [token.upper for token in tokens[max(0, index - 2) : index]]
    if called or before[-1:] == [b"ENGINE"] or before == [b"ENGINE", b"="]:
        raise _denied(f"{name}()", "load data from outside by INSERT")


def _denied(what: str, fix: str) -> StoreRefusal:
    return StoreRefusal(497, "ACCESS_DENIED", f"{what} is not available in this store; {fix}")
