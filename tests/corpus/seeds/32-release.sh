# by: owner
# exit: 0
# prints: "rule":"github.blocked-pattern"
# prints: 403
# nothing arrives: repo1/releases
curl -sS -w '\n%{http_code}\n' -X POST https://api.github.com/repos/owner/repo1/releases -d '{"tag_name":"v1"}'
