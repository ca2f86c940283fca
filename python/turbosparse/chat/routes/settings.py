"""Settings of the application, and presets."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.routing import Route

from ...errors import ArgumentError
from ..service import Service
from .json import body, key, route, take, thread

KEYS = {"theme": str, "defaults": dict, "sidebar": bool, "last_conversation": (int, type(None)), "panel": bool}


def routes(service: Service) -> list[Route]:
    """See the module."""
    store = service.store

    async def change(request: Request) -> None:
        values = await body(request)
        unknown = sorted(values.keys() - KEYS.keys())
        if unknown:
            raise ArgumentError(f"{unknown[0]} is no setting", where=unknown[0], expected=", ".join(KEYS))
        for name in values:
            await thread(store.set_setting, name, take(values, name, KEYS[name]))  # type: ignore[arg-type]

    async def save_preset(request: Request) -> Any:
        values = await body(request)
        name = take(values, "name", str).strip()
        if not name:
            raise ArgumentError("a preset needs a name", where="name", expected="text", found="none")
        await thread(
            store.save_preset, name, take(values, "system_prompt", str, ""), take(values, "settings", dict, {})
        )
        return await thread(store.presets)

    async def delete_preset(request: Request) -> Any:
        await thread(store.delete_preset, key(request))
        return await thread(store.presets)

    return [
        route("/settings", change, "PUT"),
        route("/presets", save_preset, "POST"),
        route("/presets/{id:int}", delete_preset, "DELETE"),
    ]
