#!/bin/sh
# Publishes durable events with redis-cli. Look here for how to call the function from a shell.
#
# Run: sh publish.sh [CHANNEL]
set -eu

channel=${1:-news}

# Publishes an event and prints its id: DATA [event NAME] [id ID] [retry MS] [key KEY] [end 1].
publish() {
    redis-cli -u "${REDIS_URL:-redis://127.0.0.1:6379}" \
        FCALL headwater_publish 1 'headwater:{0}' "$channel" "$@"
}

publish hello
# The same key returns the same id and publishes nothing: safe to repeat after an error.
publish '{"total": 59.9}' event order key order-4711
publish '{"total": 59.9}' event order key order-4711
publish '' id 'not an id'
