"""Redis and Valkey by redis-py: connections, subscriptions, and a server of our own."""
