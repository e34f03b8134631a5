#!/bin/sh
# Redis for Ray's head. What it keeps lies in the container: it survives any restart of either, and goes with `docker compose down`.
# The password goes into a file, where no list of processes shows it.
set -eu
umask 077
settings=$(mktemp)
cat >"$settings" <<SETTINGS
bind * -::*
port 6379
dir /var/lib/redis
save ""
appendonly yes
appendfsync everysec
maxmemory-policy noeviction
requirepass $(cat "${HOGSHEAD_REDIS_PASSWORD_FILE:-/run/secrets/redis-password}")
SETTINGS
exec redis-server "$settings"
