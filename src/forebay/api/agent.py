"""The engine agent's own pages: health, readiness, metrics. The engine itself is asked directly, on its own port."""

from fastapi import FastAPI

from forebay import __version__
from forebay.api import health


def make_app(agent: health.Role) -> FastAPI:
    """The application over one agent."""
    app = FastAPI(title="Forebay engine agent", version=__version__, openapi_url=None)
    app.state.role = agent
    app.include_router(health.router)
    app.include_router(health.metrics_router)
    return app
