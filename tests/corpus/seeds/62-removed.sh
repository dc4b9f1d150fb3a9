# by: owner
# exit: 0
# prints: "rule":"identity.unknown"
# prints: 403
# nothing arrives: /repos/owner/repo1/commits
curl -sS -w '\n%{http_code}\n' https://api.github.com/repos/owner/repo1/commits
