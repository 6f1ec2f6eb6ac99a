"""What operators look at and are woken by, as data: expressions, panels, objectives and alerts over the catalogue.

Nothing here runs in a gateway. `generate/` makes Grafana's dashboards and Prometheus's rules of it.
"""
