"""The Grafana dashboards: `python k8s/monitoring/dashboards.py` writes dashboards/*.json from what is listed here."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

FOLDER = Path(__file__).parent / "dashboards"
WIDTH, HEIGHT, COLUMNS = 8, 8, 3


class Panel(NamedTuple):
    """A graph: what it is called, its unit in Grafana's words, and legend -> PromQL."""

    title: str
    unit: str
    lines: dict[str, str]
    says: str = ""


STREAM = [
    Panel(
        "Drain time",
        "s",
        {"{{component}} {{lane}}": "streams:drain_seconds"},
        "Seconds until nothing waits any more, with as many processes as there are now.",
    ),
    Panel("Records that wait", "short", {"{{component}} {{lane}}": "streams:lag_records"}),
    Panel("Processes", "short", {"{{component}}": "count by (component) (up == 1)"}),
    Panel(
        "Records finished a second",
        "ops",
        {"{{component}} {{outcome}}": "sum by (component, outcome) (rate(streams_records_total[$__rate_interval]))"},
    ),
    Panel(
        "Tokens a second",
        "short",
        {"{{component}} {{kind}}": "sum by (component, kind) (rate(streams_batch_tokens_total[$__rate_interval]))"},
        "Padding is what the batches cost beside their texts.",
    ),
    Panel(
        "Rows of a batch, mean",
        "short",
        {
            "{{component}}": "sum by (component) (rate(streams_batch_rows_sum[$__rate_interval]))"
            " / sum by (component) (rate(streams_batch_rows_count[$__rate_interval]))"
        },
    ),
    Panel(
        "From fetch to receipt",
        "s",
        {
            f"{{{{component}}}} p{quantile}": f"histogram_quantile(0.{quantile}, sum by (component, le) "
            '(rate(streams_stage_seconds_bucket{step="total"}[$__rate_interval])))'
            for quantile in (50, 99)
        },
    ),
    Panel(
        "Where the time goes, mean",
        "s",
        {
            "{{component}} {{step}}": "sum by (component, step) (rate(streams_stage_seconds_sum[$__rate_interval]))"
            " / sum by (component, step) (rate(streams_stage_seconds_count[$__rate_interval]))"
        },
    ),
    Panel(
        "In the worker, waiting for the model",
        "short",
        {
            "{{component}} {{lane}} records": "sum by (component, lane) (streams_queue_records)",
            "{{component}} {{lane}} tokens": "sum by (component, lane) (streams_queue_tokens)",
        },
    ),
    Panel(
        "Dead letters a second",
        "ops",
        {"{{stage}} {{reason}}": "sum by (stage, reason) (rate(streams_dead_letters_total[$__rate_interval]))"},
    ),
    Panel(
        "Partitions behind the dead-letter brake",
        "short",
        {"{{component}}": "sum by (component) (streams_dead_letter_brake)"},
    ),
    Panel(
        "Commits, assignments, sends repeated a second",
        "ops",
        {
            "{{component}} {{outcome}}": "sum by (component, outcome) (rate(streams_commits_total[$__rate_interval]))",
            "{{component}} assignments": "sum by (component) (rate(streams_rebalances_total[$__rate_interval]))",
            "{{component}} repeated": "sum by (component) (rate(streams_publish_retries_total[$__rate_interval]))",
        },
    ),
    Panel("Memory", "bytes", {"{{component}} {{instance}}": "process_resident_memory_bytes"}),
    Panel(
        "Processors used",
        "short",
        {"{{component}} {{instance}}": "rate(process_cpu_seconds_total[$__rate_interval])"},
    ),
    Panel("Starts in a quarter of an hour", "short", {"{{component}}": "changes(process_start_time_seconds[15m])"}),
]

