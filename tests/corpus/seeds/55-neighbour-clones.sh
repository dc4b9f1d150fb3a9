# by: neighbour
# exit: not 0
# prints: not one of the repositories
git clone https://github.com/owner/repo2.git
