"""What happened: deploys, alerts and actions, as marks on charts and as lists.

This file refuses to explain: reasons come from the rows, as the one who acted wrote them.
"""

from __future__ import annotations

from redline.queries.ranges import Query, TimeRange

_WITHIN = """ts >= fromUnixTimestamp64Micro({start_us:Int64}, 'UTC')
      AND ts < fromUnixTimestamp64Micro({end_us:Int64}, 'UTC')"""


def marks(within: TimeRange, limit: int = 500) -> Query:
    """The instants worth a line on a chart, oldest first; the newest ``limit`` of them.

    t_us, kind (deploy, firing, resolved, action), name (version, rule or action kind), target
    (model, or the alert's severity), detail (words; of an alert its reason code), ref (incident,
    or ''), value and threshold (of alerts).
    """
    sql = f"""
SELECT * FROM (SELECT * FROM (
    SELECT toUnixTimestamp64Micro(ts) AS t_us, 'deploy' AS kind,
        concat(toString(action), ' ', toString(version)) AS name, toString(model) AS target,
        arrayStringConcat(arrayFilter(part -> part != '', [
            if(isNull(weight), '',
                concat(toString(round(assumeNotNull(weight) * 100)), ' % of traffic')),
            toString(region), if(who = '', '', concat('by ', who)), detail]), ', ') AS detail,
        '' AS ref, CAST(NULL, 'Nullable(Float64)') AS value,
        CAST(NULL, 'Nullable(Float64)') AS threshold
    FROM deploys FINAL
    WHERE {_WITHIN}
    UNION ALL
    SELECT toUnixTimestamp64Micro(ts), toString(to_state), toString(rule), toString(severity),
        reason, incident_id, alerts.value, alerts.threshold
    FROM alerts FINAL
    WHERE {_WITHIN} AND to_state IN ('firing', 'resolved') AND from_state != to_state
    UNION ALL
    SELECT toUnixTimestamp64Micro(ts), 'action', toString(kind), toString(target),
        reason, incident_id, NULL, NULL
    FROM actions FINAL
    WHERE {_WITHIN} AND status = 'delivered'
    ) ORDER BY t_us DESC, kind, name
    LIMIT {{row_limit:UInt32}}
)
ORDER BY t_us, kind, name"""  # noqa: S608  constants of this file; values are bound
    return Query(sql, within.parameters_us | {"row_limit": limit})


def alerts(within: TimeRange, limit: int = 50) -> Query:
    """A row per alert that fired and moved within the range; open ones first, then newest first.

    incident_id, fingerprint, rule, severity, labels (map), state (the last one), breached_us,
    started_us (when it began to fire, also before the range), ended_us (resolved; NULL while it
    is open), value and threshold (when it fired), peak_value, last_value, reason (of the firing),
    last_reason. Reasons are the codes that alerting writes.
    """
    sql = f"""
SELECT
    incident_id,
    fingerprint,
    any(alerts.rule) AS rule,
    argMax(alerts.severity, ts) AS severity,
    argMax(alerts.labels, ts) AS labels,
    argMax(to_state, ts) AS state,
    toUnixTimestamp64Micro(minOrNull(breached_at)) AS breached_us,
    toUnixTimestamp64Micro(coalesce(minOrNull(started_at), minIfOrNull(ts, to_state = 'firing')))
        AS started_us,
    if(state IN ('resolved', 'inactive'),
        toUnixTimestamp64Micro(maxIfOrNull(ts, to_state IN ('resolved', 'inactive'))), NULL)
        AS ended_us,
    argMinIf(alerts.value, ts, to_state = 'firing') AS value,
    argMax(alerts.threshold, ts) AS threshold,
    maxOrNull(alerts.value) AS peak_value,
    argMax(alerts.value, ts) AS last_value,
    argMinIf(alerts.reason, ts, to_state = 'firing') AS reason,
    argMax(alerts.reason, ts) AS last_reason
FROM alerts FINAL
WHERE {_WITHIN}
GROUP BY incident_id, fingerprint
HAVING isNotNull(started_us)
ORDER BY isNull(ended_us) DESC, started_us DESC, fingerprint
LIMIT {{row_limit:UInt32}}"""  # noqa: S608
    return Query(sql, within.parameters_us | {"row_limit": limit})


def actions(within: TimeRange, limit: int = 50) -> Query:
    """A row per action asked for within the range, newest first.

    action_id, incident_id, kind, mode, target, from_state, to_state, reason, status (the last
    one), proposed_us, last_us, delivered_us (NULL if never), attempts, http_status,
    signature_verified (as the receiver said; NULL if it did not), detail (the receiver's words).
    """
    sql = f"""
SELECT
    action_id,
    any(actions.incident_id) AS incident_id,
    any(actions.kind) AS kind,
    argMax(actions.mode, ts) AS mode,
    any(actions.target) AS target,
    any(actions.from_state) AS from_state,
    any(actions.to_state) AS to_state,
    argMin(actions.reason, ts) AS reason,
    argMax(actions.status, (ts, src_offset)) AS status,
    toUnixTimestamp64Micro(min(ts)) AS proposed_us,
    toUnixTimestamp64Micro(max(ts)) AS last_us,
    toUnixTimestamp64Micro(minIfOrNull(ts, actions.status = 'delivered')) AS delivered_us,
    max(attempt) AS attempts,
    argMax(actions.http_status, ts) AS http_status,
    argMax(actions.signature_verified, ts) AS signature_verified,
    argMax(actions.detail, (ts, src_offset)) AS detail
FROM actions FINAL
WHERE {_WITHIN}
GROUP BY action_id
ORDER BY proposed_us DESC, action_id
LIMIT {{row_limit:UInt32}}"""  # noqa: S608
    return Query(sql, within.parameters_us | {"row_limit": limit})
