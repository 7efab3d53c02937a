// Publishes durable events with go-redis. Look here for how to call the function from Go.
//
// Run: go run publish.go [CHANNEL]
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/redis/go-redis/v9"
)

// publish publishes an event and returns its id. Options are pairs of a name (event, id, retry,
// key, end) and a value. If the channel retains no events, the error is redis.Nil.
func publish(
	ctx context.Context, client *redis.Client, channel, data string, options ...any,
) (string, error) {
	args := append([]any{channel, data}, options...)
	return client.FCall(ctx, "headwater_publish", []string{"headwater:{0}"}, args...).Text()
}

func main() {
	url, channel := os.Getenv("REDIS_URL"), "news"
	if url == "" {
		url = "redis://127.0.0.1:6379"
	}
	if len(os.Args) > 1 {
		channel = os.Args[1]
	}
	address, err := redis.ParseURL(url)
	if err != nil {
		panic(err)
	}
	ctx, client := context.Background(), redis.NewClient(address)
	defer client.Close()

	fmt.Println(publish(ctx, client, channel, "hello"))
	// The same key returns the same id and publishes nothing: safe to repeat after an error.
	order := []any{"event", "order", "key", "order-4711"}
	fmt.Println(publish(ctx, client, channel, `{"total": 59.9}`, order...))
	fmt.Println(publish(ctx, client, channel, `{"total": 59.9}`, order...))
	fmt.Println(publish(ctx, client, channel, "", "id", "not an id"))
}
