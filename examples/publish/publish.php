<?php
// Publishes events that Headwater keeps, with phpredis. Look here for calling the function from PHP.
//
// Run: php publish.php [CHANNEL]

/** Publishes an event and returns its id. Options: event, id, retry, key, end. */
function publish(Redis $client, string $channel, string $data, array $options = []): ?string
{
    $pairs = [];
    foreach ($options as $name => $value) {
        array_push($pairs, $name, (string) $value);
    }
    $client->clearLastError();
    $id = $client->rawCommand('FCALL', 'headwater_publish', '1', 'headwater:{0}', $channel, $data, ...$pairs);
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
// The same key again gives the same id, and publishes nothing: safe to repeat after an error.
$order = ['event' => 'order', 'key' => 'order-4711'];
echo publish($client, $channel, '{"total": 59.9}', $order), "\n";
echo publish($client, $channel, '{"total": 59.9}', $order), "\n";
try {
    publish($client, $channel, '', ['id' => 'not an id']);
} catch (RuntimeException $error) {
    echo $error->getMessage(), "\n";
}
