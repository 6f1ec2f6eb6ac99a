"""What the engines themselves measure, of all replicas on one page."""

from fastapi import APIRouter, Request
from fastapi.responses import Response

from forebay.gateway.engine_metrics import EngineMetrics

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
router = APIRouter(tags=["metrics"])


@router.get("/metrics/engines", summary="The engines' own metrics", response_class=Response)
async def engine_metrics(request: Request) -> Response:
    """The `vllm:` metrics of every replica, in Prometheus's text format, each with a label `replica`."""
    metrics: EngineMetrics = request.app.state.gateway.engine_metrics
    return Response(await metrics.text(), media_type=CONTENT_TYPE)
