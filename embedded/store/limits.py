"""Every bound of the store in one place, and the engine's own configuration made from them.

This file refuses to read settings or the environment.
"""

from __future__ import annotations

from dataclasses import dataclass

_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds that keep one store small on a laptop. A query may raise its own by settings."""

    body_bytes_max: int = 256 * _MIB  # one request's body, compressed or not
    running_queries_max: int = 8
    queued_queries_max: int = 64  # behind these, 503
    queue_wait_s: float = 30.0
    sessions_max: int = 128
    shutdown_grace_s: int = 2  # for answers on their way
    drain_s: float = 0.5  # for queries whose client has gone

    result_rows_max: int = 1_000_000
    result_bytes_max: int = 128 * _MIB
    query_memory_bytes_max: int = 768 * _MIB
    query_time_max_s: int = 120
    engine_memory_bytes_max: int = 1536 * _MIB


def default_query_settings(limits: Limits) -> dict[str, str]:
    """Settings of every query, unless the request says otherwise.

    The insert settings have different defaults between server versions; here they are the ones
    under which a repeated token adds nothing, to the table and to the views behind it.
    """
    return {
        "max_result_rows": str(limits.result_rows_max),
        "max_result_bytes": str(limits.result_bytes_max),
        "max_memory_usage": str(limits.query_memory_bytes_max),
        "max_execution_time": str(limits.query_time_max_s),
        "async_insert": "0",
        "insert_deduplicate": "1",
        "deduplicate_blocks_in_dependent_materialized_views": "1",
        "allow_introspection_functions": "0",
    }


def engine_config_xml(limits: Limits, *, fsync: bool) -> str:
    """The engine's configuration file: small caches, few threads, no logs of its own.

    ``fsync`` makes an acknowledged insert survive a power cut and not only a killed process; it
    costs about 6 ms an insert.
    """
    durable = "<fsync_after_insert>1</fsync_after_insert>" if fsync else ""
    durable += "<fsync_part_directory>1</fsync_part_directory>" if fsync else ""
    values = {
        "max_server_memory_usage": limits.engine_memory_bytes_max,
        "mark_cache_size": 32 * _MIB,
        "primary_index_cache_size": 32 * _MIB,
        "index_mark_cache_size": 8 * _MIB,
        "uncompressed_cache_size": 0,
        "index_uncompressed_cache_size": 0,
        "query_condition_cache_size": 8 * _MIB,
        "compiled_expression_cache_size": 16 * _MIB,
        "mmap_cache_size": 128,
        "background_pool_size": 2,
        "background_merges_mutations_concurrency_ratio": 2,
        "background_schedule_pool_size": 4,
        "background_schedule_pool_initial_size": 2,
        "background_common_pool_size": 2,
        "background_move_pool_size": 1,
        "background_fetches_pool_size": 1,
        "max_thread_pool_size": 256,
        "max_thread_pool_free_size": 8,
    }
    body = "".join(f"<{name}>{value}</{name}>" for name, value in values.items())
    return (
        "<clickhouse><logger><level>none</level><console>0</console></logger>"
        f"{body}<merge_tree>{durable}<old_parts_lifetime>60</old_parts_lifetime></merge_tree>"
        "</clickhouse>\n"
    )
