#!/usr/bin/env bash
# The start command, on App Service ("exec bash startup.sh") and in the image: migrate, then become the server.
# It has to be exec'ed and it ends in exec: otherwise the platform's shell stays process 1 and no SIGTERM ever arrives.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

export PORT="${PORT:-8000}"
export PYTHONUNBUFFERED=1

# glibc keeps freed memory: in up to eight arenas per core, and below thresholds that grow as the program runs. These
# bound what it keeps, and have to be in the environment before Python starts. The same numbers are in b1/plan.py.
export MALLOC_ARENA_MAX="${MALLOC_ARENA_MAX:-2}"
export MALLOC_TRIM_THRESHOLD_="${MALLOC_TRIM_THRESHOLD_:-131072}"
export MALLOC_MMAP_THRESHOLD_="${MALLOC_MMAP_THRESHOLD_:-131072}"

# A core file would be as large as the process and hold every secret of it.
ulimit -c 0

# In the background, because bash does not run a trap before its foreground command has ended, and process 1 has no
# default handlers: without this a stop during the migration would wait for the platform's SIGKILL.
python -m b1 migrate &
migration=$!
trap 'kill -TERM "$migration" 2>/dev/null; exit 143' TERM INT
wait "$migration"
trap - TERM INT

exec python -m b1 run "$@"