BRIDGE = [
    Panel(
        "Requests a second",
        "reqps",
        {"{{route}} {{status}}": "sum by (route, status) (rate(streams_http_requests_total[$__rate_interval]))"},
    ),
    Panel(
        "Errors, of all calls",
        "percentunit",
        {"5 minutes": "streams:http_errors:ratio5m", "1 hour": "streams:http_errors:ratio1h"},
        "99.9 % of the calls are promised an answer: 0.1 % is the budget.",
    ),
    Panel("Requests in flight", "short", {"{{instance}}": "streams_http_in_flight"}),
    Panel(
        "Time of an answer",
        "s",
        {
            f"{{{{route}}}} p{quantile}": f"histogram_quantile(0.{quantile}, sum by (route, le) "
            '(rate(streams_http_seconds_bucket{route=~"/v1/.*"}[$__rate_interval])))'
            for quantile in (50, 95, 99)
        },
    ),
    Panel(
        "Where the time goes, p95",
        "s",
        {
            "{{step}}": "histogram_quantile(0.95, sum by (step, le) "
            "(rate(streams_http_step_seconds_bucket[$__rate_interval])))"
        },
    ),
    Panel(
        "Replies a second",
        "ops",
        {
            "{{outcome}}": "sum by (outcome) (rate(streams_replies_total[$__rate_interval]))",
            "dropped: {{reason}}": "sum by (reason) (rate(streams_replies_dropped_total[$__rate_interval]))",
        },
    ),
    Panel(
        "Refused by the worker a second",
        "ops",
        {"{{stage}} {{reason}}": "sum by (stage, reason) (rate(streams_refusals_total[$__rate_interval]))"},
    ),
    Panel(
        "Cache look-ups a second",
        "ops",
        {
            "{{layer}} {{outcome}}": "sum by (layer, outcome) "
            '(rate(streams_cache_lookups_total{component="bridge"}[$__rate_interval]))'
        },
    ),
    Panel("Memory", "bytes", {"{{instance}}": 'process_resident_memory_bytes{component="bridge"}'}),
]

