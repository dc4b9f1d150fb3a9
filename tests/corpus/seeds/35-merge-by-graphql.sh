# by: owner
# exit: 0
# prints: "stage":"github"
# prints: 403
# nothing arrives: POST api.github.com/graphql
curl -sS -w '\n%{http_code}\n' -X POST https://api.github.com/graphql -H 'Content-Type: application/json' -d '{"query":"mutation { mergePullRequest(input: {pullRequestId: \"PR_kwDOABCD1234\"}) { pullRequest { merged } } }"}'
