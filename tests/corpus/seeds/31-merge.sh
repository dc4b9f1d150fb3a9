# by: owner
# exit: 0
# prints: "rule":"github.blocked-pattern"
# prints: 403
# nothing arrives: /pulls/1/merge
curl -sS -w '\n%{http_code}\n' -X PUT https://api.github.com/repos/owner/repo1/pulls/1/merge