MODELS = [
    Panel(
        "Processes that serve a model",
        "short",
        {
            "{{alias}} {{model}} {{revision}} {{precision}}": (
                "count by (alias, model, revision, precision) (streams_model_info)"
            ),
        },
        "More than one line of an alias for longer than a switch: vectors of two models do not compare.",
    ),
    Panel(
        "Models loaded, and loads that failed",
        "short",
        {"{{model}} {{outcome}}": "sum by (model, outcome) (increase(streams_model_loads_total[$__rate_interval]))"},
        "A model that cannot be loaded changes nothing; it is tried again, and an alert says why.",
    ),
    Panel(
        "Shadows: sentences a second",
        "short",
        {
            "{{model}} {{outcome}}": "sum by (model, outcome) (rate(streams_shadow_records_total[$__rate_interval]))",
            "{{scorer}} {{outcome}}": "sum by (scorer, outcome) (rate(streams_shadow_scores_total[$__rate_interval]))",
        },
        "What a model or scorer would have answered, for nobody to see; skipped: it was too slow for all of it.",
    ),
    Panel(
        "Shadows: seconds a batch, p99",
        "s",
        {
            "{{model}}": (
                "histogram_quantile(0.99, sum by (le, model) (rate(streams_shadow_seconds_bucket[$__rate_interval])))"
            ),
        },
    ),
    Panel(
        "Tokens a second of a busy process",
        "short",
        {"{{component}}": "streams:busy_tokens_per_second"},
        "The best two minutes of the last hour: what `sentence-streams capacity` measures, on these nodes.",
    ),
    Panel(
        "Padding, of all tokens",
        "percentunit",
        {
            "{{component}}": 'sum by (component) (rate(streams_batch_tokens_total{kind="padding"}[$__rate_interval]))'
            " / sum by (component) (rate(streams_batch_tokens_total[$__rate_interval]))"
        },
    ),
    Panel(
        "Time of a batch",
        "s",
        {
            f"{{{{stage}}}} p{quantile}": f"histogram_quantile(0.{quantile}, sum by (stage, le) "
            '(rate(streams_stage_seconds_bucket{step="run"}[$__rate_interval])))'
            for quantile in (50, 99)
        },
    ),
    Panel(
        "Vectors from the cache, of all look-ups",
        "percentunit",
        {
            "{{layer}}": 'sum by (layer) (rate(streams_cache_lookups_total{outcome="hit"}[$__rate_interval]))'
            " / sum by (layer) (rate(streams_cache_lookups_total[$__rate_interval]))"
        },
    ),
    Panel(
        "Cache",
        "bytes",
        {"{{component}} {{instance}}": "streams_cache_bytes"},
    ),
    Panel(
        "Cache writes a second",
        "ops",
        {"{{layer}} {{outcome}}": "sum by (layer, outcome) (rate(streams_cache_writes_total[$__rate_interval]))"},
    ),
    Panel(
        "Distance of scores from their baseline",
        "short",
        {"{{scorer}} {{version}} {{figure}}": "max by (scorer, version, figure) (streams_score_psi)"},
        "Population stability index of the last window: from 0.1 on worth a look, from 0.25 on a fallback answers.",
    ),
    Panel(
        "Share of each label",
        "percentunit",
        {"{{scorer}} {{label}}": "avg by (scorer, label) (streams_score_label_share)"},
    ),
    Panel(
        "Scores that a fallback gave a second",
        "ops",
        {"{{scorer}} {{version}}": "sum by (scorer, version) (rate(streams_scores_replaced_total[$__rate_interval]))"},
    ),
    Panel(
        "Windows of scores an hour",
        "short",
        {"{{scorer}} {{band}}": "sum by (scorer, band) (increase(streams_score_windows_total[1h]))"},
    ),
    Panel(
        "Scorers in quarantine",
        "short",
        {"{{scorer}}": "max by (scorer) (streams_scorer_quarantined)"},
        "Their scores go to sentence.scores.quarantine until a person resumes them.",
    ),
    Panel(
        "Length of scored texts, mean",
        "short",
        {"{{scorer}} tokens": "avg by (scorer) (streams_score_tokens_mean)"},
    ),
    Panel(
        "Scored texts that were cut",
        "percentunit",
        {"{{scorer}}": "avg by (scorer) (streams_score_truncated_share)"},
    ),
]

DASHBOARDS = {"stream": ("Stream", STREAM), "bridge": ("Bridge", BRIDGE), "models": ("Models", MODELS)}


def dashboard(name: str) -> dict[str, Any]:
    """Returns a dashboard as Grafana reads it."""
    title, panels = DASHBOARDS[name]
    return {
        "uid": f"sentence-streams-{name}",
        "title": f"sentence-streams: {title}",
        "tags": ["sentence-streams"],
        "schemaVersion": 39,
        "version": 1,
        "editable": False,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "templating": {
            "list": [{"name": "source", "label": "Prometheus", "type": "datasource", "query": "prometheus"}]
        },
        "panels": [_panel(number, panel) for number, panel in enumerate(panels)],
    }


def _panel(number: int, panel: Panel) -> dict[str, Any]:
    source = {"type": "prometheus", "uid": "${source}"}
    row, column = divmod(number, COLUMNS)
    return {
        "id": number + 1,
        "type": "timeseries",
        "title": panel.title,
        "description": panel.says,
        "datasource": source,
        "gridPos": {"x": column * WIDTH, "y": row * HEIGHT, "w": WIDTH, "h": HEIGHT},
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": [
            {"refId": chr(ord("A") + index), "expr": expression, "legendFormat": legend, "datasource": source}
            for index, (legend, expression) in enumerate(panel.lines.items())
        ],
    }


def files() -> Iterator[tuple[Path, str]]:
    """Yields each dashboard's file and what belongs into it."""
    for name in DASHBOARDS:
        yield FOLDER / f"{name}.json", json.dumps(dashboard(name), indent=2) + "\n"


if __name__ == "__main__":
    for path, text in files():
        path.write_text(text)
