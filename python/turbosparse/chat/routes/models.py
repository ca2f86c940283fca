"""The model picker: what there is, what it would need, opening and converting."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from starlette.requests import Request
from starlette.routing import Route

from .. import catalogue
from ..service import Service
from .json import body, route, take, thread


def routes(service: Service) -> list[Route]:
    """See the module."""
    store = service.store

    async def listed(_: Request) -> Any:
        return {"models": await thread(catalogue.models, store), "model": service.model()}

    async def status(_: Request) -> Any:
        return service.model()

    async def load(request: Request) -> Any:
        values = await body(request)
        service.loading.load(take(values, "path", str), take(values, "options", dict, None))
        return service.model()

    async def unload(_: Request) -> Any:
        await service.engine.unload()
        return service.model()

    async def plan(request: Request) -> Any:
        """Memory that a file would need, per pool, and what would make it fit."""
        values = await body(request)
        file = await thread(catalogue.resolve, take(values, "path", str))
        return asdict(await service.engine.plan(file, service.loading.options(take(values, "options", dict, {}))))

    async def folder(request: Request) -> Any:
        return await thread(catalogue.listing, store, request.query_params.get("path"))

    async def locate(request: Request) -> Any:
        values = await body(request)
        size = take(values, "size", (int, type(None)), None)
        return {"path": await thread(catalogue.locate, store, take(values, "name", str), size)}

    return [
        route("/models", listed),
        route("/models/status", status),
        route("/models/load", load, "POST"),
        route("/models/unload", unload, "POST"),
        route("/models/plan", plan, "POST"),
        route("/models/folder", folder),
        route("/models/locate", locate, "POST"),
    ]
