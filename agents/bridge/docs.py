"""`/docs`: Swagger without anybody else's server, since many networks reach none; and the OpenAPI document."""

import orjson
from fastapi import FastAPI, Request
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse
from starlette.staticfiles import StaticFiles

ASSETS = "/docs/assets"


def install(app: FastAPI) -> None:
    """Adds the page and its assets, which come from an installed package."""
    app.mount(ASSETS, StaticFiles(packages=[("fastapi_swagger", "resources")]), "swagger")
    app.add_api_route("/docs", _page, include_in_schema=False)


async def _page(request: Request) -> HTMLResponse:
    root = request.scope.get("root_path", "")
    return get_swagger_ui_html(
        openapi_url=f"{root}{request.app.openapi_url}",
        title=request.app.title,
        swagger_js_url=f"{root}{ASSETS}/swagger-ui-bundle.js",
        swagger_css_url=f"{root}{ASSETS}/swagger-ui.css",
        swagger_favicon_url=f"{root}{ASSETS}/favicon-32x32.png",
    )


def document() -> str:
    """Returns the OpenAPI document as it is checked in; needs no settings and connects to nothing."""
    from agents.bridge.app import application

    options = orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE
    return orjson.dumps(application().openapi(), option=options).decode()
