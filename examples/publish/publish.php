<?php
// Publishes durable events with phpredis. Look here for how to call the function from PHP.
//
// Run: php publish.php [CHANNEL]

/** Publishes an event and returns its id. Options: event, id, retry, key, end. */
function publish(Redis $client, string $channel, string $data, array $options = []): ?string
{
    $command = ['FCALL', 'headwater_publish', '1', 'headwater:{0}', $channel, $data];
    foreach ($options as $name => $value) {
        array_push($command, $name, (string) $value);
    }
    $client->clearLastError();
    $id = $client->rawCommand(...$command);
    if ($client->getLastError() !== null) {
        throw new RuntimeException($client->getLastError());
    }
    return $id === false ? null : $id;
}

$url = parse_url(getenv('REDIS_URL') ?: 'redis://127.0.0.1:6379');
$client = new Redis();
$client->connect($url['host'], $url['port'] ?? 6379);
$channel = $argv[1] ?? 'news';

echo publish($client, $channel, 'hello'), "\n";
// The same key returns the same id and publishes nothing: safe to repeat after an error.
$order = ['event' => 'order', 'key' => 'order-4711'];
echo publish($client, $channel, '{"total": 59.9}', $order), "\n";
echo publish($client, $channel, '{"total": 59.9}', $order), "\n";
try {
    publish($client, $channel, '', ['id' => 'not an id']);
} catch (RuntimeException $error) {
    echo $error->getMessage(), "\n";
}
