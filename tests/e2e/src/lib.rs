//! Nothing here: the tests are in `tests/`, as modules of three binaries; the rig is the crate `test-support`. Run them by `tests/run-e2e.sh`.
