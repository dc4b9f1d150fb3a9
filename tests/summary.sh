#!/usr/bin/env bash
# tests/summary.sh COMMAND…: runs it, shows its output as it comes, and closes with what was skipped, why,
# and one line: `N passed, N failed` (`, N skipped` if any), summed over every cargo test run in it.
#
# Skipped are the tests that cargo reports as ignored, and every line of the output that starts with
# `skipped: `. It never turns a failure into a success: it fails if the command failed, if a test failed, or
# if no test ran. A command that failed though no test did (format, lint, build) counts as one failure.
set -euo pipefail

log=$(mktemp)
trap 'rm -f "$log"' EXIT

status=0
"$@" 2>&1 | tee "$log" || status=$?

awk -v status="$status" '
    /^test .* \.\.\. ignored/ {
        name = reason = $0
        sub(/^test /, "", name); sub(/ \.\.\. ignored.*/, "", name)
        if (!sub(/^.* \.\.\. ignored, /, "", reason)) reason = "runs with make test-full"
        named[++n] = name ": " reason
    }
    /^skipped: / { named[++n] = substr($0, 10); skipped++ }
    /^test result: / {
        for (i = 3; i < NF; i++) {
            if ($(i + 1) == "passed;") passed += $i
            if ($(i + 1) == "failed;") failed += $i
            if ($(i + 1) == "ignored;") skipped += $i
        }
    }
    END {
        if (status != 0 && !failed) failed = 1
        if (!passed && !failed) { print "no test ran"; failed = 1 }
        print ""
        for (i = 1; i <= n; i++) print "skipped: " named[i]
        printf "%d passed, %d failed", passed, failed
        if (skipped) printf ", %d skipped", skipped
        print ""
        exit failed > 0
    }' "$log"
