#!/usr/bin/env bash
# The browser tests against the real server: starts it on a temporary folder with tokens of its
# own, feeds it an audience, tests, and stops everything. Fails when a test fails.
#   dashboard/web/e2e/run.sh [words of a test's name]
# E2E_BINARY names another binary than the debug build.
set -euo pipefail
cd "$(dirname "$0")/.."

binary=${E2E_BINARY:-${CARGO_TARGET_DIR:-../../target}/debug/nilometer}
[ -x "$binary" ] || { echo "$binary is not there: cargo build --bin nilometer" >&2; exit 1; }

folder=$(mktemp -d)
processes=()
stop() {
  local process
  for process in "${processes[@]}"; do kill "$process" 2>/dev/null || true; done
  for process in "${processes[@]}"; do wait "$process" 2>/dev/null || true; done
  rm -rf "$folder"
}
trap stop EXIT

# The server refuses settings that it does not know.
browser=${NILOMETER_E2E_BROWSER:-/usr/bin/chromium}
for name in $(compgen -e | grep '^NILOMETER_'); do unset "$name"; done
export NILOMETER_WRITE_KEY="write-$RANDOM$RANDOM$RANDOM-for-the-browser-tests"
# The admin token is made by the server, so that there is a sign-in address, too.
NILOMETER_READ_TOKEN="read-$RANDOM$RANDOM$RANDOM-for-the-browser-tests" \
  "$binary" serve --data-dir "$folder/data" --listen 127.0.0.1:0 >"$folder/stdout" 2>"$folder/stderr" &
server=$!
processes+=("$server")

first_start=$folder/data/keys/first-start.txt
address=""
for _ in $(seq 150); do
  address=$(sed -n 's|^The dashboard, signed in: \(.*\)$|\1|p' "$first_start" 2>/dev/null || true)
  [ -n "$address" ] && break
  kill -0 "$server" 2>/dev/null || { cat "$folder/stdout" "$folder/stderr" >&2; exit 1; }
  sleep 0.2
done
[ -n "$address" ] || { echo "the server did not start within 30 s" >&2; cat "$folder/stderr" >&2; exit 1; }
url=${address%%/#*}
token=$(awk '$1 == "admin" { print $2 }' "$first_start")

# The last hour and a half, with repeated and refused events; then a trickle, so that numbers move.
"$binary" generate --url "$url" --events 40000 --rate 0 --users 5000 --late 0.5 --duplicates 0.02 \
  --invalid 0.002 --body-bytes 65536 >"$folder/tally" 2>"$folder/generate.log"
"$binary" generate --url "$url" --rate 15 --users 5000 --seed 2 --seconds 600 >/dev/null 2>"$folder/trickle.log" &
processes+=("$!")

status=0
NILOMETER_E2E_URL=$url NILOMETER_E2E_TOKEN=$token NILOMETER_E2E_WRITE_KEY=$NILOMETER_WRITE_KEY \
  NILOMETER_E2E_CODE=${address##*#code=} NILOMETER_E2E_BROWSER=$browser node e2e/run.mjs "$@" || status=$?
if ! kill -0 "$server" 2>/dev/null; then
  echo "the server ended by itself" >&2
  status=1
fi
if [ "$status" -ne 0 ]; then
  echo "── the server's log" >&2
  tail -n 40 "$folder/stderr" >&2
fi
exit "$status"
