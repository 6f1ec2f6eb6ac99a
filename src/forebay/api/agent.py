"""The engine agent's own pages: health, readiness, metrics. The engine itself is asked directly, on its own port.

They ask for no key: the agent's port is for those who watch, as the engine's own /metrics are.
"""

from fastapi import FastAPI

from forebay import __version__
from forebay.api import health

PAGES = (health.router, health.metrics_router)


def make_app(agent: health.Role) -> FastAPI:
    """The application over one agent."""
    app = FastAPI(title="Forebay engine agent", version=__version__, openapi_url=None)
    app.state.role = agent
    app.state.sees = health.everybody
    for router in PAGES:
        app.include_router(router)
    return app
