# by: owner
# exit: 0
# prints: "rule":"github.blocked-pattern"
# prints: 403
# nothing arrives: DELETE api.github.com
curl -sS -w '\n%{http_code}\n' -X DELETE https://api.github.com/repos/owner/repo2
