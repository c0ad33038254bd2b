#!/bin/sh
# A container's health check, without Python: starting one takes longer than a busy machine gives a check.
#   CONSORTIA_ALIVE       a file that a loop touches; it must have been touched within the last minute. A launcher hears from its
#                         SuperNode every 5 s, and every 15 s while it works on a message.
#   CONSORTIA_HEALTH_URL  https://HOST[:PORT]/PATH, which must answer 200; CONSORTIA_HEALTH_CA alone is trusted
# What is not set is not asked. It exits with 0 (healthy), 1 (not) or 2 (a setting is wrong).
set -u
if [ -n "${CONSORTIA_ALIVE:-}" ]; then
  [ -n "$(find "$CONSORTIA_ALIVE" -prune -mmin -1 2>/dev/null)" ] || { echo "stands still for a minute or more"; exit 1; }
fi
url=${CONSORTIA_HEALTH_URL:-}
[ -n "$url" ] || exit 0
case $url in
  https://?*/*) ;;
  *) echo "CONSORTIA_HEALTH_URL: wanted https://HOST[:PORT]/PATH, got $url"; exit 2 ;;
esac
[ -r "${CONSORTIA_HEALTH_CA:-}" ] || { echo "CONSORTIA_HEALTH_CA: wanted a certificate's file, got none"; exit 2; }
place=${url#https://}
path=/${place#*/}
place=${place%%/*}
host=${place%:*}
case $place in *:*) ;; *) place=$place:443 ;; esac
# 8 s: less than the 10 s after which the engine calls a check failed. s_client reads until the other side closes.
line=$(printf 'GET %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n' "$path" "$place" \
  | timeout 8 openssl s_client -quiet -connect "$place" -servername "$host" -verify_hostname "$host" \
    -verify_return_error -CAfile "$CONSORTIA_HEALTH_CA" -no-CApath -no-CAstore 2>/dev/null | head -n 1)
case $line in
  "HTTP/1."?" 200"*) exit 0 ;;
  *) echo "no answer 200 from $url"; exit 1 ;;
esac
