"""Publishes durable events with redis-py. Look here for how to call the function from Python.

Run: python publish.py [CHANNEL]
"""

import os
import sys

import redis


def publish(client, channel, data, **options):
    """Publishes an event and returns its id. Options: event, id, retry, key, end."""
    pairs = [part for option in options.items() for part in option]
    return client.fcall("headwater_publish", 1, "headwater:{0}", channel, data, *pairs)


def main():
    url = os.environ.get("REDIS_URL", "redis://127.0.0.1:6379")
    client = redis.Redis.from_url(url, decode_responses=True)
    channel = sys.argv[1] if len(sys.argv) > 1 else "news"

    print(publish(client, channel, "hello"))
    # The same key returns the same id and publishes nothing: safe to repeat after an error.
    print(publish(client, channel, '{"total": 59.9}', event="order", key="order-4711"))
    print(publish(client, channel, '{"total": 59.9}', event="order", key="order-4711"))
    try:
        publish(client, channel, "", id="not an id")
    except redis.ResponseError as error:
        print(error)


main()
