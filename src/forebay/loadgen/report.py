"""A report as one HTML page: tables and plots, no script, nothing from elsewhere, so that it opens offline. Pure."""

from collections.abc import Iterable, Sequence
from html import escape

from forebay import __version__
from forebay.loadgen.figures import Measured, Sample, Spread, Summary
from forebay.loadgen.outcome import Outcome
from forebay.loadgen.plots import Points, Series, plot
from forebay.loadgen.sweep import Trial
from forebay.loadgen.words import COLUMNS, NAMES, cells, lines, proposal_lines, verdicts

BINS = 60
STYLE = """
:root{color-scheme:light dark;--ink:#1c2430;--soft:#64748b;--line:#d8dee8;--paper:#fff;
--a:#2563eb;--b:#d97706;--c:#059669}
@media (prefers-color-scheme:dark){:root{--ink:#e5eaf2;--soft:#94a3b8;--line:#334155;--paper:#0f172a;--a:#60a5fa;
--b:#fbbf24;--c:#34d399}}
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);
max-width:980px;margin:2rem auto;padding:0 1rem}
h1{font-size:1.4rem;margin-bottom:0}h2{font-size:1.1rem;margin-top:2rem}.soft{color:var(--soft)}
.warning{border-left:4px solid var(--b);padding-left:.7rem}
table{border-collapse:collapse;font-variant-numeric:tabular-nums}
th,td{padding:.25rem .7rem;border-bottom:1px solid var(--line)}.wide{overflow-x:auto}
th,td{text-align:right}td:first-child,th:first-child,.text{text-align:left}td.text{min-width:13rem}pre{overflow:auto}
.plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(380px,100%),1fr));gap:1rem;margin-top:1.5rem}svg{width:100%}
.title{font-weight:600;font-size:13px;fill:var(--ink)}.label,.tick{font-size:11px;fill:var(--soft)}
.grid{stroke:var(--line)}.limit{stroke:var(--ink);stroke-dasharray:5 4}
polyline{fill:none;stroke-width:1.8}polyline.s0{stroke:var(--a)}polyline.s1{stroke:var(--b)}polyline.s2{stroke:var(--c)}
circle.s0{fill:var(--a)}circle.s1{fill:var(--b)}circle.s2{fill:var(--c)}
"""
SHORT = {"ttft_s": "TTFT", "itl_s": "ITL", "tpot_s": "TPOT", "e2e_s": "E2E"}


def as_html(outcome: Outcome) -> str:
    """The whole page."""
    title = f"forebay bench {outcome.kind}"
    head = f"{outcome.url}, model {outcome.model}, {outcome.started_at}, Forebay {__version__}"
    parts = [f"<h1>{escape(title)}</h1><p class=soft>{escape(head)}</p>"]
    if outcome.stopped:
        parts.append("<p class=warning>Interrupted: this is what was done until then.</p>")
    parts += [f"<p class=warning>{escape(warning)}</p>" for warning in outcome.warnings]
    if outcome.trials:
        parts += [f"<h2>Rates</h2>{_trials_table(outcome.trials)}", _plots(_trial_plots(outcome))]
        parts.append("<p class=soft>Dashed lines are the objectives.</p>")
    if outcome.proposal is not None:
        parts.append(f"<h2>What to set</h2><pre>{escape(chr(10).join(proposal_lines(outcome.proposal)).strip())}</pre>")
    if outcome.summary is not None and outcome.run is not None:
        parts.append("<h2>At the highest rate that meets the objectives</h2>" if outcome.trials else "<h2>Figures</h2>")
        parts += [_summary(outcome.summary), _plots(_run_plots(outcome.run))]
    parts.append(f"<h2>Options</h2>{_options(outcome)}")
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    meta = f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{policy}">'
    view = '<meta name="viewport" content="width=device-width,initial-scale=1">'
    page = f"<head>{meta}{view}<title>{escape(title)}</title><style>{STYLE}</style></head>"
    return f'<!doctype html><html lang="en">{page}<body>{"".join(parts)}</body></html>\n'


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]], text: Sequence[int] = ()) -> str:
    head = "".join(f"<th{' class=text' if n in text else ''}>{escape(c)}</th>" for n, c in enumerate(columns))
    body = "".join(
        "<tr>"
        + "".join(f"<td{' class=text' if n in text else ''}>{escape(c)}</td>" for n, c in enumerate(row))
        + "</tr>"
        for row in rows
    )
    return f"<div class=wide><table><tr>{head}</tr>{body}</table></div>"


