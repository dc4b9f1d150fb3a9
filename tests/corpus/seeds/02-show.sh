# by: operator
# exit: 0
# prints: "owner/repo1"
# prints: "auth_mode":"bot"
# prints: "sandbox/*"
curl -sS http://localhost:8081/internal/containers/172.18.0.5
