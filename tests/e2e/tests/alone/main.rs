//! Tests that load the machine, or measure time, memory or processor time. tests/run-e2e.sh runs their modules one after
//! the other, with nothing beside them.

mod big_transfers;
mod connections;
mod effects;
mod fairness;
mod h2;
mod limits;
mod push_big;
mod restart;
