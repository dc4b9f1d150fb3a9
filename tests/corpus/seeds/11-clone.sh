# by: owner
# exit: 0
# arrives: GET github.com/owner/repo1.git/info/refs
# arrives: POST github.com/owner/repo1.git/git-upload-pack
git clone https://github.com/owner/repo1.git
