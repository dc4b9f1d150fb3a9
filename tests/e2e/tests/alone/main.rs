//! Tests that load the machine, or measure time, memory or processor time. tests/run-e2e.sh runs their modules one after
//! the other, with nothing beside them.

mod big_transfers;
mod chaos;
mod clients;
mod fairness;
mod limits;
mod panic;
mod push_big;