def _summary(summary: Summary) -> str:
    told = "".join(f"<li>{escape(line.strip())}</li>" for line in lines(summary))
    rows = [[name, *cells(getattr(summary, field))] for field, name in NAMES.items()]
    return f"<ul>{told}</ul>{_table(['milliseconds', *COLUMNS], rows)}"


def _trials_table(trials: Sequence[Trial]) -> str:
    columns, rows = verdicts(trials)
    return _table(columns, rows, (len(columns) - 1,))


def _options(outcome: Outcome) -> str:
    rows = [[name, str(value)] for name, value in outcome.options.items() if value not in (None, "")]
    return _table(["option", "value"], rows, (1,))


def _plots(drawn: Iterable[str]) -> str:
    return f"<div class=plots>{''.join(drawn)}</div>"


def _trial_plots(outcome: Outcome) -> list[str]:
    trials, slo = sorted(outcome.trials, key=lambda one: one.rate), outcome.slo
    drawn = []
    for field, name in SHORT.items():
        found: list[tuple[float, Spread]] = [
            (trial.rate, one) for trial in trials if (one := getattr(trial.summary, field)) is not None
        ]
        limit = getattr(slo, field.removesuffix("_s"), None)
        wanted = Series([(rate, one.median * 1000) for rate, one in found], "median")
        high = Series([(rate, one.p95 * 1000) for rate, one in found], "p95")
        drawn.append(
            plot(f"{name} by rate", "requests/s", "ms", wanted, high, limit=limit * 1000 if limit is not None else None)
        )
    shares = Series([(trial.rate, (trial.summary.attainment or 0.0) * 100) for trial in trials])
    wanted_share = outcome.options.get("attainment")
    limit = wanted_share * 100 if wanted_share is not None else None
    return [*drawn, plot("Requests within the objectives", "requests/s", "%", shares, limit=limit)]


def _run_plots(run: Measured) -> list[str]:
    done = [sample for sample in run.samples if sample.failure is None]
    values = {
        "TTFT": sorted(one.ttft for one in done),
        "ITL": sorted(gap for one in done for gap in one.gaps),
        "TPOT": sorted(tpot for one in done if (tpot := one.tpot) is not None),
        "E2E": sorted(one.e2e for one in done),
    }
    drawn = [plot(f"{name}: share below", "ms", "%", Series(shares(ordered))) for name, ordered in values.items()]
    first = Series([(one.sent - run.started, one.ttft * 1000) for one in done], dots=True)
    drawn.append(plot("TTFT by the time of sending", "s", "ms", first))
    drawn.append(plot("Requests under way", "s", "requests", Series(under_way(run))))
    drawn.append(plot("Output tokens", "s", "tokens/s", Series(token_rates(run))))
    return drawn


def shares(ordered: Sequence[float]) -> Points:
    """How many percent of the values are below each, in milliseconds; the last half percent is left out."""
    kept = ordered[: max(round(len(ordered) * 0.995), 1)] if ordered else ()
    return [(value * 1000, (number + 1) * 100 / len(ordered)) for number, value in enumerate(kept)]


def under_way(run: Measured) -> Points:
    """How many requests had been sent and had not ended, over time."""
    changes = sorted(
        [(one.sent - run.started, 1) for one in run.samples] + [(one.ended - run.started, -1) for one in run.samples]
    )
    points, count = [], 0
    for time, change in changes:
        points += [(time, float(count)), (time, float(count + change))]
        count += change
    return points


def token_rates(run: Measured) -> Points:
    """Tokens per second, in sixty parts of the run. Events stand for tokens, as `usage` does not say when they came."""
    width = max(run.ended - run.started, 1e-9) / BINS
    counts = [0.0] * BINS
    for sample in run.samples:
        if sample.failure is None and sample.events:
            _add(counts, sample, run.started, width)
    return [((number + 0.5) * width, count / width) for number, count in enumerate(counts)]


def _add(counts: list[float], sample: Sample, started: float, width: float) -> None:
    share = sample.output_tokens / sample.events
    time = sample.first - started
    for gap in (0.0, *sample.gaps):
        time += gap
        counts[min(int(time / width), BINS - 1)] += share
