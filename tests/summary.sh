#!/usr/bin/env bash
# tests/summary.sh COMMAND…: runs the command and shows its output at once. At the end the script prints the skipped
# tests with their reasons, the failed tests with the first lines of their panics, and one line: `N passed, N failed`
# (`, N skipped` if any), the sums over all test runs. A log of which only the end is kept thus says what failed.
#
# A test is skipped if cargo reports it as ignored, or if a line of the output starts with `skipped: `. The script fails
# if the command failed, if a test failed, or if no test ran. If the command failed without a failed test (format, lint,
# build), the script counts one failure.
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
    /^test .* \.\.\. FAILED$/ {
        sub(/^test /, ""); sub(/ \.\.\. FAILED$/, "")
        broken[++m] = "failed: " $0
    }
    # The thread has the name of its test. The message follows, on lines of its own.
    /^thread .* panicked at / { broken[++m] = "    " substr($0, 1, 200); message = 3; next }
    /^note: |^$/ { message = 0 }
    message > 0 { broken[++m] = "        " substr($0, 1, 400); message-- }
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
        # A test that passes may panic on purpose, so a run without a failure prints none of them.
        for (i = 1; failed && i <= m; i++) print broken[i]
        printf "%d passed, %d failed", passed, failed
        if (skipped) printf ", %d skipped", skipped
        print ""
        exit failed > 0
    }' "$log"
