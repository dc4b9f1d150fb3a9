# by: owner
# exit: 0
# prints: 200
# arrives: GET api.github.com/repos/owner/repo1/pulls
curl -sS -w '\n%{http_code}\n' https://api.github.com/repos/owner/repo1/pulls
