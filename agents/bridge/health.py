"""Health that tells the truth, and metrics, on the bridge's own port; what is served."""

from typing import Any

from fastapi import Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel, Field

from agents.bridge.endpoints import router_of

router = router_of("Health")


class Health(BaseModel):
    """The answer to one question."""

    ok: bool
    why: str = Field(description="Why, or why not.")


NO: dict[int | str, dict[str, Any]] = {503: {"model": Health, "description": "No."}}


@router.get("/health/live", response_model=Health, responses=NO)
async def live(request: Request, response: Response) -> Health:
    """Whether this process should go on: no once what hears the stream has ended."""
    return _answer(response, *request.app.state.bridge.live())


@router.get("/health/ready", response_model=Health, responses=NO)
async def ready(request: Request, response: Response) -> Health:
    """Whether callers should come here: yes while answers come back from the stream, no once it is leaving."""
    return _answer(response, *request.app.state.bridge.ready())


@router.get("/health/startup", response_model=Health, responses=NO)
async def startup(request: Request, response: Response) -> Health:
    """Whether it has started: yes once it hears its replies."""
    return _answer(response, *request.app.state.bridge.started())


@router.get("/metrics", include_in_schema=False)
async def metrics(request: Request) -> Response:
    """Metrics as Prometheus reads them."""
    registry = request.app.state.bridge.metrics.registry
    return Response(generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})


def _answer(response: Response, ok: bool, why: str) -> Health:
    response.status_code = 200 if ok else 503
    return Health(ok=ok, why=why)
