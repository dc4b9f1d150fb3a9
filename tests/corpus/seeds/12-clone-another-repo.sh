# by: owner
# exit: not 0
# prints: not one of the repositories
# nothing arrives: github.com/owner/private
git clone https://github.com/owner/private.git
