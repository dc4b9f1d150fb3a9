# by: stranger
# exit: not 0
# prints: identity.unknown
git clone https://github.com/owner/repo1.git
