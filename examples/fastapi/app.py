"""An application that publishes to Redis with an injected client; Headwater serves the streams."""

import os
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Body, Depends, FastAPI, Request
from redis.asyncio import Redis


@asynccontextmanager
async def lifespan(app: FastAPI):
    url = os.environ.get("REDIS_URL", "redis://127.0.0.1:6379")
    async with Redis.from_url(url) as app.state.redis:
        yield


async def redis(request: Request) -> Redis:
    return request.app.state.redis


app = FastAPI(lifespan=lifespan)


@app.post("/publish")
async def publish(
    redis: Annotated[Redis, Depends(redis)],
    message: Annotated[str, Body(media_type="text/plain")],
    channel: str = "default",
):
    return {"channel": channel, "headwater_nodes": await redis.publish(channel, message)}
