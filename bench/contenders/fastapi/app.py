"""The pattern "FastAPI, sse-starlette and Redis Pub/Sub" of many applications, with one fix.

Common copies share one Redis subscription between all clients of a channel, so each event reaches
only one of them. Here every client has its own subscription, as the pattern is meant to work.
"""

import os
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Depends, FastAPI, Request
from redis.asyncio import Redis
from sse_starlette.sse import EventSourceResponse


@asynccontextmanager
async def lifespan(app: FastAPI):
    # The default of 100 connections would limit the number of streams.
    url, options = os.environ["REDIS_URL"], {"decode_responses": True, "max_connections": 20_000}
    async with Redis.from_url(url, **options) as app.state.redis:
        yield


async def get_redis(request: Request) -> Redis:
    return request.app.state.redis


app = FastAPI(lifespan=lifespan)


@app.get("/sse/stream")
async def stream(channel: str, redis: Annotated[Redis, Depends(get_redis)]):
    pubsub = redis.pubsub(ignore_subscribe_messages=True)
    # Before the response, so that no event published after its start is missed.
    await pubsub.subscribe(channel)

    async def events():
        try:
            async for message in pubsub.listen():
                yield {"data": message["data"]}
        finally:
            await pubsub.aclose()

    return EventSourceResponse(events(), ping=3600)


@app.post("/sse/publish")
async def publish(channel: str, request: Request, redis: Annotated[Redis, Depends(get_redis)]):
    return {"receivers": await redis.publish(channel, await request.body())}
