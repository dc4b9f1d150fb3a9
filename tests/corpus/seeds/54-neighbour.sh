# by: neighbour
# exit: 0
# prints: 403
# nothing arrives: /repos/owner/repo1/labels
curl -sS -w '\n%{http_code}\n' https://api.github.com/repos/owner/repo1/labels
