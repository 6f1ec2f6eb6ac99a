"""`deploy/grafana/dashboards/*.json`: the dashboards as Grafana's files have them."""

import json
from collections.abc import Iterator
from typing import Any

from forebay.monitoring.panels import Dashboard, Panel, Row, Steps, Target, Variable

COLUMNS = 24
SCHEMA_VERSION = 39  # Grafana 11's; newer ones convert it
TAG = "forebay"
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
Json = dict[str, Any]


def render(board: Dashboard) -> str:
    made = {
        "__generated": "from the code: `make generate`",
        "uid": f"forebay-{board.name}",
        "title": board.title,
        "description": board.description,
        "tags": [TAG],
        "schemaVersion": SCHEMA_VERSION,
        "version": 1,
        "editable": False,
        "graphTooltip": 1,
        "refresh": "5s",
        "time": {"from": "now-15m", "to": "now"},
        "timezone": "browser",
        "links": [_links()],
        "templating": {"list": [_datasource(), *map(_variable, board.variables)]},
        "annotations": {"list": [_alerts()]},
        "panels": list(_panels(board.rows)),
    }
    return json.dumps(made, indent=2, ensure_ascii=False) + "\n"


class Skyline:
    """Where the next panel goes: as high as it can, then as far left."""

    def __init__(self) -> None:
        self._tops = [0] * COLUMNS

    def line(self) -> Json:
        """A place for a row's title, below all there is."""
        return self._take(0, COLUMNS, 1)

    def place(self, width: int, height: int) -> Json:
        starts = range(COLUMNS - width + 1)
        return self._take(min(starts, key=lambda x: max(self._tops[x : x + width])), width, height)

    def _take(self, x: int, width: int, height: int) -> Json:
        y = max(self._tops[x : x + width])
        self._tops[x : x + width] = [y + height] * width
        return {"x": x, "y": y, "w": width, "h": height}


def _panels(rows: tuple[Row, ...]) -> Iterator[Json]:
    skyline, number = Skyline(), 0
    for row in rows:
        number += 1
        yield {
            "id": number,
            "type": "row",
            "title": row.title,
            "collapsed": False,
            "gridPos": skyline.line(),
            "panels": [],
        }
        for panel in row.panels:
            number += 1
            yield _panel(panel, number, skyline.place(panel.width, panel.height))


def _panel(panel: Panel, number: int, place: Json) -> Json:
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": DATASOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": _defaults(panel), "overrides": []},
        "options": _OPTIONS[panel.kind],
        "targets": [_target(panel, target, chr(ord("A") + count)) for count, target in enumerate(panel.targets)],
        **({"transformations": _TIDY} if panel.kind == "table" else {}),
    }


def _target(panel: Panel, target: Target, name: str) -> Json:
    instant = panel.kind in ("stat", "table")
    return {
        "refId": name,
        "datasource": DATASOURCE,
        "expr": target.expr,
        "legendFormat": target.legend or "all",
        "instant": instant,
        "range": not instant,
        **({"format": "table"} if panel.kind == "table" else {}),
    }


def _defaults(panel: Panel) -> Json:
    coloured = panel.kind != "timeseries" and panel.steps
    return {
        "unit": panel.unit,
        "noValue": "—",
        "color": {"mode": "thresholds" if coloured else "palette-classic"},
        "thresholds": {"mode": "absolute", "steps": _steps(panel.steps)},
        **({"max": panel.top} if panel.top is not None else {}),
        **({"min": 0, "custom": _drawing(panel)} if panel.kind == "timeseries" else {}),
    }


def _drawing(panel: Panel) -> Json:
    return {
        "drawStyle": "line",
        "lineWidth": 1,
        "fillOpacity": 30 if panel.stacked else 5,
        "showPoints": "never",
        "spanNulls": False,
        "stacking": {"mode": "normal" if panel.stacked else "none", "group": "A"},
        "thresholdsStyle": {"mode": "line" if panel.steps else "off"},
    }


def _steps(steps: Steps) -> list[Json]:
    """The first colour is for everything below the second step."""
    coloured = steps or ((0, "green"),)
    return [{"value": value if count else None, "color": color} for count, (value, color) in enumerate(coloured)]


def _datasource() -> Json:
    return {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus", "hide": 0}


def _variable(variable: Variable) -> Json:
    asked = f"label_values({variable.metric.name}, {variable.label})"
    return {
        "name": variable.name,
        "label": variable.name.capitalize(),
        "type": "query",
        "datasource": DATASOURCE,
        "definition": asked,
        "query": {"query": asked, "refId": "Variable"},
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": ["All"], "value": ["$__all"]},
        "refresh": 2,
        "sort": 1,
    }


def _links() -> Json:
    """From each dashboard to the others."""
    shown = {"title": "Forebay", "type": "dashboards", "tags": [TAG], "asDropdown": False}
    return {**shown, "includeVars": True, "keepTime": True}


def _alerts() -> Json:
    """When alerts fired, as marks on every chart."""
    return {
        "name": "Alerts that fire",
        "datasource": DATASOURCE,
        "enable": True,
        "iconColor": "red",
        "expr": f'ALERTS{{alertstate="firing", service="{TAG}"}}',
        "titleFormat": "{{alertname}}",
    }


_OPTIONS: dict[str, Json] = {
    "timeseries": {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
        "tooltip": {"mode": "multi", "sort": "desc"},
    },
    "stat": {
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "colorMode": "background",
        "graphMode": "none",
        "textMode": "value",
    },
    "table": {"showHeader": True, "cellHeight": "sm"},
    "state-timeline": {
        "mergeValues": True,
        "showValue": "never",
        "rowHeight": 0.8,
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": False},
        "tooltip": {"mode": "single"},
    },
}
_TIDY = [{"id": "organize", "options": {"excludeByName": {"Time": True}, "indexByName": {}, "renameByName": {}}}]
